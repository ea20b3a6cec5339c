"""Adam with narrow storage beside this package's float32, and beside the 8-bit optimizers of torchao and
bitsandbytes.

    python benchmarks/storage.py [--sizes 4194304,1e8] [--json FILE] [--png FILE]

The speed-up over this package's own float32 step can be no more than the ratio of the bytes moved; both are
shown. Before it is timed, each is compared with the float64 step: the mean distance of its parameters after
three steps, as a share of the mean change, is shown too and must stay below a bound (8-bit states are meant
to differ, by little).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

import environment

BOUND = {"float32": 0.15, "bfloat16": 0.35}
"""Largest mean error, as a share of the mean change: a bfloat16 parameter of 0.1 is itself rounded by up to
2.4e-4."""


def moved(name: str, dtype: str) -> float:
    """Return the bytes that a step of this package moves per element: scales of the 8-bit blocks included."""
    kind = {"float32": 4.0, "bfloat16": 2.0}[dtype]
    state = 1.0 + 4.0 / 256.0 if "8-bit" in name else 2.0 if "bfloat16 states" in name else 4.0
    remainder = 2.0 if "split" in name else 0.0
    return 2 * kind + kind + 2 * 2 * state + 2 * remainder


def measure(elements: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Check and time every contestant at one size."""
    import contest
    from adapters import RULES, Problem, Unsupported, lowbit
    from fusedstep.bench import arrays, report
    from fusedstep.bench.timing import alternate, runner

    expected, _ = contest.expected("adam")
    start = arrays.tile("param").astype(np.float64)
    grads: dict[str, Any] = {}
    runs: dict[str, Any] = {}
    errors: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for name, (dtype, peer) in lowbit.peers().items():
        if elements > peer.most:
            continue
        kind: Any = np.float32
        if dtype == "bfloat16":
            import ml_dtypes

            kind = ml_dtypes.bfloat16
        if dtype not in grads:
            grads[dtype] = arrays.fill((elements,), "grad", kind)
        problem = Problem(RULES["adam"], dtype, [arrays.fill((elements,), "param", kind)], [grads[dtype]], threads)
        try:
            session = peer.build(problem)
            for _ in range(contest.CHECKED_STEPS):
                session.step()
        except (Unsupported, TypeError, ValueError) as reason:
            report.note(f"{name}: left out, {reason}")
            continue
        del problem
        errors[name] = lowbit.error_of([session.values()[0][: 4 * arrays.TILE]], expected, start)
        if errors[name] > BOUND[dtype]:
            raise SystemExit(f"{name}: parameters are {errors[name]:.0%} of a change away from float64's")
        runs[name], kinds[name] = runner(session.step), dtype
        del session
    timings = alternate(runs, repeats=repeats)
    return [
        {
            "peer": name, "elements": elements, "threads": threads, "error": errors[name],
            "bytes_per_element": moved(name, kinds[name]) if name.startswith("fusedstep") else None,
            "picoseconds_per_element": 1e12 * timing.median / elements, **timing.as_dict(),
        }
        for name, timing in timings.items()
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="4194304,1e8")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", default=None)
    parser.add_argument("--png", default=None, help="bars of picoseconds per parameter")
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    from fusedstep.bench import machine, picture, report
    from fusedstep.bench.timing import ratio

    found: list[dict[str, Any]] = []
    bars: dict[str, dict[str, float]] = {}
    for text in chosen.sizes.split(","):
        elements = int(float(text))
        rows = measure(elements, threads, chosen.repeats)
        found += rows
        base = next(row for row in rows if row["peer"] == "fusedstep float32")
        table = []
        for row in rows:
            bytes_moved = row["bytes_per_element"]
            low, high = row["quartiles"]
            table.append([
                row["peer"],
                f"{bytes_moved:.2f}" if bytes_moved else "-",
                f"{base['bytes_per_element'] / bytes_moved:.2f}x" if bytes_moved else "-",
                f"{row['microseconds']:,.0f} ±{50 * (high - low) / row['microseconds']:.0f}%",
                f"{ratio(base['turns'], row['turns']):.3f}x",
                f"{1e-3 * row['picoseconds_per_element']:.3f}",
                f"{row['error']:.1%}",
            ])  # fmt: skip
        header = ["storage", "bytes", "limit", "us", "times float32's speed", "ns/parameter", "error"]
        report.show(f"Adam, {report.size(elements)} parameters, {threads} threads", header, table)
        bars[report.size(elements)] = {row["peer"]: row["picoseconds_per_element"] for row in rows}
    described = machine.describe()
    if chosen.json:
        report.write_json(chosen.json, {"machine": described, "results": found})
    if chosen.png:
        title = f"Adam by storage, {threads} threads"
        picture.bars(chosen.png, title, bars, unit="picoseconds a parameter", caption=machine.summary(described))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
