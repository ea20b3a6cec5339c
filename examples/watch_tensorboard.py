"""A training that is watched, in TensorBoard.

    python -m pip install tensorboard torch
    python examples/watch_tensorboard.py runs
    tensorboard --logdir runs

The same network learns the same task at three learning rates. TensorBoard then shows their losses, norms and ratios of
update to parameter side by side, layer by layer, and how the effective learning rates of the first layer spread.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

import fusedstep as fs

RATES = (1e-4, 1e-3, 3e-2)
STEPS = 300


def train(rate: float, folder: Path) -> list[fs.WatchedStep]:
    """Train once, write every tenth step to TensorBoard, and return what was seen."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 32)).astype(np.float32)
    y = np.sin(x @ rng.standard_normal((32, 4)).astype(np.float32))
    params: dict[str, Any] = {
        "W1": (rng.standard_normal((32, 128)) / 32**0.5).astype(np.float32),
        "b1": np.zeros(128, np.float32),
        "W2": (rng.standard_normal((128, 4)) / 128**0.5).astype(np.float32),
    }
    opt = fs.Adam(params, lr=rate)
    writer = SummaryWriter(folder / f"lr={rate:g}")
    with opt.watch(every=10) as watch:
        for _ in range(STEPS):
            hidden = np.maximum(x @ params["W1"] + params["b1"], 0)
            error = hidden @ params["W2"] - y
            back = (error @ params["W2"].T) * (hidden > 0) / len(x)
            seen = watch.last.step
            opt.step({"W1": x.T @ back, "b1": back.sum(0), "W2": hidden.T @ error / len(x)})
            if watch.last.step == seen:  # this step was not watched
                continue
            figures = watch.last.metrics() | {"loss": float(np.square(error).mean())}
            for name, value in figures.items():
                writer.add_scalar(name, value, watch.last.step)
            rates = watch.last.rates("W1")
            assert rates is not None
            writer.add_histogram_raw(
                "learning rates/W1",
                min=float(rates.edges[0]),
                max=float(rates.edges[-1]),
                num=int(rates.counts.sum()),
                sum=float((rates.counts * rates.edges[1:]).sum()),
                sum_squares=float((rates.counts * rates.edges[1:] ** 2).sum()),
                bucket_limits=rates.edges[1:].tolist(),
                bucket_counts=rates.counts.tolist(),
                global_step=watch.last.step,
            )
    writer.close()
    return watch.history


def main() -> int:
    """Train at every rate and say where the figures are."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    for rate in RATES:
        last = train(rate, folder)[-1]
        ratios = ", ".join(f"{name} {seen.ratio:.1e}" for name, seen in last.items())
        print(f"lr {rate:g}: update to parameter after {last.step} steps: {ratios}")
    print(f"tensorboard --logdir {folder}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
