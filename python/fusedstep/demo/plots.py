"""The picture of the demo, and what both pictures share: style, colours, labels at the ends of curves.

Figures are drawn without pyplot, so no window system and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from .train import Run, by_choice

# Told apart also by people who do not see red and green alike, and by lightness on a grey print.
_RULES = {"SGD": "#8a9099", "Momentum": "#2f7ebc", "RMSprop": "#e39b1d", "Adam": "#c8324f"}
_OTHERS = (
    "#4b9f6b",
    "#7a5ea8",
    "#8c564b",
    "#17a2b8",
    "#d573b0",
    "#3d4a5c",
    "#a3b12a",
    "#f08a5d",
    "#5c6bc0",
    "#00897b",
)
_CLASSES = ("#6a51a3", "#1b8a6b")
_SURFACE = LinearSegmentedColormap.from_list("surface", ["#c9bfe3", "#ece8f4", "#fcfcfa", "#e3f1ec", "#b3dccd"])
_INK, _FAINT = "#22262b", "#6d747d"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.5,
    "axes.edgecolor": "#b7bcc3",
    "axes.labelcolor": _FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlecolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef0",
    "text.color": _INK,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


def colours(runs: Iterable[Run]) -> dict[str, str]:
    """A colour for every label: the rule's own if it has one that is not taken yet, else another."""
    chosen: dict[str, str] = {}
    others = cycle(_OTHERS)
    for label, group in by_choice(runs).items():
        own = _RULES.get(group[0].choice.rule.__name__)
        chosen[label] = own if own and own not in chosen.values() else next(others)
    return chosen


def layout() -> ConstrainedLayoutEngine:
    """The spacing of both pictures, in inches and shares of the figure."""
    return ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.10, hspace=0.03, wspace=0.02)


def demo_figure(runs: Sequence[Run], path: Path) -> None:
    """Write the picture of the demo: cost curves, microseconds per step, decision boundaries on the moons.

    Parameters
    ----------
    runs : sequence of Run
        At least one; unfinished ones are drawn as far as they went.
    path : Path
        Of the PNG.
    """
    names = list(dict.fromkeys(run.dataset.name for run in runs))
    colour = colours(runs)
    flat = [run for run in runs if run.dataset.features == 2]
    columns = min(4, max(2, len(flat)))
    rows = -(-len(flat) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(16, 5.0 + 3.9 * rows), dpi=150, facecolor="white", layout=layout())
        figure.suptitle(
            "One network, one step at a time: what the optimizer changes",
            x=0.012,
            ha="left",
            fontsize=17,
            weight="bold",
        )
        grid = figure.add_gridspec(1 + rows, 1, height_ratios=[1.25] + [1.0] * rows)
        above = grid[0].subgridspec(1, len(names) + 1, width_ratios=[1.0] * len(names) + [0.75])
        for at, name in enumerate(names):
            _costs(figure.add_subplot(above[at]), [run for run in runs if run.dataset.name == name], colour)
        largest = max(runs, key=lambda run: run.network.count).dataset.name
        _speeds(figure.add_subplot(above[-1]), [run for run in runs if run.dataset.name == largest], colour)
        for row in range(rows):
            below = grid[1 + row].subgridspec(1, columns)
            for at, run in enumerate(flat[row * columns : (row + 1) * columns]):
                _boundary(figure.add_subplot(below[at]), run, colour[run.choice.label])
        if flat:
            figure.supxlabel(
                "Moons: the line is where the network is undecided, the shade how sure it is. "
                "Faint dots: training examples; large dots: test examples, "
                "ringed in red where they lie on the wrong side.",
                x=0.012, ha="left", fontsize=9.5, color=_FAINT,
            )  # fmt: skip
        figure.savefig(path)


