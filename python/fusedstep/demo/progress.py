"""What a person sees while it trains: bars in a terminal, elsewhere a line per finished run, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from .._table import fixed
from .train import Run, train

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class View(Protocol):
    """Follows the runs; `epoch` is called after every epoch of any of them."""

    def epoch(self, run: Run) -> None:
        """Show where `run` has got to."""


def shown(run: Run) -> str:
    """The ratio of update to weights in every layer, from the first to the last."""
    return " ".join(f"{ratio:.0e}".replace("e-0", "e-").replace("e+0", "e+") for ratio in run.ratios[-1].values())


class Quiet:
    """Shows nothing."""

    def epoch(self, run: Run) -> None:
        """Show nothing."""


class Lines:
    """One line of plain text per finished run."""

    def epoch(self, run: Run) -> None:
        """Print a line when that was the last epoch."""
        if run.complete:
            ratios = f", update to weights {shown(run)}" if run.ratios else ""
            print(
                f"{run.dataset.name}: {run.choice.label}, seed {run.seed}, {run.epochs} epochs, "
                f"loss {fixed(run.costs[-1], 4)}, accuracy {run.accuracies[-1]:.1%}, {run.seconds_all:.2f} s{ratios}",
                flush=True,
            )


class Bars:
    """A bar per optimizer and data set, with the loss and the accuracy of its last epoch.

    It draws between epochs only, and at most ten times a second: a drawing thread would compete with the
    steps that are timed.
    """

    def __init__(self, bars: Progress, tasks: dict[tuple[str, str], TaskID]) -> None:
        self._bars, self._tasks, self._drawn = bars, tasks, 0.0

    @property
    def finished(self) -> int:
        """The epochs shown so far, over all bars."""
        return sum(int(task.completed) for task in self._bars.tasks)

    def epoch(self, run: Run) -> None:
        """Advance the bar of `run` by one epoch."""
        task = self._tasks[run.dataset.name, run.choice.label]
        if not self._bars.tasks[task].started:
            self._bars.start_task(task)
        ratios = shown(run) if run.ratios else ""
        accuracy = f"{100 * run.accuracies[-1]:.1f} %"
        self._bars.update(task, advance=1, loss=fixed(run.costs[-1], 4), accuracy=accuracy, ratios=ratios)
        if run.complete or time.monotonic() - self._drawn > 0.1:
            self._bars.refresh()
            self._drawn = time.monotonic()


@contextmanager
def watching(tasks: dict[tuple[str, str], int], *, plain: bool, quiet: bool, watch: bool = False) -> Iterator[View]:
    """The view that fits the terminal and the options, for the given epochs per (data set, optimizer)."""
    if quiet:
        yield Quiet()
    elif plain:
        yield Lines()
    else:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.fields[dataset]}", style="dim"),
            TextColumn("{task.description}", style="bold"),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}", justify="right"),
            TextColumn("accuracy {task.fields[accuracy]}", justify="right"),
            *([TextColumn("update/weights {task.fields[ratios]}")] if watch else []),
            TimeElapsedColumn(),
        )
        with Progress(*columns, auto_refresh=False, expand=True) as bars:
            ids = {
                (dataset, label): bars.add_task(
                    label, start=False, total=epochs, dataset=dataset, loss="     -", accuracy="     -", ratios="-"
                )
                for (dataset, label), epochs in tasks.items()
            }
            yield Bars(bars, ids)


def train_all(
    runs: Iterable[Run],
    tasks: dict[tuple[str, str], int],
    batch_size: int,
    *,
    reference: bool = False,
    watch: bool = False,
    plain: bool = False,
    quiet: bool = False,
) -> tuple[list[Run], bool]:
    """Train one run after the other until all are done or the user presses Ctrl-C.

    Parameters
    ----------
    runs : iterable of Run
        Made when their turn comes.
    tasks : dict
        How many epochs there will be of each (name of the data set, label of the optimizer).

    Returns
    -------
    list of Run
        Those with at least one finished epoch.
    bool
        Whether it was interrupted.
    """
    done: list[Run] = []
    try:
        with watching(tasks, plain=plain, quiet=quiet, watch=watch) as view:
            for run in runs:
                done.append(run)
                train(run, batch_size, reference=reference, watch=watch, on_epoch=view.epoch)
    except KeyboardInterrupt:
        return [run for run in done if run.costs], True
    return done, False


def plain_output(plain: bool) -> bool:
    """Whether to write plain text: because it was asked for, or because nobody sits at a terminal."""
    return plain or not sys.stdout.isatty()
