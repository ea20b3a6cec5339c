"""Tables, notes and files of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .._table import Table

__all__ = ["duration", "note", "read_json", "show", "show_sections", "size", "write_json"]


def duration(seconds: float) -> str:
    """Return ``seconds`` as microseconds with three figures or more.

    Examples
    --------
    >>> duration(1.2345e-6), duration(98.76e-6), duration(0.0123456)
    ('1.23', '98.8', '12,346')
    """
    micro = 1e6 * seconds
    if micro < 10:
        return f"{micro:.2f}"
    return f"{micro:.1f}" if micro < 1000 else f"{micro:,.0f}"


def size(elements: int) -> str:
    """Return a number of elements in short.

    Examples
    --------
    >>> size(1000), size(100_000_000), size(10_575)
    ('1e3', '1e8', '10,575')
    """
    text = str(elements)
    if elements >= 1000 and text.strip("0") == text[0]:
        return f"{text[0]}e{len(text) - 1}"
    return f"{elements:,}"


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others figures (set to the right)."""
    show_sections(title, header, {"": list(rows)}, left=left)


def show_sections(
    title: str, header: Sequence[str], sections: dict[str, list[Sequence[str]]], *, left: int = 1
) -> None:
    """Print a table whose rows belong together under names, if there is any row."""
    if any(sections.values()):
        print()
        Table(title, header, sections, words=left).show(not sys.stdout.isatty() or find_spec("rich") is None)


def note(text: str) -> None:
    """Print a line about progress to standard error."""
    print(text, file=sys.stderr, flush=True)


def write_json(path: str | Path, document: dict[str, Any]) -> None:
    """Write ``document`` to ``path``, creating its folder."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Return the document that :func:`write_json` wrote."""
    document = json.loads(Path(path).read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}, not the results of a benchmark")
    return document
