"""``python -m fusedstep compare``: which optimizer, at which learning rate, for the data at hand?"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .._extras import need
from . import data
from .choices import Choice, distinct, parse
from .network import Network
from .options import add_common, count, natural
from .progress import plain_output, train_all
from .report import Table
from .train import Run, by_choice

# The list of the lesson "Which optimizer", each at its default settings.
DEFAULTS = ("adadelta", "adagrad", "adam", "rmsprop", "sgd", "sgd:momentum=0.9")


def learning_rate(text: str) -> float:
    """A positive, finite number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a positive number is needed, got {text!r}")
    return value


def layers(text: str) -> tuple[int, ...]:
    """Widths of hidden layers, such as ``128,64``; nothing at all for none."""
    return tuple(count(width) for width in text.split(",")) if text else ()


def choices(asked: Sequence[Choice] | None, rates: Sequence[float] | None) -> list[Choice]:
    """Every optimizer, at every learning rate where some are given; each once."""
    base = list(asked) if asked else [parse(text) for text in DEFAULTS]
    return distinct(choice.with_lr(rate) for choice in base for rate in rates) if rates else distinct(base)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print the tables, write CSV and picture; 0, 2 for unusable data, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m fusedstep compare",
        description="Train a network per optimizer, learning rate and seed and compare validation results.",
    )
    parser.add_argument(
        "data", nargs="?", default="digits", metavar="DATA",
        help="a .npz file with X (examples, features) and y (examples,), or one of "
        f"{', '.join(data.BUNDLED)} (default: %(default)s)",
    )  # fmt: skip
    add_common(parser, epochs=10)
    parser.add_argument(
        "--lr",
        type=learning_rate,
        action="append",
        dest="rates",
        metavar="RATE",
        help="try every optimizer at this learning rate; may be repeated",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=3,
        metavar="N",
        help="runs per optimizer, each from other weights (default: %(default)s)",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--hidden",
        type=layers,
        default=(128, 64),
        metavar="N,N",
        help="widths of the hidden layers (default: 128,64)",
    )
    args = parser.parse_args(arguments)
    plain = plain_output(args.plain)
    need("matplotlib", *([] if plain or args.quiet else ["rich"]))
    try:
        dataset = data.load(args.data)
    except data.DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target = args.output
    sizes = (dataset.features, *args.hidden, dataset.outputs)
    wanted = choices(args.optimizers, args.rates)
    # All optimizers with one seed before the next seed: whoever stops early has compared like with like.
    runs = (
        Run(dataset, choice, Network(sizes, seed=seed), args.epochs, seed)
        for seed in range(args.seed, args.seed + args.seeds)
        for choice in wanted
    )
    tasks = {(dataset.name, choice.label): args.epochs * args.seeds for choice in wanted}
    done, interrupted = train_all(runs, tasks, args.batch_size, plain=plain, quiet=args.quiet)
    if not done:
        print("stopped before the first epoch was finished")
        return 130
    write_csv(done, target / "compare.csv")
    whole = [run for run in done if run.complete]
    if interrupted:
        print(
            f"stopped; tables and picture hold the {len(whole)} of {len(wanted) * args.seeds} runs that were "
            "finished, the CSV every finished epoch"
        )
    if whole:
        wide = plain or args.quiet or shutil.get_terminal_size().columns >= 110
        for table in tables(whole, 5 if wide else 3):
            table.show(plain or args.quiet)

        from .compare_plot import compare_figure

        compare_figure(whole, target / "compare.png")
        print(f"picture: {target / 'compare.png'}")
    print(f"every epoch: {target / 'compare.csv'}")
    return 130 if interrupted else 0


def tables(runs: Sequence[Run], columns: int = 5) -> list[Table]:
    """Validation accuracy and loss after some of the epochs, and the time: mean and spread over the seeds.

    Parameters
    ----------
    runs : sequence of Run
        Complete ones.
    columns : int
        After how many of the epochs, evenly spaced from the first to the last.
    """
    groups, epochs = by_choice(runs).values(), runs[0].epochs
    shown = sorted({round(epoch) for epoch in np.linspace(1, epochs, columns)})
    seeds = max(map(len, groups))
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed: no spread"
    headings = ("optimizer", "learning\nrate", *(f"epoch {epoch}" for epoch in shown))
    right: list[Sequence[str]] = []
    wrong: list[Sequence[str]] = []
    for group in groups:
        first = (group[0].choice.name, f"{group[0].choice.lr:g}")
        accuracies = [_mean([100 * run.accuracies[epoch - 1] for run in group], 1) for epoch in shown]
        losses = [_mean([run.losses[epoch - 1] for run in group], 3) for epoch in shown]
        right.append((*first, *accuracies, _mean([run.seconds_all for run in group], 2)))
        wrong.append((*first, *losses, _mean([run.seconds_step for run in group], 3)))
    name = runs[0].dataset.name
    accuracy = Table(f"Validation accuracy on {name}, %", (*headings, "seconds\nin all"), {"": right}, spread)
    return [accuracy, Table(f"Validation loss on {name}", (*headings, "seconds\nin step"), {"": wrong}, spread)]


def _mean(values: Sequence[float], digits: int) -> str:
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else mean


def write_csv(runs: Sequence[Run], path: Path) -> None:
    """One row per finished epoch of every run."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            (
                "data",
                "optimizer",
                "learning_rate",
                "seed",
                "epoch",
                "train_loss",
                "validation_loss",
                "validation_accuracy",
                "seconds",
            )
        )
        for run in runs:
            head = (run.dataset.name, run.choice.name, run.choice.lr, run.seed)
            for epoch, cost in enumerate(run.costs):
                table.writerow((*head, epoch + 1, cost, run.losses[epoch], run.accuracies[epoch], run.elapsed[epoch]))
