"""The picture of ``compare``: validation curves, and accuracy over training time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from . import style
from .plots import drawable, end_labels, layout, rate
from .train import Run, by_choice

USUAL = 3e-4, 3e-3  # around 1e-3, where a step changes the weights by a thousandth


def compare_figure(runs: Sequence[Run], network: str, path: Path) -> None:
    """Write the picture of a comparison: validation accuracy and loss per epoch, final accuracy over time.

    Lines are means over the seeds, bands reach from the lowest to the highest.
    """
    groups = by_choice(runs)
    colour = style.colours(groups)
    with rc_context(style.RC), np.errstate(all="ignore"):
        figure = Figure(figsize=(16, max(5.4, 0.36 * len(groups))), dpi=150, facecolor="white", layout=layout())
        name, seeds = runs[0].dataset.name, max(map(len, groups.values()))
        figure.suptitle(
            f"Optimizers on {name}: {network}, {runs[0].epochs} epochs, {seeds} seed{'s' * (seeds > 1)}",
            x=0.012,
            ha="left",
            fontsize=16,
            weight="bold",
        )
        left, middle, right = figure.subplots(1, 3)
        for label, group in groups.items():
            _band(left, np.array([run.accuracies for run in group]) * 100, colour[label])
            _band(middle, np.array([run.losses for run in group]), colour[label])
            seconds, final = [run.seconds_all for run in group], [100 * run.accuracies[-1] for run in group]
            right.plot(seconds, final, "o", color=colour[label], ms=5, alpha=0.4, mew=0)
            right.plot(np.mean(seconds), np.mean(final), "o", color=colour[label], ms=11, mec="white", mew=1.2)
        for axes in (left, right):
            style.by_error(axes, 50 / runs[0].dataset.y_test.size)
        left.set_title("Validation accuracy, %")
        middle.set_title("Validation loss")
        style.plain_log(middle)
        right.set_title("Accuracy and training time")
        right.set_xlabel("seconds of training")
        for axes in (left, middle):
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axes, series in ((left, "accuracies"), (middle, "losses")):
            scale = 100 if series == "accuracies" else 1
            ends = {
                label: float(np.mean([getattr(run, series)[-1] for run in group])) * scale
                for label, group in groups.items()
            }
            end_labels(
                axes,
                [(runs[0].epochs, end, rate(label, groups[label][0]), colour[label]) for label, end in ends.items()],
            )
        figure.savefig(path, dpi=150)


def ratio_figure(runs: Sequence[Run], network: str, path: Path) -> None:
    """Write the picture of watched runs: the size of the update to that of the weights, a panel for each layer.

    Lines are means over the seeds of the last watched step of each epoch; the band is where ratios usually are.
    """
    groups = by_choice(runs)
    colour, layers = style.colours(groups), list(runs[0].ratios[0])
    with rc_context(style.RC), np.errstate(all="ignore"):
        figure = Figure(figsize=(5.4 * len(layers), max(5.4, 0.36 * len(groups))), dpi=150, facecolor="white",
                        layout=layout())  # fmt: skip
        title = f"Update to weights on {runs[0].dataset.name}: {network}"
        figure.suptitle(title, x=0.012, ha="left", fontsize=16, weight="bold")
        panels = np.atleast_1d(figure.subplots(1, len(layers), sharey=True))
        for axes, layer in zip(panels, layers, strict=True):
            axes.set_yscale("log")
            axes.axhspan(*USUAL, color="0.5", alpha=0.12, lw=0)
            ends = []
            for label, group in groups.items():
                ratios = np.array([[epoch[layer] for epoch in run.ratios] for run in group])
                _band(axes, ratios, colour[label])
                ends.append((runs[0].epochs, float(np.mean(ratios[:, -1])), rate(label, group[0]), colour[label]))
            end_labels(axes, ends if axes is panels[-1] else [])
            axes.set_title(f"Layer {layer}")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        figure.savefig(path, dpi=150)


def _band(axes: Axes, values: NDArray[np.float64], colour: str) -> None:
    epochs, values = np.arange(1, values.shape[1] + 1), drawable(values)
    axes.plot(epochs, values.mean(axis=0), color=colour, lw=2.2, marker="o", ms=3.5)
    if len(values) > 1:
        axes.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.13, lw=0)
