"""A step by the pool and by OpenMP's team, in the loops that people have.

    python benchmarks/teams.py [--sizes 1e4,1e5,1e6,1e7] [--threads 1,2,4] [--rounds 15]

Each column is a process of its own: the pool, OpenMP as it is, OpenMP with OMP_WAIT_POLICY=passive. They take turns of
a few steps each. Before every step comes what the row says: nothing, a NumPy product, torch's forward and backward
pass, or a step beside a busy process. Only the step is timed. The parameters of all columns must have the same bytes
at the end. Numbers of threads beyond the CPUs are those of a container that does not know its limit: the package
never takes more than the CPUs, and says so in its documentation.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

TEAMS: dict[str, dict[str, str]] = {
    "pool": {"FUSEDSTEP_THREADING": "pool"},
    "OpenMP": {"FUSEDSTEP_THREADING": "openmp"},
    "OpenMP, passive": {"FUSEDSTEP_THREADING": "openmp", "OMP_WAIT_POLICY": "passive"},
}
BEFORE = {
    "nothing": "steps one after another",
    "product": "a NumPy product of 400 x 400 before each",
    "torch": "torch's forward and backward pass before each",
    "sklearn": "a mini-batch of scikit-learn's MLP before each",
    "busy": "beside a busy process",
}


def _work(kind: str) -> Callable[[], object]:
    import numpy as np

    if kind == "product":
        a = np.random.default_rng(0).standard_normal((400, 400)).astype(np.float32)
        return lambda: a @ a
    if kind == "torch":
        import torch

        model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10))
        inputs, targets = torch.randn(64, 256), torch.randint(10, (64,))
        return lambda: torch.nn.functional.cross_entropy(model(inputs), targets).backward()
    if kind == "sklearn":
        from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]

        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((200, 64)), rng.integers(0, 10, 200)
        network = MLPClassifier((100,))
        network.partial_fit(x, y, classes=np.arange(10))
        return lambda: network.partial_fit(x, y)
    return lambda: None


def serve() -> None:
    """Answer every line ``[size, threads, kind, steps]`` with the seconds of the steps; no steps, with a digest."""
    import hashlib
    import time

    import numpy as np

    import fusedstep as fs

    made: dict[Any, Any] = {}
    for line in sys.stdin:
        size, threads, kind, steps = json.loads(line)
        key = (size, threads, kind)
        if key not in made:
            made.clear()
            fs.set_num_threads(threads)
            param, grad = np.full(size, 0.5, np.float32), np.linspace(-1, 1, size, dtype=np.float32)
            made[key] = (param, fs.Adam(param, grads=grad), _work(kind))
        param, optimizer, work = made[key]
        taken = []
        for _ in range(steps):
            work()
            start = time.perf_counter()
            optimizer.step()
            taken.append(time.perf_counter() - start)
        answer = taken if steps else hashlib.sha256(param.tobytes()).hexdigest()
        print(json.dumps(answer), flush=True)


class Column:
    """A process that steps when it is asked to."""

    def __init__(self, variables: dict[str, str]) -> None:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "FUSEDSTEP_"))}
        command = [sys.executable, __file__, "--serve"]
        self.process = subprocess.Popen(
            command, env=kept | variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, *question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def row(columns: dict[str, Column], size: int, threads: int, kind: str, rounds: int) -> dict[str, list[float]]:
    """Microseconds of every step, by column; the columns take turns, each first as often as last."""
    steps = max(3, min(100, 20_000_000 // max(size, 10_000)))
    times: dict[str, list[float]] = {name: [] for name in columns}
    for column in columns.values():
        column.ask(size, threads, kind, steps)
    names = list(columns)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name] += [1e6 * t for t in columns[name].ask(size, threads, kind, steps)]
    digests = {column.ask(size, threads, kind, 0) for column in columns.values()}
    assert len(digests) == 1, f"the columns have different bytes at {size} elements, {threads} threads, {kind}"
    return times


def main() -> None:
    """Measure every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1e4,1e5,1e6,1e7")
    parser.add_argument("--threads", help="default: 1, the CPUs, twice the CPUs")
    parser.add_argument("--before", default=",".join(BEFORE), help=f"some of {', '.join(BEFORE)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = [int(n) for n in options.threads.split(",")] if options.threads else [1, cpus, 2 * cpus]
    columns = {name: Column(variables) for name, variables in TEAMS.items()}
    print("| before each step | elements | threads | " + " | ".join(f"{name}, us" for name in TEAMS) + " |")
    print("|---" * (3 + len(TEAMS)) + "|")
    for kind in options.before.split(","):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if kind == "busy" else None
        try:
            for size in (int(float(size)) for size in options.sizes.split(",")):
                for threads in counts:
                    times = row(columns, size, threads, kind, options.rounds)
                    cells = []
                    for name in TEAMS:
                        quarters = statistics.quantiles(times[name], n=4)
                        spread = 50 * (quarters[2] - quarters[0]) / quarters[1]
                        cells.append(f"{quarters[1]:,.1f} ±{spread:.0f}%")
                    print(f"| {BEFORE[kind]} | {size:,} | {threads} | " + " | ".join(cells) + " |", flush=True)
        finally:
            if busy is not None:
                busy.kill()
    for column in columns.values():
        column.process.kill()


if __name__ == "__main__":
    main()
