"""The picture of the demo, and what both pictures share: spacing and labels at the ends of curves.

Figures are drawn without pyplot, so no window system and no global state is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from . import style
from .network import Network
from .train import Run, by_choice


def rate(label: str, run: Run) -> str:
    """The label of a run's optimizer with its learning rate, without which no picture can be read."""
    return label if " lr=" in label else f"{label}, lr {run.choice.lr:g}"


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
    colour = style.colours(by_choice(runs))
    flat = [run for run in runs if run.dataset.features == 2]
    columns = min(4, max(2, len(flat)))
    rows = -(-len(flat) // columns)
    with rc_context(style.RC), np.errstate(all="ignore"):  # networks that diverged
        curves = max(5.0, 0.48 * len(colour))  # room for a line of text each
        figure = Figure(figsize=(16, curves + 3.9 * rows), dpi=150, facecolor="white", layout=layout())
        figure.suptitle(
            "One network, one step at a time: each optimizer at the learning rate beside its name",
            x=0.012,
            ha="left",
            fontsize=17,
            weight="bold",
        )
        grid = figure.add_gridspec(1 + rows, 1, height_ratios=[curves / 4] + [1.0] * rows)
        above = grid[0].subgridspec(1, len(names) + 1, width_ratios=[1.0] * len(names) + [0.9])
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
                x=0.012, ha="left", fontsize=9.5, color=style.FAINT,
            )  # fmt: skip
        figure.savefig(path, dpi=150)


def _costs(axes: Axes, runs: Sequence[Run], colour: dict[str, str]) -> None:
    data, network = runs[0].dataset, runs[0].network
    assert isinstance(network, Network)  # the demo's
    layers = " - ".join(map(str, network.sizes))
    counts = f"{data.y_train.size:,} examples, layers {layers}, {network.count:,} parameters"
    _subtitle(axes, f"Training cost on the {data.name}", counts)
    for run in runs:
        epochs = np.arange(1, len(run.costs) + 1)
        # a single epoch has no line
        marker = "o" if len(run.costs) == 1 else None
        axes.plot(
            epochs, drawable(run.costs), color=colour[run.choice.label], lw=2.2, marker=marker, clip_on=not marker
        )
    style.plain_log(axes)
    axes.set_xlabel("epoch")
    axes.set_ylabel("cost (mean cross-entropy)")
    last = max(len(run.costs) for run in runs)
    axes.set_xlim(min(1, last - 1), last)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    ends = [(len(run.costs), run.costs[-1], rate(run.choice.label, run), colour[run.choice.label]) for run in runs]
    end_labels(axes, ends)


def _subtitle(axes: Axes, title: str, text: str) -> None:
    axes.set_title(title, pad=24)
    axes.text(0, 1.025, text, transform=axes.transAxes, fontsize=9.5, color=style.FAINT, va="bottom")


def _speeds(axes: Axes, runs: Sequence[Run], colour: dict[str, str]) -> None:
    """Microseconds per step of the package and of its NumPy reference, taken in turn in the same training."""
    _subtitle(axes, f"One step on the {runs[0].dataset.name}", "full: fusedstep, hollow: its NumPy reference")
    for row, run in enumerate(runs):
        shade, label = colour[run.choice.label], run.choice.label
        fast, slow = run.microseconds
        axes.plot(fast, row, "o", color=shade, ms=10, zorder=3)
        middle, text = fast, label
        if run.same_bits is not None:
            axes.plot([fast, slow], [row, row], color=shade, lw=2.4, alpha=0.45, zorder=2)
            axes.plot(slow, row, "o", color="white", mec=shade, mew=2.2, ms=9, zorder=3)
            middle, text = (fast * slow) ** 0.5, f"{label}: {run.speed_up:.0f}x faster"
        axes.annotate(text, (middle, row), (0, 9), textcoords="offset points", ha="center", color=shade, weight="bold")
    axes.set_ylim(len(runs) - 0.5, -0.7)
    axes.set_yticks([])
    axes.margins(x=0.15)
    style.plain_log(axes, "x")
    axes.set_xlabel("microseconds, median")


def drawable(values: Any) -> NDArray[np.float64]:
    """The values as a curve: gaps where they are NaN, infinite, or so large that an axis cannot span them.

    A training that diverges gives such; what it reached before is still worth seeing.
    """
    curve = np.array(values, np.float64)
    curve[~(np.abs(curve) < 1e100)] = np.nan
    return curve


def end_labels(axes: Axes, ends: Sequence[tuple[float, float, str, str]], gap: float = 0.062) -> None:
    """Write every label to the right of the axes where its curve ends, moved apart where curves meet.

    A curve that has no end inside the axes is called diverged, at the top.
    """
    axes.get_xlim(), axes.get_ylim()  # the limits are brought up to date only when asked for
    to_axes = axes.transAxes.inverted()
    lost = [bool(np.isnan(drawable(y))) for _, y, _, _ in ends]
    heights = [
        1.0 if none else float(np.clip(to_axes.transform(axes.transData.transform((x, y)))[1], 0.0, 1.0))
        for (x, y, _, _), none in zip(ends, lost, strict=True)
    ]
    order = np.argsort(heights)
    placed = spread([heights[at] for at in order], min(gap, 0.96 / max(1, len(ends) - 1)))
    for at, height in zip(order, placed, strict=True):
        _, _, label, colour = ends[at]
        axes.annotate(
            f"{label} (diverged)" if lost[at] else label, (1, heights[at]), (1.045, height),
            xycoords="axes fraction", textcoords="axes fraction",
            color=colour, weight="bold", va="center", fontsize=10.5, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.9, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)},
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
    assert isinstance(network, Network)
    low, high = data.x_train.min(axis=1) - 0.35, data.x_train.max(axis=1) + 0.35
    xs, ys = np.linspace(low[0], high[0], 300), np.linspace(low[1], high[1], 300)
    points = np.stack([axis.ravel() for axis in np.meshgrid(xs, ys)]).astype(network.dtype)
    chance = network.probabilities(points)[0].reshape(ys.size, xs.size)
    axes.imshow(
        chance, cmap=style.surface(), vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="bilinear",
        extent=(float(low[0]), float(high[0]), float(low[1]), float(high[1])),
    )  # fmt: skip
    if chance.min() < 0.5 < chance.max():  # not where everything is of one class, or NaN
        axes.contour(xs, ys, chance, levels=[0.5], colors=[style.INK], linewidths=1.8)
    for value, shade in enumerate(style.CLASSES):
        chosen = data.x_train[:, data.y_train == value]
        axes.scatter(chosen[0], chosen[1], s=9, color=shade, alpha=0.35, linewidths=0)
        chosen = data.x_test[:, data.y_test == value]
        axes.scatter(chosen[0], chosen[1], s=20, color=shade, edgecolors="white", linewidths=0.6)
    wrong = data.x_test[:, network.predict(data.x_test) != data.y_test]
    axes.scatter(wrong[0], wrong[1], s=75, facecolors="none", edgecolors="#d01c3b", linewidths=1.4)
    axes.set_title(rate(run.choice.label, run), color=colour)
    right = f"{100 * run.accuracies[-1]:.1f} % right"
    axes.set_title(right, loc="right", fontsize=10.5, weight="normal", color=style.INK)
    axes.grid(False)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
