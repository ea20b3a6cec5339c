"""Measurements of this package: what ``fusedstep bench`` runs.

Nothing here is imported by the rest of the package. The scripts under ``benchmarks/`` in the repository
build on the same pieces: alternating timings, arrays filled from one checkable tile, tables and pictures.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, program: str = "fusedstep bench") -> int:
    """Run the benchmark of the steps; see ``fusedstep bench --help``.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name; ``sys.argv[1:]`` when absent.
    program : str
        How the benchmark was started, for its messages.

    Returns
    -------
    int
        The exit status: 0, or 1 when a result was wrong (nothing wrong is ever timed).
    """
    from .cli import main as run

    return run(arguments, program)
