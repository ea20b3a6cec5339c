"""``fusedstep demo``: train a three-layer network with four optimizers and show what they did."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

from .._extras import need
from .._interrupted import interrupted
from . import data
from .choices import Choice, distinct, parse
from .network import Network
from .options import add_common, natural
from .progress import plain_output, train_all
from .report import demo_table
from .train import Run

# Hidden layers of the three-layer network. On two features a small one, whose corners can be counted in the
# picture; with two units in its second layer, as in many courses, both die for one seed in ten (ReLU), with
# four for none of twenty.
HIDDEN = {"moons": (6, 4), "digits": (128, 64)}

# The best of a sweep in steps of about two, by the mean test loss over three seeds: with one rate for all, or the
# rate of one rule tuned and of another not, the picture would compare rates.
_DEFAULTS = {
    "moons": ("sgd:lr=0.5", "momentum:lr=0.5", "rmsprop:lr=0.01", "adam:lr=0.01"),
    "digits": ("sgd:lr=0.5", "momentum:lr=0.5", "rmsprop:lr=0.001", "adam:lr=0.002"),
}
_SPOKEN = {"SGD": "gradient descent", "Momentum": "momentum"}


def choices(name: str, asked: Sequence[Choice] | None) -> list[Choice]:
    """The optimizers for a data set: those asked for, else all four; the demo's rate where none is given."""
    usual = {choice.rule: choice for choice in map(parse, _DEFAULTS[name])}
    wanted = []
    for choice in asked or usual.values():
        if "lr" not in choice.options and choice.rule in usual:
            choice = choice.with_lr(usual[choice.rule].lr)
        wanted.append(replace(choice, name=_SPOKEN.get(choice.name, choice.name)))
    return distinct(wanted)


def main(arguments: Sequence[str] | None = None, program: str = "fusedstep demo") -> int:
    """Train, print the table, write the picture; 0, or 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="Train a three-layer network, written in NumPy, on two moons and on handwritten digits, "
        "once with each optimizer.",
    )
    add_common(parser, epochs=60)
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="seed of the initial weights and the batches (default: %(default)s)",
    )
    args = parser.parse_args(arguments)
    plain = plain_output(args.plain)
    need("sklearn", "matplotlib", *([] if plain or args.quiet else ["rich"]))
    began = time.perf_counter()
    target = args.output / "demo.png"
    sets = [data.load(name) for name in HIDDEN]
    runs = (
        Run(
            dataset,
            choice,
            Network((dataset.features, *HIDDEN[dataset.name], dataset.outputs), seed=args.seed),
            args.epochs,
            args.seed,
        )
        for dataset in sets
        for choice in choices(dataset.name, args.optimizers)
    )
    tasks = {(name, choice.label): args.epochs for name in HIDDEN for choice in choices(name, args.optimizers)}
    done, stopped = train_all(
        runs, tasks, args.batch_size, reference=True, watch=args.watch, plain=plain, quiet=args.quiet
    )
    if not done:
        return interrupted(program, "no epoch was finished")
    demo_table(done).show(plain or args.quiet)

    from .plots import demo_figure

    demo_figure(done, target)
    print(f"picture: {target}   ({time.perf_counter() - began:.1f} s in all)")
    return interrupted(program, "table and picture hold the finished epochs") if stopped else 0
