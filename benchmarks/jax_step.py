"""One step of JAX's arrays: ``fusedstep.jax`` beside ``optax`` under ``jax.jit``, which take turns.

    python benchmarks/jax_step.py --json out/jax_step.json
    python benchmarks/jax_step.py --cases "1e6;1e7" --rules adam,sgd --turns 21

Both are compiled with parameters and state donated. The parameters after three steps are compared, element by element,
before anything is timed. ``as_optax`` is the same rule as a transformation of optax's, ``8bit`` keeps the moments in 8
bits. Ratios are optax's time over the other's: the median of the turns' own, and the quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax

import fusedstep
import fusedstep.jax as fj
from fusedstep.bench.timing import alternate, runner

CASES = {
    "1e3": (1_000,),
    "1e4": (10_000,),
    "1e5": (100_000,),
    "1e6": (1_000_000,),
    "1e7": (10_000_000,),
    "100 x 10,000": (10_000,) * 100,
}
RULES: dict[str, tuple[dict[str, Any], Any]] = {
    "adam": ({}, optax.adam(1e-3)),
    "adamw": ({"weight_decay": 1e-2}, optax.adamw(1e-3, weight_decay=1e-2)),
    "sgd": ({"momentum": 0.9}, optax.sgd(1e-3, momentum=0.9)),
    "rmsprop": ({"alpha": 0.9}, optax.rmsprop(1e-3, decay=0.9, eps=1e-8, eps_in_sqrt=False)),
    "lion": ({"weight_decay": 1e-2}, optax.lion(1e-3, b2=0.99, weight_decay=1e-2)),
}
SAMPLE = 1e-3  # seconds of a turn: short enough to pass between the turns of other processes
WAYS = ("fusedstep", "8bit", "as_optax")
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=";".join(CASES), help="semicolon-separated")
    parser.add_argument("--rules", default="adam,adamw,sgd", help=f"of {','.join(RULES)}")
    parser.add_argument("--ways", default=",".join(WAYS), help="beside optax")
    parser.add_argument("--turns", type=int, default=15, help="of each contestant")
    parser.add_argument("--json", default=None, help="write the figures")
    return parser.parse_args(arguments)


def transformed(transformation: Any) -> Step:
    """Return the step of a transformation of optax's."""

    def step(params: Any, grads: Any, state: Any) -> tuple[Any, Any]:
        updates, state = transformation.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step


class Contestant:
    """One way to take a step, with arrays of its own."""

    def __init__(self, rule: str, way: str, shapes: Sequence[int]) -> None:
        given, theirs = RULES[rule]
        own = getattr(fj, rule)(lr=1e-3, **given, **({"state_format": "8bit"} if way == "8bit" else {}))
        maker = {"optax": theirs, "as_optax": own.as_optax()}.get(way)
        rng = np.random.default_rng(0)
        self.params = {str(i): jax.numpy.array(rng.normal(size=n), np.float32) for i, n in enumerate(shapes)}
        self.grads = {key: jax.numpy.array(rng.normal(size=p.shape), np.float32) for key, p in self.params.items()}
        self.state = (own if maker is None else maker).init(self.params)
        self.step = jax.jit(own.step if maker is None else transformed(maker), donate_argnums=(0, 2))

    def take(self) -> None:
        """One step, to its end."""
        self.params, self.state = self.step(self.params, self.grads, self.state)
        self.params["0"].block_until_ready()


def check(rule: str, way: str, mine: Contestant, theirs: Contestant) -> None:
    """Stop unless both have the same parameters: 8-bit moments within a few learning rates, others within rounding."""
    for key, expected in theirs.params.items():
        tolerance = {"rtol": 0.0, "atol": 5e-3} if way == "8bit" else {"rtol": 1e-5, "atol": 1e-6}
        np.testing.assert_allclose(mine.params[key], expected, **tolerance, err_msg=f"{rule}, {way}")


def measure(case: str, rule: str, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """Time one rule on one model in every way."""
    ways = ["optax", *chosen.ways.split(",")]
    contestants = {way: Contestant(rule, way, CASES[case]) for way in ways}
    for contestant in contestants.values():
        for _ in range(3):
            contestant.take()
    for way in ways[1:]:
        check(rule, way, contestants[way], contestants["optax"])
    runs = {way: runner(contestant.take) for way, contestant in contestants.items()}
    times = {
        way: timing.seconds for way, timing in alternate(runs, repeats=chosen.turns, sample=SAMPLE, settle=0.0).items()
    }
    rows = []
    for way, seconds in times.items():
        ratios = sorted(a / b for a, b in zip(times["optax"], seconds, strict=True))
        row = {
            "case": case,
            "rule": rule,
            "way": way,
            "us": statistics.median(seconds) * 1e6,
            "ratio": statistics.median(ratios),
            "quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        }
        rows.append(row)
        low, high = row["quartiles"]
        print(f"{case:13} {rule:8} {way:10} {row['us']:10.1f} {row['ratio']:6.2f} {low:6.2f} - {high:4.2f}", flush=True)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print a line for each way."""
    chosen = options(arguments)
    print(f"jax {jax.__version__}, optax {optax.__version__}, {fusedstep.get_num_threads()} threads")
    print(f"{'case':13} {'rule':8} {'way':10} {'us':>10} {'ratio':>6} {'quartiles':>13}")
    rows = [
        row
        for rule in chosen.rules.split(",")
        for case in chosen.cases.split(";")
        for row in measure(case, rule, chosen)
    ]
    if chosen.json:
        Path(chosen.json).parent.mkdir(parents=True, exist_ok=True)
        Path(chosen.json).write_text(json.dumps({"jax": jax.__version__, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
