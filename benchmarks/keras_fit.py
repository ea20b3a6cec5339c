"""Time ``model.fit`` with an optimizer of ``fusedstep.keras`` beside Keras's own, in turns, on the 25-15-10 network.

python benchmarks/keras_fit.py
python benchmarks/keras_fit.py --optimizers Adam,SGD --epochs 2 --turns 15 --json out/keras_fit.json

Each contestant has a model of its own with the same weights and data. A turn is some epochs of ``fit`` and, apart from
it, some hundred calls of ``optimizer.apply``; who goes first alternates. Losses are compared before anything is
reported.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch

import fusedstep.keras

APPLIES = 200  # calls of optimizer.apply in a turn


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--optimizers", default=",".join(fusedstep.keras.optimizers.__all__), help="comma-separated class names"
    )
    parser.add_argument("--turns", type=int, default=11, help="of each contestant")
    parser.add_argument("--epochs", type=int, default=1, help="in one turn of fit")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=None, help="of torch and of fusedstep (default: all CPUs)")
    parser.add_argument("--json", default=None, help="write the figures")
    return parser.parse_args(arguments)


def contestant(make: Any, chosen: argparse.Namespace) -> tuple[Callable[[], float], Callable[[], None]]:
    """Return two functions: one that fits and gives the last loss, one that applies gradients."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(25, "sigmoid"), keras.layers.Dense(15, "sigmoid"), keras.layers.Dense(10)]
    model = keras.Sequential([keras.Input((400,)), *layers])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=make(learning_rate=1e-3), loss=loss)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(chosen.samples, 400)).astype(np.float32)
    y = rng.integers(0, 10, chosen.samples)

    def fit() -> float:
        history = model.fit(x, y, batch_size=chosen.batch, epochs=chosen.epochs, shuffle=False, verbose=0)
        return float(history.history["loss"][-1])

    aside = [keras.Variable(v.numpy(), name=v.name) for v in model.trainable_variables]
    grads = [torch.randn(v.shape) * 1e-3 for v in aside]
    optimizer = make(learning_rate=1e-3)

    def apply() -> None:
        for _ in range(APPLIES):
            optimizer.apply(grads, aside)

    return fit, apply


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def measure(name: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Time one optimizer against Keras's of the same name."""
    runs = [contestant(getattr(module, name), chosen) for module in (keras.optimizers, fusedstep.keras)]
    for fit, apply in runs:  # builds variables, fills caches
        fit(), apply()
    fits: list[list[float]] = [[], []]
    applies: list[list[float]] = [[], []]
    gc.disable()
    for turn in range(chosen.turns):
        losses = [0.0, 0.0]
        for who in (0, 1) if turn % 2 else (1, 0):
            seconds, losses[who] = timed(runs[who][0])
            fits[who].append(seconds)
            applies[who].append(timed(runs[who][1])[0] / APPLIES)
        if abs(losses[0] - losses[1]) > 1e-3 * losses[0]:
            raise SystemExit(f"{name}: losses differ, {losses[0]} with Keras's own and {losses[1]} with fusedstep's")
        gc.collect()
    gc.enable()
    ratios = sorted(a / b for a, b in zip(*fits, strict=True))
    return {
        "optimizer": name,
        "fit_s": [statistics.median(times) for times in fits],
        "fit_ratio": statistics.median(ratios),
        "fit_ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "apply_us": [statistics.median(times) * 1e6 for times in applies],
        "apply_ratio": statistics.median(a / b for a, b in zip(*applies, strict=True)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a line for each optimizer; the ratios are Keras's time over fusedstep's."""
    chosen = options(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
        fusedstep.set_num_threads(chosen.threads)
    print(f"keras {keras.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'optimizer':10} {'fit, s':>15} {'ratio':>6} {'quartiles':>12}   {'apply, us':>13} {'ratio':>6}")
    rows = []
    for name in chosen.optimizers.split(","):
        row = measure(name, chosen)
        rows.append(row)
        (a, b), (low, high), (c, d) = row["fit_s"], row["fit_ratio_quartiles"], row["apply_us"]
        print(
            f"{name:10} {a:7.3f} {b:7.3f} {row['fit_ratio']:6.2f} {low:5.2f} - {high:4.2f}   "
            f"{c:6.0f} {d:6.0f} {row['apply_ratio']:6.2f}",
            flush=True,
        )
    if chosen.json:
        Path(chosen.json).parent.mkdir(parents=True, exist_ok=True)
        Path(chosen.json).write_text(json.dumps({"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
