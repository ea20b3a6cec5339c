"""Command-line options that ``demo`` and ``compare`` share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from .choices import Choice, ChoiceError, parse


def count(text: str, most: int = 2**63 - 1) -> int:
    """A whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at least 1")
    if value > most:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at most {most}")
    return value


def natural(text: str) -> int:
    """A whole number of at least zero."""
    try:
        value = int(text)
    except ValueError:
        value = -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at least 0")
    return value


def optimizer(text: str) -> Choice:
    """An optimizer as a person names it."""
    try:
        return parse(text)
    except ChoiceError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def folder(text: str) -> Path:
    """A folder to write into, made if it is absent: an unusable one is better named before the training."""
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # the latter for a null character
        reason = "it is a file" if isinstance(error, FileExistsError) else getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a folder that can be made: {reason}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a folder that can be written")
    return path


def add_common(parser: argparse.ArgumentParser, *, epochs: int) -> None:
    """Add the options that both commands have."""
    parser.add_argument(
        "--epochs",
        type=count,
        default=epochs,
        metavar="N",
        help="passes over the training data (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=count, default=64, metavar="N", help="examples per step (default: %(default)s)"
    )
    parser.add_argument(
        "--optimizer", type=optimizer, action="append", metavar="NAME[:OPTION=VALUE,...]", dest="optimizers",
        help="such as adam or sgd:lr=0.1,momentum=0.9; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--output",
        type=folder,
        default="demo-output",
        metavar="FOLDER",
        help="folder of the results (default: %(default)s)",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show the ratio of the update to the weights of every layer",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="plain text without bars and colours (default: where there is no terminal)",
    )
    parser.add_argument("--quiet", action="store_true", help="show the results alone, no progress")
