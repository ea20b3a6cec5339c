"""Tables for people: through rich where it is installed and a terminal is there, plain text otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["duration", "note", "read_json", "show", "size", "write_json"]


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


def _rich_tables() -> Any | None:
    if not sys.stdout.isatty():
        return None
    try:
        from rich import console, table
    except ImportError:
        return None
    return console.Console(), table.Table


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others figures (set to the right)."""
    if not rows:
        return
    fancy = _rich_tables()
    if fancy is not None:
        console, table_of = fancy
        table = table_of(title=title, title_justify="left")
        for place, name in enumerate(header):
            table.add_column(name, justify="left" if place < left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        done = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(done).rstrip()

    print(f"\n{title}")
    print(line(header))
    print(line(["-" * width for width in widths]))
    for row in rows:
        print(line(row))
    sys.stdout.flush()


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
