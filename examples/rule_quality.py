"""What does every rule reach, each at its best learning rate?

Three networks are trained by every optimizer. Its learning rate is found on a seed of its own: from the first rate of
``docs/choose.md`` by factors of three, up and down, until both neighbours are worse. Then it trains with the seeds that
are compared. ``python examples/rule_quality.py`` prints the table of that page; ``--share 0.1`` trains for a
tenth of the tasks' steps.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fusedstep as fs
from fusedstep import schedules
from quality_tasks import TASKS, Task, last, rising_and_falling

FACTOR = 3.0
TUNED_ON = 1000
"""The seed of the trainings that find a learning rate."""

NEIGHBOURS = 8
"""At most so many rates are tried to each side."""


@dataclass(frozen=True)
class Entry:
    """An optimizer as it is trained: what is not named has its default."""

    first: float = 1e-3  # learning rate
    options: dict[str, Any] = field(default_factory=dict)
    schedule: Callable[[float, int], Any] = rising_and_falling


def rising(lr: float, steps: int) -> Any:
    """A learning rate that rises over a twentieth of the steps and stays."""
    return schedules.linear_warmup(lr, steps // 20)


ENTRIES = {
    "Adadelta": Entry(1.0),
    "Adafactor": Entry(1e-2),
    "AdamMini": Entry(1e-3),
    "Adagrad": Entry(1e-2),
    "ASGD": Entry(1e-2),
    "LAMB": Entry(2e-3),
    "LARS": Entry(0.1, {"momentum": 0.9}),
    "Lion": Entry(1e-4),
    "MARS": Entry(3e-3),
    "MARSLion": Entry(3e-4),
    "Momentum": Entry(0.1),
    "NovoGrad": Entry(1e-2),
    "Prodigy": Entry(1.0),
    "ScheduleFreeAdamW": Entry(2.5e-3, schedule=rising),
    "ScheduleFreeSGD": Entry(1.0, schedule=rising),
    "SGD": Entry(1e-2, {"momentum": 0.9}),
    "Yogi": Entry(1e-2),
}
"""Those that differ from `Entry`'s defaults."""

LEFT_OUT = {
    "Optimizer": "the class of all",
    "Rprop": "needs the gradient of all examples in every step",
    "SparseAdam": "Adam, for gradients of rows",
}


def names() -> list[str]:
    """The optimizers that are trained."""
    return sorted({*fs.optimizers.__all__} - {*LEFT_OUT}, key=str.lower)


def train(task: Task, name: str, lr: float, seed: int, steps: int) -> float:
    """The mean loss of the last steps, infinite where it is no number."""
    entry = ENTRIES.get(name, Entry())
    net, batches = task.network(seed), task.batches(seed)
    opt = getattr(fs, name)(list(net.params.values()), lr=entry.schedule(lr, steps), **entry.options)
    grads, losses = list(net.grads.values()), []
    with np.errstate(all="ignore"):  # rates that are too large are tried as well
        for _ in range(steps):
            losses.append(net.gradients(*next(batches)))
            if not math.isfinite(losses[-1]):
                return math.inf
            opt.step(grads)
    return float(np.mean(losses[-last(steps) :]))


def tuned(loss_of: Callable[[float], float], first: float) -> float:
    """The learning rate of the least loss among `first` and its neighbours, factors of three apart."""
    tried: dict[int, float] = {}

    def look(n: int) -> None:
        tried[n] = loss_of(first * FACTOR**n)

    def best() -> int:
        return min(tried, key=lambda n: (tried[n], n))  # the least rate where none has a loss

    look(0)
    for way in (-1, 1):
        while abs(best() + way) <= NEIGHBOURS and best() + way not in tried:
            look(best() + way)
    return first * FACTOR ** best()


@dataclass(frozen=True)
class Result:
    """What an optimizer reached."""

    task: str
    name: str
    lr: float
    losses: tuple[float, ...]  # of every seed


def measure(task: str, name: str, seeds: int, share: float) -> Result:
    """Find the learning rate, then train with every seed."""
    fs.set_num_threads(1)
    steps = max(2, round(TASKS[task].steps * share))
    lr = tuned(lambda lr: train(TASKS[task], name, lr, TUNED_ON, steps), ENTRIES.get(name, Entry()).first)
    return Result(task, name, lr, tuple(train(TASKS[task], name, lr, seed, steps) for seed in range(seeds)))


def table(results: list[Result]) -> str:
    """Markdown: a row for each optimizer with its final loss, its spread over the seeds and its rate in every task."""
    tasks = list(dict.fromkeys(result.task for result in results))
    cells: dict[str, dict[str, str]] = {}
    for result in results:
        losses = np.array(result.losses)
        spread = f" ± {losses.std(ddof=1):.4f}" if losses.size > 1 else ""
        cells.setdefault(result.name, {})[result.task] = f"{losses.mean():.4f}{spread} ({result.lr:.1g})"
    lines = ["| optimizer | " + " | ".join(TASKS[task].title for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    lines += [f"| `{name}` | " + " | ".join(row[task] for task in tasks) + " |" for name, row in cells.items()]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> list[Result]:
    """Train and print the table."""
    parser = argparse.ArgumentParser(description="Train the same networks with every optimizer at its best rate.")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS), help="networks to train")
    parser.add_argument("--optimizers", nargs="+", choices=names(), default=names(), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each at its rate")
    parser.add_argument("--share", type=float, default=0.5, help="of the tasks' steps")
    parser.add_argument("--processes", type=int, default=1, help="trainings at a time")
    given = parser.parse_args(arguments)
    if given.seeds < 1 or given.processes < 1:
        parser.error(f"--seeds, --processes: got {given.seeds} and {given.processes}, needs at least 1")
    if not 0 < given.share <= 1:
        parser.error(f"--share: got {given.share}, needs more than 0, and at most 1")
    for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # of the networks, which are too small for several
        os.environ.setdefault(threads, "1")
    with ProcessPoolExecutor(given.processes, multiprocessing.get_context("spawn")) as processes:
        pairs = [(task, name) for name in given.optimizers for task in given.tasks]
        waiting = [processes.submit(measure, *pair, given.seeds, given.share) for pair in pairs]
        results = []
        for done in waiting:
            results.append(done.result())
            print(table(results[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(results))
    return results


if __name__ == "__main__":
    main()
