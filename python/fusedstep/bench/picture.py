"""Pictures of measurements (matplotlib, imported only when one is drawn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from ..demo import style

__all__ = ["bars", "colours", "curves", "figure", "finish"]

LIMIT = "streaming the same bytes"
GAP = 3.0  # points between a number and what is below it
_SHADES = ("#c1121f", "#f28482", "#780000", "#ff9f9f")  # of this package's ways to store


def figure(width: float, height: float) -> tuple[Any, Any]:
    """Return an empty figure and its axes, in inches, for drawing without a screen."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("a picture needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    style.use()
    return pyplot.subplots(figsize=(width, height))


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name, the same in every picture.

    That is the library's, or the optimizer's for ``fusedstep adam``; what else is this package's own gets shades of
    red, so it stands out.
    """
    chosen: dict[str, str] = {}
    shades = cycle(_SHADES)
    for name in names:
        library, _, what = name.partition(" ")
        if library in ("fusedstep", "reference") and what.lower() in map(str.lower, style.OPTIMIZERS):
            chosen[name] = str(style.own_colour(what))
        elif library == "fusedstep":
            chosen[name] = next(shades)
    chosen |= style.colours(name for name in names if name not in chosen)
    return {name: chosen[name] for name in names}


def finish(drawn: Any, path: str | Path) -> None:
    """Write the figure to ``path``, creating its folder."""
    from matplotlib import pyplot

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=140)
    pyplot.close(drawn)


def curves(
    path: str | Path,
    title: str,
    lines: Mapping[str, Sequence[tuple[int, float]]],
    limit: Sequence[tuple[int, float]] = (),
    *,
    caption: str = "",
) -> None:
    """Draw GB/s over size, one line per name, and the streaming limit as a dashed black line.

    Parameters
    ----------
    path : path
        The PNG to write.
    lines : mapping of str to sequence of (elements, GB/s)
        One line each.
    limit : sequence of (elements, GB/s)
        The pass that only reads and writes the same arrays.
    """
    drawn, axes = figure(10.2, 5.4)
    for name, colour in colours(list(lines)).items():
        points = sorted(lines[name])
        own = name.startswith("fusedstep")
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            markersize=4.5 if own else 3.5,
            linewidth=2.4 if own else 1.4,
            linestyle="--" if name.startswith("reference ") else "-",
            color=colour,
            label=name,
            zorder=4 if own else 3,
        )
    if limit:
        points = sorted(limit)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color="black",
            linestyle="--",
            linewidth=1.6,
            label=LIMIT,
            zorder=5,
        )
    style.plain_log(axes)
    axes.set_xscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("GB/s read and written by the step")
    axes.set_title(title)
    drawn.legend(fontsize=8, loc="outside right upper")
    _caption(drawn, caption)
    finish(drawn, path)


def bars(
    path: str | Path,
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    *,
    unit: str = "ms a step",
    limit: Mapping[str, float] | None = None,
    caption: str = "",
) -> None:
    """Draw a bar chart: one group of bars per case, one bar per name, the limit as a dashed line across its
    group.

    Parameters
    ----------
    groups : mapping of case to mapping of name to value
        Lower is better; a name may be absent from a case.
    limit : mapping of case to value, optional
        The streaming limit of each case, in the same unit.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    chosen = colours(names)
    drawn, axes = figure(max(8.0, 3.6 + 0.34 * sum(len(group) + 1 for group in groups.values())), 5.2)
    place = 0.0
    ticks: list[float] = []
    labelled: set[str] = set()
    numbers: list[tuple[Any, float | None]] = []
    for case, group in groups.items():
        first = place
        for name, value in sorted(group.items(), key=lambda item: item[1]):
            label = None if name in labelled else name
            labelled.add(name)
            axes.bar(place, value, width=0.9, color=chosen[name], label=label, zorder=3)
            number = axes.annotate(
                f"{value:.3g}" if value < 1000 else f"{value:,.0f}",
                (place, value),
                (0, GAP),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7,
                rotation=90,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},  # covers the grid
            )
            numbers.append((number, (limit or {}).get(case)))
            place += 1.0
        ticks.append((first + place - 1.0) / 2)
        if limit and case in limit:
            shown = None if LIMIT in labelled else LIMIT
            labelled.add(LIMIT)
            axes.hlines(limit[case], first - 0.6, place - 0.4, color="black", linestyle="--", label=shown, zorder=5)
        place += 1.2
    axes.set_xticks(ticks, list(groups))
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.12)  # room for the number on the highest bar
    style.plain_log(axes)
    axes.set_ylabel(unit)
    axes.set_title(title)
    axes.grid(False, axis="x")
    drawn.legend(fontsize=8, loc="outside right upper")
    _caption(drawn, caption)
    _lift(drawn, axes, numbers)
    finish(drawn, path)


def _lift(drawn: Any, axes: Any, numbers: Sequence[tuple[Any, float | None]]) -> None:
    """Move every number that the dashed line of its group touches to above that line."""
    drawn.canvas.draw()  # the layout decides how many pixels a value is high
    gap = GAP * drawn.dpi / 72
    for number, line in numbers:
        if line is None:
            continue
        extent, height = number.get_window_extent(), axes.transData.transform((1.0, line))[1]
        if extent.y0 - gap < height < extent.y1 + gap:
            number.xy = (number.xy[0], line)


def _caption(drawn: Any, caption: str) -> None:
    """Write what was measured on below everything, where it covers nothing."""
    if caption:
        drawn.supxlabel(caption, x=0.995, ha="right", fontsize=7.5, color=style.FAINT)
