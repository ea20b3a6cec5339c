"""``fusedstep compare``: which optimizer, at which learning rate, for the data at hand?"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from .._extras import need
from .._interrupted import interrupted
from .._table import Table, fixed
from . import data
from .choices import Choice, distinct, parse
from .convnet import ConvNet
from .network import Network
from .options import add_common, count, natural
from .progress import plain_output, train_all
from .train import Run, by_choice

# The list of the lesson "Which optimizer", each at its default settings.
DEFAULTS = ("adadelta", "adagrad", "adam", "rmsprop", "sgd", "sgd:momentum=0.9")


def learning_rates(text: str) -> list[float]:
    """Positive, finite numbers, separated by commas."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0.0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a positive number, or several such as 0.1,0.01")
    return values


def layers(text: str) -> tuple[int, ...]:
    """Widths of hidden layers, such as ``128,64``; nothing at all for none."""
    return tuple(count(width, most=10**6) for width in text.split(",")) if text else ()


def choices(asked: Sequence[Choice] | None, rates: Sequence[float] | None) -> list[Choice]:
    """Every optimizer, at every learning rate where some are given; each once."""
    base = list(asked) if asked else [parse(text) for text in DEFAULTS]
    return distinct(choice.with_lr(rate) for choice in base for rate in rates) if rates else distinct(base)


def network(dataset: data.Dataset, model: str, hidden: tuple[int, ...] | None) -> Callable[[int], Network | ConvNet]:
    """What makes a network for a data set from a seed.

    Raises
    ------
    DataError
        The convolutional network is asked for and the examples are no images that it can take.
    """
    image = dataset.image
    able = image is not None and len(image) in (2, 3) and min(image[:2]) >= 4
    if model == "cnn" and not able:
        shape = "features without a shape" if image is None else f"examples of the shape {image}"
        raise data.DataError(
            f"{dataset.name}: --model cnn: got {shape}, needs images (height, width) or (height, width, channels) "
            "of at least 4 x 4"
        )
    if image is not None and able and (model == "cnn" or (model == "auto" and hidden is None)):
        shape_, classes = image, len(dataset.labels)
        return lambda seed: ConvNet(shape_, classes, seed=seed)
    sizes = (dataset.features, *((128, 64) if hidden is None else hidden), dataset.outputs)
    return lambda seed: Network(sizes, seed=seed)


def main(arguments: Sequence[str] | None = None, program: str = "fusedstep compare") -> int:
    """Train, print the tables, write CSV and picture; 0, 2 for unusable data, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train a network per optimizer, learning rate and seed and compare validation results.",
    )
    parser.add_argument(
        "data", nargs="?", default="digits", metavar="DATA",
        help="a .npz file with y (examples,) and X (examples, features), or images (examples, height, width) or "
        "(examples, height, width, channels), or with x_train, y_train, x_test, y_test, or one of "
        f"{', '.join(data.BUNDLED)} (default: %(default)s)",
    )  # fmt: skip
    add_common(parser, epochs=10)
    parser.add_argument(
        "--lr",
        type=learning_rates,
        action="extend",
        dest="rates",
        metavar="RATE,...",
        help="try every optimizer at these learning rates; may be repeated",
    )
    parser.add_argument(
        "--seeds",
        type=count,
        default=3,
        metavar="N",
        help="runs per optimizer and learning rate, each with a seed of its own (default: %(default)s)",
    )
    parser.add_argument("--seed", type=natural, default=0, metavar="N", help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--hidden",
        type=layers,
        metavar="N,N",
        help="widths of the dense network's hidden layers (default: 128,64)",
    )
    parser.add_argument(
        "--model",
        choices=("auto", "cnn", "dense"),
        default="auto",
        help="a convolutional or a dense network (default: convolutional for images, unless --hidden is given)",
    )
    args = parser.parse_args(arguments)
    if args.model == "cnn" and args.hidden is not None:
        parser.error("argument --hidden: the convolutional network has no such layers; leave out one of the options")
    plain = plain_output(args.plain)
    need("matplotlib", *([] if plain or args.quiet else ["rich"]))
    try:
        dataset = data.load(args.data)
        build = network(dataset, args.model, args.hidden)
    except data.DataError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    target = args.output
    wanted = choices(args.optimizers, args.rates)
    # All optimizers with one seed before the next seed: whoever stops early has compared like with like.
    runs = (
        Run(dataset, choice, build(seed), args.epochs, seed)
        for seed in range(args.seed, args.seed + args.seeds)
        for choice in wanted
    )
    tasks = {(dataset.name, choice.label): args.epochs * args.seeds for choice in wanted}
    done, stopped = train_all(runs, tasks, args.batch_size, watch=args.watch, plain=plain, quiet=args.quiet)
    if not done:
        return interrupted(program, "no epoch was finished")
    write_csv(done, target / "compare.csv")
    whole = [run for run in done if run.complete]
    if whole:
        wide = plain or args.quiet or shutil.get_terminal_size().columns >= 110
        for table in tables(whole, 5 if wide else 3):
            table.show(plain or args.quiet)
        if not args.rates:
            print("Differences at default learning rates are mostly differences of the rates; --lr 0.1,0.01 sets them.")
        print(f"every epoch: {target / 'compare.csv'}", flush=True)

        from .compare_plot import compare_figure, ratio_figure

        compare_figure(whole, described(whole[0]), target / "compare.png")
        print(f"picture: {target / 'compare.png'}")
        if args.watch:
            ratio_figure(whole, described(whole[0]), target / "ratios.png")
            print(f"picture: {target / 'ratios.png'}")
    else:
        print(f"every epoch: {target / 'compare.csv'}")
    if stopped:
        finished = f"{len(whole)} of {len(wanted) * args.seeds} runs"
        return interrupted(program, f"tables and picture hold {finished}, the CSV file every finished epoch")
    return 0


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
    name = f"{runs[0].dataset.name}, {described(runs[0])}"
    accuracy = Table(f"Validation accuracy, %: {name}", (*headings, "seconds\nin all"), {"": right}, spread)
    return [accuracy, Table(f"Validation loss: {name}", (*headings, "seconds\nin step"), {"": wrong}, spread)]


def described(run: Run) -> str:
    """The kind of network and its size."""
    kind = "convolutional" if isinstance(run.network, ConvNet) else "dense"
    return f"{kind} network of {run.network.count:,} parameters"


def _mean(values: Sequence[float], digits: int) -> str:
    with np.errstate(all="ignore"):  # runs that diverged
        mean = fixed(float(np.mean(values)), digits)
        return f"{mean} ±{fixed(float(np.std(values, ddof=1)), digits)}" if len(values) > 1 else mean


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
