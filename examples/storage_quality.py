"""Does a network train as well when its parameters and states are stored in fewer bytes?

Three networks are trained from the same weights on the same batches, once for every way of storing: float32, 8-bit
states, a bfloat16 parameter with the remainder that makes it a float32, a bfloat16 parameter rounded at random, and one
rounded to nearest. ``python examples/storage_quality.py`` prints the table of ``docs/quality.md`` and draws its
pictures; ``--quick`` trains shortly, to see that everything works.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import formats
from fusedstep._base import Options
from quality_tasks import TASKS, VARIANTS, Task, Variant, last, rising_and_falling

Array = NDArray[Any]

BETAS = (0.9, 0.999)
EVERY = 10
"""Steps between two measurements of the errors of the states."""


@dataclass
class Run:
    """What one training left behind."""

    losses: list[float] = field(default_factory=list)  # of every step's batch, before the step
    errors: list[tuple[int, float, float]] = field(default_factory=list)  # step, error of first and second moment
    moved: float = 0.0  # share of the stored weights that the last steps changed

    @property
    def final(self) -> float:
        """Mean loss of the last steps."""
        return float(np.mean(self.losses[-last(len(self.losses)) :]))


Runs = dict[str, dict[str, list[Run]]]
"""By task and variant, one run per seed."""


class ExactMoments:
    """The moments of Adam in float32, from the gradients that the optimizer saw."""

    def __init__(self, params: list[Array], smallest: int) -> None:
        self.smallest = smallest
        self.moments = [tuple(np.zeros(p.shape, np.float32) for _ in BETAS) for p in params]

    def update(self, grads: list[Array]) -> None:
        for (m, v), grad in zip(self.moments, grads, strict=True):
            g = grad.astype(np.float32)
            m += np.float32(1 - BETAS[0]) * (g - m)
            v += np.float32(1 - BETAS[1]) * (g * g - v)

    def errors(self, states: Sequence[Any]) -> tuple[float, float]:
        """Relative root mean square error of the stored first and second moments, of all tensors stored narrowly.

        Those are the tensors of at least `smallest` elements.
        """
        wrong, whole = np.zeros(2), np.zeros(2)
        for exact, state in zip(self.moments, states, strict=True):
            if exact[0].size < self.smallest:
                continue
            for i, name in enumerate(("exp_avg", "exp_avg_sq")):
                stored = decoded(state, name, signed=i == 0).astype(float)
                wrong[i] += np.sum((stored - exact[i]) ** 2)
                whole[i] += np.sum(exact[i].astype(float) ** 2)
        first, second = np.sqrt(wrong / whole)
        return float(first), float(second)


def decoded(state: Any, name: str, signed: bool) -> NDArray[np.float32]:
    """The values of a stored state."""
    stored = state[name]
    if stored.dtype == np.uint8:
        return formats.decode_8bit(stored, state[f"{name}_scales"], signed)
    return np.asarray(stored, np.float32)


def train(task: Task, variant: Variant, seed: int, steps: int) -> Run:
    """Train once, with Adam."""
    net, batches = task.network(seed), task.batches(seed)
    dtype = formats.bfloat16() if variant.bfloat16 else np.dtype(np.float32)
    working = list(net.params.values())
    params = [array.astype(dtype) for array in working]
    options: Options = {"seed": seed, "min_quantized_size": task.smallest, **variant.options}
    opt = fs.Adam(params, lr=rising_and_falling(task.lr, steps), betas=BETAS, **options)
    exact = ExactMoments(params, task.smallest) if "state_format" in options else None
    run, before = Run(), params
    for step in range(steps):
        if step == steps - last(steps):
            before = [param.copy() for param in params]
        for array, param in zip(working, params, strict=True):
            array[...] = param  # the network computes in float32, with the values that are stored
        run.losses.append(net.gradients(*next(batches)))
        grads = [grad.astype(dtype) for grad in net.grads.values()]
        opt.step(grads)
        if exact is not None:
            exact.update(grads)
            if step % EVERY == EVERY - 1:
                run.errors.append((step + 1, *exact.errors(opt.state)))
    moved = sum(int(np.count_nonzero(old != new)) for old, new in zip(before, params, strict=True))
    run.moved = moved / sum(param.size for param in params)
    return run


def train_all(tasks: list[str], variants: list[str], seeds: int, share: float) -> Runs:
    """Train every task, with the given share of its steps, in every variant and with every seed."""
    runs: Runs = {}
    for name in tasks:
        steps = max(2, round(TASKS[name].steps * share))
        runs[name] = {v: [train(TASKS[name], VARIANTS[v], s, steps) for s in range(seeds)] for v in variants}
    return runs


def table(runs: Runs) -> str:
    """Markdown: final loss (mean and standard deviation over the seeds), its ratio to float32's, what still moved."""
    lines = [
        "| network | storage | final loss | spread | to float32 | weights moved | error of first, second moment |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, variants in runs.items():
        for variant, trained in variants.items():
            losses = [run.final for run in trained]
            spread = float(np.std(losses, ddof=1)) if len(losses) > 1 else math.nan
            moved = np.mean([run.moved for run in trained])
            errors = np.mean([run.errors[-1][1:] for run in trained], axis=0) if trained[0].errors else None
            cells = [TASKS[name].title, VARIANTS[variant].label, f"{np.mean(losses):.4f}", f"{spread:.4f}"]
            cells += [f"{ratio(runs, name, variant) - 1:+.2%}" if "float32" in variants else "", f"{moved:.1%}"]
            cells += ["" if errors is None else f"{errors[0]:.1%}, {errors[1]:.1%}"]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratio(runs: Runs, task: str, variant: str) -> float:
    """Mean final loss of a variant over that of float32."""
    means = [float(np.mean([run.final for run in runs[task][v]])) for v in (variant, "float32")]
    return means[0] / means[1]


def smooth(losses: list[float]) -> tuple[Array, Array]:
    """Steps, and the mean of the losses of a fortieth of the steps up to each."""
    width = max(1, len(losses) // 40)
    means = np.convolve(losses, np.ones(width) / width, "valid")
    return np.arange(width, len(losses) + 1), means


def draw(runs: Runs, folder: Path) -> list[Path]:
    """Draw ``quality-TASK.png`` for every task: losses, losses against float32's, errors of both moments."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from fusedstep.demo import style

    style.use()
    drawn = []
    for name, variants in runs.items():
        figure, panels = plt.subplots(2, 2, figsize=(12, 8), sharex=True)
        base = np.array([smooth(run.losses)[1] for run in variants["float32"]])
        for at, (variant, trained) in enumerate(variants.items()):
            look = VARIANTS[variant]
            steps = smooth(trained[0].losses)[0]
            curves = np.array([smooth(run.losses)[1] for run in trained])
            relative = 100 * (curves.mean(axis=0) / base.mean(axis=0) - 1)
            for panel, curve in zip(panels[0], (curves.mean(axis=0), relative), strict=True):
                # wide below narrow, so that curves that lie on each other are all seen
                panel.plot(steps, curve, color=look.color, label=look.label, linewidth=5.2 - 0.8 * at)
            if trained[0].errors:
                errors = np.mean([run.errors for run in trained], axis=0)
                for panel, column in zip(panels[1], errors.T[1:], strict=True):
                    panel.plot(errors[:, 0], 100 * column, color=look.color, linewidth=5.2 - 0.8 * at)
        titles = (
            "Training loss",
            "Loss relative to float32",
            "Error of the first moment",
            "Error of the second moment",
        )
        labels = ("mean cross-entropy", "difference, %", "relative error, %", "relative error, %")
        for panel, title, label in zip(panels.flat, titles, labels, strict=True):
            panel.set_title(title)
            panel.set_ylabel(label)
        panels[0, 1].set_ylim(-6, 16)
        panels[0, 1].axhspan(-1, 1, color=style.INK, alpha=0.08, label="within 1 %")
        for panel in panels[1]:
            style.plain_log(panel)
        panels[0, 1].legend()
        figure.suptitle(TASKS[name].title, x=0.01, ha="left", weight="bold")
        figure.supxlabel("steps completed", fontsize=10.5)
        folder.mkdir(parents=True, exist_ok=True)
        drawn.append(folder / f"quality-{name}.png")
        figure.savefig(drawn[-1], dpi=100)
        plt.close(figure)
    return drawn


def main(arguments: list[str] | None = None) -> Runs:
    """Train, print the table, draw."""
    parser = argparse.ArgumentParser(description="Train the same networks in every storage format and compare.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="networks to train")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="ways of storing")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, from seed 0 on")
    parser.add_argument("--quick", action="store_true", help="an eighth of the steps")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw the pictures there; needs float32")
    given = parser.parse_args(arguments)
    if given.seeds < 1:
        parser.error(f"--seeds: got {given.seeds}, needs at least 1")
    if given.plots is not None and "float32" not in given.variants:
        parser.error("--plots: the pictures compare with float32, which is not among --variants")
    runs = train_all(given.tasks, given.variants, given.seeds, 1 / 8 if given.quick else 1.0)
    print(table(runs))
    if given.plots is not None:
        draw(runs, given.plots)
    return runs


if __name__ == "__main__":
    main()
