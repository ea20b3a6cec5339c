"""The table of the demo."""

from __future__ import annotations

from collections.abc import Sequence

from .._table import Table, fixed
from .train import Run


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
        "after the last step. A dash: Muon with a norm or a skip of the whole model, which the reference of one rule "
        "cannot know.",
    )
    for run in runs:
        table.sections.setdefault(run.dataset.name, []).append(_row(run))
    return table


def _row(run: Run) -> Sequence[str]:
    stopped = "" if run.complete else f" (stopped after {len(run.costs)} of {run.epochs})"
    return (
        run.choice.label + stopped,
        f"{run.choice.lr:g}",
        fixed(run.costs[-1], 4),
        f"{100 * run.accuracies[-1]:.1f} %",
        f"{run.seconds_step:.3f}",
        f"{run.seconds_all:.2f}",
        f"{100 * run.share_in_step:.1f} %",
        "-" if run.same_bits is None else f"{run.speed_up:.1f}x",
        {None: "-", True: "yes", False: "NO"}[run.same_bits],
    )
