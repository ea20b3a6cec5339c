"""Draw every schedule of the package: ``python docs/plot_schedules.py [FILE]``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from fusedstep import schedules as s
from fusedstep.demo import style

STEPS = 200


def plateau() -> list[float]:
    """Values over a training whose metric stands still from step 40 to 60 and from 120 to 180."""
    schedule = s.reduce_on_plateau(0.1, factor=0.4, patience=8)
    values = []
    for t in range(STEPS):
        values.append(schedule(t))
        schedule.update(math.exp(-0.1 * (min(t, 40) + min(max(t - 60, 0), 60) + max(t - 180, 0))))
    return values


CURVES: dict[str, list[tuple[str, s.Schedule | list[float]]]] = {
    "Formulas in epochs (20 steps each)": [
        ("inverse_time_decay(0.1, 1.0)", s.inverse_time_decay(0.1, 1.0, steps_per_epoch=20)),
        ("exponential_decay(0.1, 0.8)", s.exponential_decay(0.1, 0.8, steps_per_epoch=20)),
        ("inverse_sqrt_decay(0.1)", s.inverse_sqrt_decay(0.1, steps_per_epoch=20)),
    ],
    "The same, whole_epochs=False": [
        ("inverse_time_decay", s.inverse_time_decay(0.1, 1.0, steps_per_epoch=20, whole_epochs=False)),
        ("exponential_decay", s.exponential_decay(0.1, 0.8, steps_per_epoch=20, whole_epochs=False)),
        ("inverse_sqrt_decay", s.inverse_sqrt_decay(0.1, steps_per_epoch=20, whole_epochs=False)),
    ],
    "In stairs": [
        ("staircase(0.1, every=50, factor=0.5)", s.staircase(0.1, every=50, factor=0.5)),
        ("piecewise([30, 90], [0.03, 0.06, 0.01])", s.piecewise([30, 90], [0.03, 0.06, 0.01])),
        ("reduce_on_plateau(0.1, 0.4, patience=8)", plateau()),
    ],
    "Over a known number of steps": [
        ("cosine(0.1, 200)", s.cosine(0.1, STEPS)),
        ("one_cycle(0.1, 200)", s.one_cycle(0.1, STEPS)),
        ("join([linear_warmup, cosine], [40])", s.join([s.linear_warmup(0.1, 40), s.cosine(0.1, 160)], [40])),
    ],
    "Warm-up, level, decay": [
        ("warmup_stable_decay(0.08, 20, 100, 80)", s.warmup_stable_decay(0.08, 20, 100, 80)),
        ('the same, shape="linear"', s.warmup_stable_decay(0.08, 20, 100, 80, shape="linear")),
        ("polynomial(0.08, 200, power=2)", s.polynomial(0.08, STEPS, power=2.0)),
    ],
    "Again and again": [
        ("cosine_restarts(0.08, 50)", s.cosine_restarts(0.08, 50)),
        ("cosine_restarts(0.08, 28, 2, factor=0.7)", s.cosine_restarts(0.08, 28, 2, factor=0.7)),
        ('cyclic(0.01, 0.08, 25, mode="triangular2")', s.cyclic(0.01, 0.08, 25, mode="triangular2")),
    ],
}


def main(target: Path) -> None:
    """Draw the panels."""
    style.use()
    figure, panels = plt.subplots(3, 2, figsize=(11, 9.6), sharex=True, sharey=True)
    for panel, (title, curves) in zip(panels.flat, CURVES.items(), strict=True):
        for (label, curve), colour in zip(curves, ("#2f7ebc", "#c8324f", "#4b9f6b"), strict=True):
            values = curve if isinstance(curve, list) else [curve(t) for t in range(STEPS)]
            panel.plot(values, label=label, drawstyle="steps-post", linewidth=1.8, color=colour)
        panel.set_title(title)
        panel.legend(loc="upper right")
        panel.set_ylim(-0.004, 0.112)
    figure.supxlabel("t, steps completed")
    figure.supylabel("learning rate")
    figure.savefig(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img" / "schedules.png")
