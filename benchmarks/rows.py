"""A step over some rows of a large table, as embeddings have them, beside torch's sparse gradients.

    python benchmarks/rows.py [--tables 1e4,1e6,1e7] [--rows 1000] [--width 64] [--json FILE]

Every step has other rows, in no order: each once, or drawn from 70% as many so that some come several times. torch gets
what its embeddings give, `sparse_coo` gradients that are not coalesced. The rows of all gradients are compared after
as many steps, and nothing else may have changed, before anything is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np

import environment

RULES = {"SGD": (), "SparseAdam": ("exp_avg", "exp_avg_sq")}
GRADIENTS = 32  # that the steps take in turns

Array = np.ndarray[Any, Any]
Gradients = list[tuple[Array, Array]]
Built = tuple[Callable[[], object], Array]  # the step, and the table that it changes


def gradients(table: int, rows: int, width: int, repeated: bool) -> Gradients:
    """Return numbers of rows and their values."""
    rng = np.random.default_rng(0)
    given = []
    for _ in range(GRADIENTS):
        some = rng.choice(table, rows, replace=False)
        if repeated:
            some = rng.choice(some[: rows * 7 // 10], rows)
        given.append((some.astype(np.int64), rng.standard_normal((rows, width), dtype=np.float32)))
    return given


def with_arrays(rule: str, shape: tuple[int, int], given: Gradients) -> Built:
    """Return this package's step."""
    import fusedstep as fs

    table = np.zeros(shape, np.float32)
    optimizer = getattr(fs, rule)(table, lr=0.01)
    grads = cycle([fs.SparseRows(*one) for one in given])
    return lambda: optimizer.step(next(grads)), table


def with_definition(rule: str, shape: tuple[int, int], given: Gradients) -> Built:
    """Return the same step in NumPy."""
    import fusedstep as fs

    name = {"SGD": "sgd", "SparseAdam": "sparse_adam"}[rule]
    table = np.zeros(shape, np.float32)
    states = [np.zeros(shape, np.float32) for _ in RULES[rule]]
    grads = enumerate(cycle([fs.SparseRows(*one) for one in given]), 1)

    def step() -> None:
        number, grad = next(grads)
        getattr(fs.reference, name)(table, grad, *states, step=number, lr=0.01)

    return step, table


def with_torch(rule: str, shape: tuple[int, int], given: Gradients) -> Built:
    """Return torch's own step."""
    import torch

    return _torch_step(torch.optim, rule, shape, given)


def with_torch_class(rule: str, shape: tuple[int, int], given: Gradients) -> Built:
    """Return the step of this package's class for torch."""
    import fusedstep.torch

    return _torch_step(fusedstep.torch, rule, shape, given)


def _torch_step(library: Any, rule: str, shape: tuple[int, int], given: Gradients) -> Built:
    import torch

    table = np.zeros(shape, np.float32)
    parameter = torch.nn.Parameter(torch.from_numpy(table))
    optimizer = getattr(library, rule)([parameter], lr=0.01)
    pairs = [(torch.from_numpy(rows)[None], torch.from_numpy(values)) for rows, values in given]
    grads = cycle([torch.sparse_coo_tensor(*pair, shape, check_invariants=False) for pair in pairs])

    def step() -> None:
        parameter.grad = next(grads)
        optimizer.step()

    return step, table


WAYS = {
    "fusedstep": with_arrays,
    "its definition in NumPy": with_definition,
    "torch": with_torch,
    "fusedstep.torch": with_torch_class,
}


def measure(rule: str, table: int, rows: int, width: int, repeated: bool, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Check and time every way of one case."""
    from fusedstep.bench import report
    from fusedstep.bench.timing import alternate, runner

    given = gradients(table, rows, width, repeated)
    touched = np.unique(np.concatenate([some for some, _ in given]))
    others = np.setdiff1d(np.arange(min(table, 10 * rows)), touched)
    runs: dict[str, Any] = {}
    expected: Array | None = None
    for way in ways:
        step, changed = WAYS[way](rule, (table, width), given)
        for _ in given:
            step()
        expected = changed[touched] if expected is None else expected
        worst = float(np.max(np.abs(changed[touched] - expected)))
        if worst > 1e-5 or changed[others].any():
            raise SystemExit(f"{rule}, {table} rows, {way}: parameters differ by {worst}")
        runs[way] = runner(step)
    timings = alternate(runs)
    case = {"rule": rule, "table": table, "rows": rows, "width": width, "repeated": repeated}
    report.note(f"{case}: " + ", ".join(f"{n} {report.duration(t.median)}" for n, t in timings.items()))
    return [{**case, "way": way, **timing.as_dict()} for way, timing in timings.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default="1e4,1e6,1e7", help="rows of the tables; each way keeps tables of its own")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rules", default="SGD,SparseAdam")
    parser.add_argument("--ways", default="fusedstep,torch", help="or all: " + ", ".join(WAYS))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads, pages="own")
    import torch

    import fusedstep as fs
    from fusedstep.bench import machine, report
    from fusedstep.bench.timing import ratio

    torch.set_num_threads(threads)
    fs.set_num_threads(threads)
    ways = list(WAYS) if chosen.ways == "all" else chosen.ways.split(",")
    found: list[dict[str, Any]] = []
    table = []
    for rule in chosen.rules.split(","):
        for rows in (int(float(number)) for number in chosen.tables.split(",")):
            for repeated in (False, True):
                figures = measure(rule, rows, chosen.rows, chosen.width, repeated, ways)
                found += figures
                own = figures[0]["turns"]
                cells = [f"{one['microseconds']:,.1f} ({ratio(one['turns'], own):.2f}x)" for one in figures]
                table.append([rule, report.size(rows), "repeated" if repeated else "once", *cells])
    title = f"{chosen.rows} rows of {chosen.width}: microseconds (times the first)"
    report.show(title, ["rule", "table", "rows", *ways], table, left=3)
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "results": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
