"""How every command ends after Ctrl-C: results so far, one line, one exit status."""

from __future__ import annotations

import sys

__all__ = ["interrupted"]


def interrupted(program: str, results: str = "") -> int:
    """Print to standard error that a program was interrupted; return its exit status, 130.

    Parameters
    ----------
    program : str
        How the program was started.
    results : str
        Which results there are.
    """
    sys.stdout.flush()
    print(f"{program}: interrupted{results and '; '}{results}", file=sys.stderr, flush=True)
    return 130  # what a shell reports for SIGINT: 128 + 2
