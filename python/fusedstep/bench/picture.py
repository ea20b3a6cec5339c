"""Pictures of measurements (matplotlib, imported only when one is drawn)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["bars", "colours", "curves", "figure", "finish"]

_OWN = "#c1121f"
_OTHERS = [
    "#1d6fa5",
    "#e09f3e",
    "#2a9d8f",
    "#7b5ea7",
    "#6c757d",
    "#b5838d",
    "#588157",
    "#3d405b",
    "#bc6c25",
    "#8ecae6",
    "#9a8c98",
    "#606c38",
]


def figure(width: float, height: float) -> tuple[Any, Any]:
    """Return an empty figure and its axes, in inches, for drawing without a screen."""
    try:
        import matplotlib
    except ImportError:
        raise SystemExit("a picture needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(width, height), constrained_layout=True)


def colours(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for each name; this package's own are shades of red, so they stand out."""
    own = [name for name in names if name.startswith("fusedstep")]
    shades = (_OWN, "#f28482", "#780000", "#ff9f9f")
    chosen = {name: shades[place % len(shades)] for place, name in enumerate(own)}
    rest = [name for name in names if name not in chosen]
    chosen.update({name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(rest)})
    return chosen


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
    drawn, axes = figure(9.0, 5.4)
    for name, colour in colours(list(lines)).items():
        points = sorted(lines[name])
        own = name.startswith("fusedstep")
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker="o",
            markersize=4.5 if own else 3.5,
            linewidth=2.4 if own else 1.4,
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
            label="streaming limit",
            zorder=5,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("elements")
    axes.set_ylabel("GB/s read and written by the step")
    axes.set_title(title, fontsize=11)
    axes.grid(True, which="major", alpha=0.35)
    axes.grid(True, which="minor", alpha=0.12)
    axes.legend(fontsize=8, ncols=2, loc="lower right")
    if caption:
        axes.text(0.01, 0.99, caption, transform=axes.transAxes, fontsize=7, va="top", color="#555555")
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
    drawn, axes = figure(max(7.0, 2.2 + 0.34 * sum(len(group) + 1 for group in groups.values())), 5.2)
    place = 0.0
    ticks: list[float] = []
    labelled: set[str] = set()
    for case, group in groups.items():
        first = place
        for name, value in sorted(group.items(), key=lambda item: item[1]):
            label = None if name in labelled else name
            labelled.add(name)
            axes.bar(place, value, width=0.9, color=chosen[name], label=label, zorder=3)
            text = f"{value:.3g}" if value < 1000 else f"{value:,.0f}"
            axes.text(place, value, text, ha="center", va="bottom", fontsize=6.5, rotation=90)
            place += 1.0
        ticks.append((first + place - 1.0) / 2)
        if limit and case in limit:
            shown = None if "streaming limit" in labelled else "streaming limit"
            labelled.add("streaming limit")
            axes.hlines(limit[case], first - 0.6, place - 0.4, color="black", linestyle="--", label=shown, zorder=5)
        place += 1.2
    axes.set_xticks(ticks, list(groups))
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.8)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=11)
    axes.grid(True, axis="y", alpha=0.3)
    axes.legend(fontsize=7.5, ncols=2, loc="upper left")
    if caption:
        drawn.text(0.995, 0.005, caption, fontsize=6.5, ha="right", color="#555555")
    finish(drawn, path)
