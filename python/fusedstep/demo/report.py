"""Tables: one description, drawn by rich in a terminal and as aligned text elsewhere."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .train import Run

if TYPE_CHECKING:
    import rich.table
    from rich.box import Box


@dataclass
class Table:
    """Rows of text under headings.

    Attributes
    ----------
    headings : sequence of str
        Where one may be broken to save width it has a line break.
    sections : dict of str to list of row
        Rows that belong together under the name of their section; no name is shown for an empty one. The first
        cell of a row is words, the others are figures.
    caption : str
        What the figures mean, below the table.
    """

    title: str
    headings: Sequence[str]
    sections: dict[str, list[Sequence[str]]]
    caption: str = ""

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
            figures = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
            lines.append("  ".join((row[0].ljust(widths[0]), *figures)).rstrip())
        return "\n".join(lines + textwrap.wrap(self.caption, 100))

    def show(self, plain: bool) -> None:
        """Print it: in a terminal with lines, and closer together where those would not fit."""
        if plain:
            print(self.text(), flush=True)
            return
        from rich import box
        from rich.console import Console
        from rich.measure import Measurement

        console = Console()
        drawn = self._drawn(box.ROUNDED, padding=1)
        if Measurement.get(console, console.options.update(width=1000), drawn).maximum > console.width:
            drawn = self._drawn(box.SIMPLE_HEAD, padding=0)
        console.print(drawn)

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
            drawn.add_column(heading, justify="right" if at else "left", style="" if at else "bold")
        for row, last in self._rows():
            drawn.add_row(*row, end_section=last)
        return drawn


def demo_table(runs: Sequence[Run]) -> Table:
    """The table of the demo: one row per run, one section per data set."""
    table = Table(
        "Training a three-layer network, steps by fusedstep",
        (
            "optimizer",
            "learning\nrate",
            "final\nloss",
            "test\naccuracy",
            "seconds\nin step",
            "seconds\nin all",
            "share\nin step",
            "speed-\nup",
            "same\nbits",
        ),
        {},
        "final loss: training cost, mean of the last epoch. speed-up: the median step of the NumPy reference over "
        "the median step, taken in turn; the reference is written to be read and checks every call, which takes "
        "most of its time on the small moons network. same bits: parameters of both are equal, byte for byte, "
        "after the last step.",
    )
    for run in runs:
        table.sections.setdefault(run.dataset.name, []).append(_row(run))
    return table


def _row(run: Run) -> Sequence[str]:
    stopped = "" if run.complete else f" (stopped after {len(run.costs)} of {run.epochs})"
    return (
        run.choice.label + stopped,
        f"{run.choice.lr:g}",
        f"{run.costs[-1]:.4f}",
        f"{100 * run.accuracies[-1]:.1f} %",
        f"{run.seconds_step:.3f}",
        f"{run.seconds_all:.2f}",
        f"{100 * run.share_in_step:.1f} %",
        f"{run.speed_up:.1f}x",
        "yes" if run.same_bits else "NO",
    )
