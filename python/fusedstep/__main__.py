"""``python -m fusedstep info | demo | compare | bench``: a command is imported only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ._extras import MissingExtraError

__all__ = ["main"]

# A command's module has main(arguments) -> exit status.
COMMANDS = {
    "info": ("fusedstep._info", "what was built, what this machine can run, what is active"),
    "demo": ("fusedstep.demo.command", "train a three-layer network on two data sets with four optimizers"),
    "compare": (
        "fusedstep.demo.compare",
        "compare optimizers and learning rates on your own data or a bundled set",
    ),
    "bench": ("fusedstep.bench", "microseconds and GB/s of every rule, beside NumPy and the streaming limit"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line after the program's name; ``sys.argv[1:]`` when not given.

    Returns
    -------
    int
        The exit status: 0; 1 when an optional package is missing or the command failed; 2 for wrong options
        or unusable data; 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="python -m fusedstep",
        description="Optimizer steps in one pass over memory, in place.",
        epilog="commands:\n" + "\n".join(f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="command", help="one of those below, with options of its own"
    )
    command: str = parser.parse_args(words[:1]).command
    try:
        run: Callable[[Sequence[str]], int] = import_module(COMMANDS[command][0]).main
        return run(words[1:])
    except MissingExtraError as error:
        print(f"{parser.prog} {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
