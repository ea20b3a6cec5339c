"""A step as the number of threads grows: measured up to the CPUs that there are, reckoned for 16, 64 and 192.

    python benchmarks/scaling.py [--rules adam,rmsprop,momentum] [--sizes 1e5,1e6,1e7] [--layers pool,openmp]
    python benchmarks/scaling.py --team            # what the pool's threads cost by themselves

Needs a C++ compiler. The steps of all numbers of threads take turns; their parameters must have the same bytes. The
reckoning takes two figures from this machine: the time of an element on one thread, and the time until a thread that
slept has begun. The step of n threads takes the elements of a share, and as many wake-ups as n has bits, for every
thread wakes two. It knows nothing of memory: where the arrays are larger than all caches, the time cannot be below
bytes over the machine's bandwidth, which --bandwidth names (GB/s).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import environment

ROOT = Path(__file__).parents[1]
RECKONED = (16, 64, 192)
RULES: dict[str, tuple[str, dict[str, Any], int]] = {  # class, hyper-parameters, arrays that are read or written
    "adam": ("Adam", {"lr": 1e-3}, 7),
    "rmsprop": ("RMSprop", {"lr": 1e-3}, 5),
    "momentum": ("SGD", {"lr": 1e-3, "momentum": 0.9}, 5),
}
TEAMS = ((2, 2), (4, 4), (16, 16), (64, 64), (256, 256), (16, 2), (64, 2), (256, 2), (256, 16))


def team(pairs: Sequence[tuple[int, int]], rounds: int) -> dict[tuple[int, int], list[float]]:
    """Return for (threads that there are, threads of a loop) the microseconds of an empty loop.

    Five each: wall and CPU time of loops one after another, wall and CPU time of loops after 5 ms of sleep, wall time
    until all threads have begun after 5 ms of sleep.
    """
    from statistics import median

    threads = ROOT / "cpp" / "threads"
    sources = [threads / name for name in ("pool.cpp", "shares.cpp", "float_environment.cpp")]
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "team")
        command = [os.environ.get("CXX", "c++"), "-O2", "-std=c++17", "-pthread", "-o", program]
        subprocess.run([*command, str(ROOT / "benchmarks" / "team.cpp"), *map(str, sources)], check=True)
        runs: dict[tuple[int, int], list[list[float]]] = {pair: [] for pair in pairs}
        for _ in range(rounds):
            for pair, found in runs.items():
                done = subprocess.run([program, *map(str, pair)], check=True, capture_output=True, text=True)
                found.append([float(word) for word in done.stdout.split()])
    return {pair: [median(column) for column in zip(*found, strict=True)] for pair, found in runs.items()}


def show_team(found: dict[tuple[int, int], list[float]]) -> None:
    """Print the table of an empty loop."""
    from fusedstep.bench import report

    report.show(
        f"microseconds of an empty loop, {len(os.sched_getaffinity(0))} CPUs",
        [
            "threads there",
            "in the loop",
            "one after another",
            "CPU time",
            "after 5 ms of sleep",
            "CPU time",
            "all begun",
        ],
        [[str(there), str(used), *(f"{value:,.2f}" for value in values)] for (there, used), values in found.items()],
        left=2,
    )


def measure(rule: str, size: int, layer: str, counts: Sequence[int], rounds: int) -> dict[int, Any]:
    """Return the timings of a step by number of threads."""
    import numpy as np

    import fusedstep as fs
    from fusedstep.bench.timing import alternate

    name, hyper, _ = RULES[rule]
    fs.set_threading(layer)  # type: ignore[arg-type]
    param, grad = np.full(size, 0.5, np.float32), np.linspace(-1, 1, size, dtype=np.float32)
    results = set()
    for count in counts:
        fs.set_num_threads(count)
        own = param.copy()
        checked = getattr(fs, name)(own, grads=grad, **hyper)
        for _ in range(3):
            checked.step()
        results.add(own.tobytes())
    if len(results) != 1:
        raise SystemExit(f"{rule}, {size} elements: the number of threads changes the bytes")
    optimizer = getattr(fs, name)(param, grads=grad, **hyper)

    def run(count: int) -> Any:
        import time

        def steps(number: int) -> float:
            fs.set_num_threads(count)
            optimizer.step()
            start = time.perf_counter()
            for _ in range(number):
                optimizer.step()
            return time.perf_counter() - start

        return steps

    timings = alternate({str(count): run(count) for count in counts}, repeats=rounds)
    return {int(count): timing for count, timing in timings.items()}


def reckoned(size: int, arrays: int, element: float, wake: float, threads: int, bandwidth: float | None) -> float:
    """Return the seconds of a step that is reckoned: see the top of the file."""
    used = max(1, min(threads, size // 16_384))
    begun = wake * (used.bit_length() - 1) if used > 1 else 0.0
    seconds = element * size / used + begun
    return max(seconds, 4e-9 * arrays * size / bandwidth) if bandwidth else seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--sizes", default="1e5,1e6,1e7")
    parser.add_argument("--layers", default="pool,openmp")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--bandwidth", type=float, help="GB/s of the machine that is reckoned")
    parser.add_argument("--team", action="store_true", help="the pool's threads by themselves")
    chosen = parser.parse_args(arguments)
    cpus = environment.prepare()
    from fusedstep.bench import machine, report

    described = machine.describe()
    print(f"{described['date']}  {machine.summary(described)}")
    if chosen.team:
        show_team(team(TEAMS, chosen.rounds))
        return 0
    wake = 1e-6 * team([(2, 2)], 5)[2, 2][-1]
    counts = sorted({1 << k for k in range(cpus.bit_length()) if 1 << k <= cpus} | {cpus})
    rows = []
    for rule in chosen.rules.split(","):
        for size in (int(float(size)) for size in chosen.sizes.split(",")):
            for layer in chosen.layers.split(","):
                found = measure(rule, size, layer, counts, chosen.rounds)
                alone = found[1].median
                cells = [f"{report.duration(found[n].median)} ({alone / found[n].median:.2f})" for n in counts]
                for threads in RECKONED:
                    seconds = reckoned(size, RULES[rule][2], alone / size, wake, threads, chosen.bandwidth)
                    cells.append(f"{report.duration(seconds)} ({alone / seconds:.1f})")
                rows.append([rule, report.size(size), layer, *cells])
    header = [*(f"{n} threads" for n in counts), *(f"{n} reckoned" for n in RECKONED)]
    report.show(
        "microseconds of a step (times as fast as one thread)", ["rule", "elements", "layer", *header], rows, left=3
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
