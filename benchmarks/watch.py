"""What watching costs: a watched step beside the same step that is not.

    python benchmarks/watch.py [--sizes 1e5,3e7] [--threads N] [--json FILE]

Both step the same numbers in turns; their parameters are compared before and after the timing, and the gradient's norm
with NumPy's. CPU times beside wall times show what other work on the machine hides or adds. The last column is the mean
over ten steps of which one is watched, as ``opt.watch(every=10)`` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

import environment

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "Adam": ("Adam", {}),
    "Adam, bfloat16 states": ("Adam", {"state_format": "bfloat16"}),
    "Adam, 8-bit states": ("Adam", {"state_format": "8bit"}),
    "AdamW, clipped by norm": ("AdamW", {"max_grad_norm": 1.0}),
}
TURNS = 15


def measure(case: str, size: int) -> dict[str, Any]:
    """Check and time one case at one size."""
    import fusedstep as fs
    from fusedstep.bench import arrays

    name, options = CASES[case]
    grad = arrays.fill((size,), "grad", np.float32, 0)
    plain, watched = (
        getattr(fs, name)(arrays.fill((size,), "param", np.float32, 0), grads=grad, lr=1e-5, **options)
        for _ in range(2)
    )
    watch = watched.watch(every=1, keep=1)

    def check() -> None:
        if not np.array_equal(plain._slots[0].param, watched._slots[0].param):
            raise SystemExit(f"{case}, {size}: a watched step left other bits")

    plain.step()
    watched.step()
    check()
    norm = float(np.linalg.norm(grad.astype(np.float64))) if size <= 10**7 else watch.last.model.grad_norm
    if abs(watch.last.model.grad_norm - norm) > 1e-9 * norm:
        raise SystemExit(f"{case}, {size}: got the norm {watch.last.model.grad_norm}, needs {norm}")
    count = max(1, int(2e7 / size))
    found: dict[str, list[tuple[float, float]]] = {"plain": [], "watched": []}
    for turn in range(TURNS):
        runs = [("plain", plain), ("watched", watched)]
        for label, optimizer in runs if turn % 2 else reversed(runs):
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(count):
                optimizer.step()
            found[label].append(((time.perf_counter() - wall) / count, (time.process_time() - cpu) / count))
    check()
    pairs = np.array(found["watched"]) / np.array(found["plain"])
    wall, cpu = np.median(pairs, axis=0).tolist()
    return {
        "case": case,
        "size": size,
        "microseconds": float(np.median([t for t, _ in found["plain"]])) * 1e6,
        "wall": wall,
        "cpu": cpu,
        "every 10": 1 + (wall - 1) / 10,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e5,1e7,1e8")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    import fusedstep as fs
    from fusedstep.bench import machine, report

    fs.set_num_threads(threads)
    found = [measure(case, int(float(size))) for size in chosen.sizes.split(",") for case in CASES]
    rows = [
        [f"{one['size']:,}", one["case"], f"{one['microseconds']:,.0f}"]
        + [f"{one[name]:.2f}x" for name in ("wall", "cpu", "every 10")]
        for one in found
    ]
    report.show(
        f"a watched step, {threads} threads", ["elements", "step", "µs", "wall", "CPU", "mean of every=10"], rows
    )
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "results": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
