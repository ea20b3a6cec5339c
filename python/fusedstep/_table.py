"""Tables: one description, drawn by rich in a terminal and as aligned text elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.table
    from rich.box import Box

__all__ = ["Table", "fixed"]

NARROWEST = 12  # what a column of words may be folded to, in characters


def fixed(value: float, digits: int) -> str:
    """A figure with so many digits after the point, and a short one where that would be a long number.

    Examples
    --------
    >>> fixed(0.12345, 3), fixed(1e30, 3), fixed(float("inf"), 3)
    ('0.123', '1e+30', 'inf')
    """
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.3g}"


@dataclass
class Table:
    """Rows of text under headings.

    Attributes
    ----------
    headings : sequence of str
        Where one may be broken to save width it has a line break.
    sections : dict of str to list of row
        Rows that belong together under the name of their section; no name is shown for an empty one.
    caption : str
        What the figures mean, below the table.
    words : int
        How many of a row's first cells are words (set to the left); the others are figures.
    """

    title: str
    headings: Sequence[str]
    sections: dict[str, list[Sequence[str]]]
    caption: str = ""
    words: int = 1

    def _rows(self) -> Iterator[tuple[Sequence[str], bool]]:
        """All rows, names of sections among them, and whether a section ends there."""
        for name, rows in self.sections.items():
            if name:
                yield (name, *[""] * (len(self.headings) - 1)), False
            for at, row in enumerate(rows, start=1):
                yield ("  " * bool(name) + row[0], *row[1:]), at == len(rows)

    def text(self) -> str:
        """The table as aligned plain text.

        Examples
        --------
        >>> print(Table("Times", ("rule", "s"), {"small": [("adam", "1.25")], "large": [("adam", "9.5")]}).text())
        Times
        rule       s
        ------  ----
        small
          adam  1.25
        large
          adam   9.5
        """
        headings = [heading.replace("-\n", "-").replace("\n", " ") for heading in self.headings]
        rows = [row for row, _ in self._rows()]
        widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
        lines = [self.title]
        for row in (headings, ["-" * width for width in widths], *rows):
            cells = enumerate(zip(row, widths, strict=True))
            set_out = (cell.ljust(width) if at < self.words else cell.rjust(width) for at, (cell, width) in cells)
            lines.append("  ".join(set_out).rstrip())
        return "\n".join(lines + textwrap.wrap(self.caption, 100))

    def lines(self, width: int) -> str:
        """One figure a line, for terminals that are narrower than the table.

        Examples
        --------
        >>> print(Table("Times", ("rule", "s"), {"small": [("adam", "1.25")], "large": [("adam", "9.5")]}).lines(40))
        Times
        small, adam
          s: 1.25
        large, adam
          s: 9.5
        """
        lines = [self.title]
        headings = [heading.replace("-\n", "-").replace("\n", " ") for heading in self.headings]
        for name, rows in self.sections.items():
            for row in rows:
                lines.append(", ".join([name] * bool(name) + list(row[: self.words])))
                lines += [f"  {heading}: {cell}" for heading, cell in zip(headings, row, strict=True)][self.words :]
        wrapped = (textwrap.wrap(line, max(width, NARROWEST)) for line in (*lines, self.caption))
        return "\n".join(part for parts in wrapped for part in parts)

    def show(self, plain: bool) -> None:
        """Print it: as text, or in a terminal in the widest form that fits.

        With lines, closer together, as aligned text, or one figure a line.
        """
        if plain:
            print(self.text(), flush=True)
            return
        from rich import box
        from rich.console import Console
        from rich.measure import Measurement

        console = Console()
        wide, close = self._drawn(box.ROUNDED, padding=1), self._drawn(box.SIMPLE_HEAD, padding=0)
        needs = console.options.update(width=1000)
        spare = max(0, *(len(row[0]) - NARROWEST for row, _ in self._rows()))  # what folded words save
        if Measurement.get(console, needs, wide).maximum <= console.width:
            console.print(wide)
        elif Measurement.get(console, needs, close).maximum - spare <= console.width:
            console.print(close)
        else:  # rich would cut figures off
            text = self.text()
            fits = max(map(len, text.splitlines())) <= console.width
            print(text if fits else self.lines(console.width), flush=True)

    def _drawn(self, lines: Box, padding: int) -> rich.table.Table:
        from rich.table import Table as RichTable

        drawn = RichTable(
            title=self.title,
            caption=self.caption or None,
            box=lines,
            padding=(0, padding),
            show_edge=padding > 0,
            title_style="bold",
            caption_justify="left",
        )
        for at, heading in enumerate(self.headings):
            figures = at >= self.words
            drawn.add_column(
                heading,
                justify="right" if figures else "left",
                style="" if at else "bold",
                overflow="fold",
                no_wrap=figures,
            )
        for row, last in self._rows():
            drawn.add_row(*row, end_section=last)
        return drawn
