"""``fusedstep info | demo | compare | bench``: a command is imported only when it is asked for."""

from __future__ import annotations

import argparse
import codecs
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TextIO

from . import _core
from ._interrupted import interrupted
from ._version import __version__

__all__ = ["main"]

# A command's module has main(arguments, program) -> exit status.
COMMANDS = {
    "info": ("fusedstep._info", "what was built, what this machine can run, what is active"),
    "demo": ("fusedstep.demo.command", "train a three-layer network on two data sets with four optimizers"),
    "compare": (
        "fusedstep.demo.compare",
        "compare optimizers and learning rates on your own data or a bundled set",
    ),
    "bench": ("fusedstep.bench", "microseconds and GB/s of every rule, beside NumPy and the streaming limit"),
}

CTRL_C = "Ctrl-C ends a command with status 130, after it has shown and written the results it has."


def main(arguments: Sequence[str] | None = None, program: str = "fusedstep") -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line after the program's name; ``sys.argv[1:]`` when not given.
    program : str
        How the program was started, for its messages: the installed script by default.

    Returns
    -------
    int
        The exit status: 0; 1 when an optional package is missing or the command failed; 2 for wrong options,
        environment variables or data; 130 after Ctrl-C, when the results so far are shown and
        written; 141 when nobody reads the output any more (``| head``).
    """
    _print_anywhere()
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments), program)
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except BrokenPipeError:
        _drop(sys.stdout, sys.stderr)
        return 141
    except OSError as error:  # a full disk
        _drop(sys.stdout)
        print(f"{program}: {error}", file=sys.stderr)
        return 1


def _drop(*streams: TextIO) -> None:
    """Let what is left to write go nowhere: Python flushes once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        try:
            os.dup2(nowhere, stream.fileno())
        except OSError:  # not a file of the system's
            continue


def _print_anywhere() -> None:
    """Let every character be printed, whatever the terminal's encoding, and everything where there is no output."""
    codecs.register_error("fusedstep.spelt", _spelt)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the program ends)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="fusedstep.spelt")


def _spelt(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = {"±": "+-", "…": "..."}
    return "".join(letters.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


def _run(words: list[str], program: str) -> int:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog=program,
        description="Optimizer steps in one pass over memory, in place.",
        epilog="commands:\n"
        + "\n".join(f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items())
        + f"\n\n{CTRL_C}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="command", help="one of those below, with options of its own"
    )
    parser.add_argument("--version", action="version", version=__version__)
    command: str = parser.parse_args(words[:1]).command
    try:
        # They read FUSEDSTEP_ISA, FUSEDSTEP_NUM_THREADS and FUSEDSTEP_THREADING.
        _core.isa(), _core.get_num_threads(), _core.get_threading()
    except ValueError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    program = f"{program} {command}"
    try:
        run: Callable[[Sequence[str], str], int] = import_module(COMMANDS[command][0]).main
        return run(words[1:], program)
    except ImportError as error:  # MissingExtraError, or what an array of an absent package's dtype raises
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except (OSError, MemoryError) as error:  # a full disk, a file that cannot be written, too large a network
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return interrupted(program)


if __name__ == "__main__":
    sys.exit(main(program="python -m fusedstep"))