def _costs(axes: Axes, runs: Sequence[Run], colour: dict[str, str]) -> None:
    data = runs[0].dataset
    layers = " - ".join(map(str, runs[0].network.sizes))
    counts = f"{data.y_train.size:,} examples, layers {layers}, {runs[0].network.count:,} parameters"
    _subtitle(axes, f"Training cost on the {data.name}", counts)
    for run in runs:
        epochs = np.arange(1, len(run.costs) + 1)
        axes.plot(epochs, run.costs, color=colour[run.choice.label], lw=2.2)
    axes.set_yscale("log")
    plain_log(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cost (mean cross-entropy)")
    axes.set_xlim(1, max(2, max(len(run.costs) for run in runs)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    end_labels(axes, [(len(run.costs), run.costs[-1], run.choice.label, colour[run.choice.label]) for run in runs])


def _subtitle(axes: Axes, title: str, text: str) -> None:
    axes.set_title(title, pad=24)
    axes.text(0, 1.025, text, transform=axes.transAxes, fontsize=9.5, color=_FAINT, va="bottom")


def _speeds(axes: Axes, runs: Sequence[Run], colour: dict[str, str]) -> None:
    """Microseconds per step of the package and of its NumPy reference, taken in turn in the same training."""
    _subtitle(axes, f"One step on the {runs[0].dataset.name}", "full: fusedstep, hollow: its NumPy reference")
    for row, run in enumerate(runs):
        shade, label = colour[run.choice.label], run.choice.label
        fast, slow = run.microseconds
        axes.plot([fast, slow], [row, row], color=shade, lw=2.4, alpha=0.45, zorder=2)
        axes.plot(fast, row, "o", color=shade, ms=10, zorder=3)
        axes.plot(slow, row, "o", color="white", mec=shade, mew=2.2, ms=9, zorder=3)
        middle, text = (fast * slow) ** 0.5, f"{label}: {run.speed_up:.0f}x faster"
        axes.annotate(text, (middle, row), (0, 9), textcoords="offset points", ha="center", color=shade, weight="bold")
    axes.set_xscale("log")
    axes.set_ylim(len(runs) - 0.5, -0.7)
    axes.set_yticks([])
    axes.margins(x=0.15)
    plain_log(axes, "x")
    axes.set_xlabel("microseconds, median")


def plain_log(axes: Axes, which: Literal["x", "y"] = "y") -> None:
    """Ticks of a logarithmic axis as plain numbers, enough of them also when it spans less than a decade."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    steps = (1, 2, 5) if high / low < 300 else (1,)
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    axis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axis.set_major_formatter(FuncFormatter(number))
    axis.set_minor_locator(NullLocator())


def number(value: float, _: object = None) -> str:
    return f"{value:g}" if value >= 1e-4 else f"$10^{{{round(np.log10(value))}}}$"


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.062) -> None:
    """Write every label to the right of the axes where its curve ends, moved apart where curves meet."""
    axes.get_xlim(), axes.get_ylim()  # the limits are brought up to date only when asked for
    to_axes = axes.transAxes.inverted()
    heights = [float(to_axes.transform(axes.transData.transform((x, y)))[1]) for x, y, _, _ in ends]
    order = np.argsort(heights)
    placed = spread([heights[at] for at in order], gap)
    for at, height in zip(order, placed, strict=True):
        _, _, label, colour = ends[at]
        axes.annotate(
            label, (1, heights[at]), (1.045, height), xycoords="axes fraction", textcoords="axes fraction",
            color=colour, weight="bold", va="center", fontsize=10.5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9, "shrinkA": 1, "shrinkB": 1},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> NDArray[np.float64]:
    """Move ascending `heights` as little as possible (least squares) to put neighbours at least `gap` apart.

    With ``gap`` taken off step by step this is isotonic regression, solved by pooling neighbours that are out
    of order.
    """
    pools: list[list[float]] = []
    for at, height in enumerate(heights):
        pools.append([height - at * gap, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            value, weight = pools.pop()
            total = pools[-1][1] + weight
            pools[-1] = [(pools[-1][0] * pools[-1][1] + value * weight) / total, total]
    flat = np.repeat([value for value, _ in pools], [int(weight) for _, weight in pools])
    # Inside the axes as far as there is room.
    flat = np.clip(flat, 0.02, max(0.02, 0.98 - gap * (len(heights) - 1)))
    spread: NDArray[np.float64] = flat + gap * np.arange(len(heights))
    return spread


def _boundary(axes: Axes, run: Run, colour: str) -> None:
    data, network = run.dataset, run.network
    low, high = data.x_train.min(axis=1) - 0.35, data.x_train.max(axis=1) + 0.35
    xs, ys = np.linspace(low[0], high[0], 300), np.linspace(low[1], high[1], 300)
    points = np.stack([axis.ravel() for axis in np.meshgrid(xs, ys)]).astype(network.dtype)
    chance = network.probabilities(points)[0].reshape(ys.size, xs.size)
    axes.imshow(
        chance, cmap=_SURFACE, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="bilinear",
        extent=(float(low[0]), float(high[0]), float(low[1]), float(high[1])),
    )  # fmt: skip
    axes.contour(xs, ys, chance, levels=[0.5], colors=[_INK], linewidths=1.8)
    for value, shade in enumerate(_CLASSES):
        chosen = data.x_train[:, data.y_train == value]
        axes.scatter(chosen[0], chosen[1], s=9, color=shade, alpha=0.35, linewidths=0)
        chosen = data.x_test[:, data.y_test == value]
        axes.scatter(chosen[0], chosen[1], s=20, color=shade, edgecolors="white", linewidths=0.6)
    wrong = data.x_test[:, network.predict(data.x_test) != data.y_test]
    axes.scatter(wrong[0], wrong[1], s=75, facecolors="none", edgecolors="#d01c3b", linewidths=1.4)
    axes.set_title(run.choice.label, color=colour)
    axes.set_title(f"{100 * run.accuracies[-1]:.1f} % right", loc="right", fontsize=10.5, weight="normal", color=_INK)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
