"""``fusedstep info``: what was built, what this machine can run, what is active."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence

import numpy as np

from . import _core

__all__ = ["info", "main"]


def info() -> dict[str, str]:
    """The facts as text, in the order to read them.

    Examples
    --------
    >>> list(info())[:2]
    ['fusedstep', 'compiler']
    """
    build = _core.build_info()
    threads, source = _core.get_num_threads(), ""
    default, origin = _core.thread_default()
    source = origin if threads == default else f"set_num_threads; by default {default}, {origin}"
    teams = "; ".join(f"{name}: {what}" for name, what in build["threading"].items())
    return {
        "fusedstep": str(build["version"]),
        "compiler": str(build["compiler"]),
        "processor": platform.machine(),
        "built for": ", ".join(f"{name} ({about})" for name, about, _ in build["isas"]),
        "supported here": ", ".join(_core.available_isas()),
        "active": _core.isa(),
        "threads": f"{threads} ({source})",
        "threading": f"{_core.get_threading()} ({teams})",
        "NumPy": np.__version__,
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
    }


def main(arguments: Sequence[str] | None = None, program: str = "fusedstep info") -> int:
    """Print the facts, one per line."""
    argparse.ArgumentParser(
        prog=program, description="Show what was built, what this machine can run, what is active."
    ).parse_args(arguments)
    facts = info()
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0
