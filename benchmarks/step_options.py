"""Step options in the same pass as the step and in passes of its own, and torch's way.

    python benchmarks/step_options.py [--cases 1e6,1e7,gpt2] [--json FILE]

Each row adds one thing to an Adam step: unscaling (``grad_scale``), clipping by the global norm, clipping by
value, skipping steps with infinities, an average of the parameters, zeroing the gradients; the last row has
them all. Columns: this package in one pass; this package's step with the rest in NumPy; torch's fused step
with torch's own functions (``clip_grad_norm_`` and the foreach ones). Parameters are compared before anything
is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import environment

SCALE = 2.0
NORM = 1.0
CLIP = 0.015
DECAY = 0.999
CHECKED_STEPS = 3

ROWS: dict[str, dict[str, Any]] = {
    "step alone": {},
    "grad_scale": {"grad_scale": SCALE},
    "max_grad_norm": {"max_grad_norm": NORM},
    "clip_value": {"clip_value": CLIP},
    "skip_nonfinite": {"skip_nonfinite": True},
    "ema_decay": {"ema_decay": DECAY},
    "zero_grads": {"zero_grads": True},
}
ROWS["all of it"] = {name: value for options in ROWS.values() for name, value in options.items()}

Arrays = list[np.ndarray[Any, Any]]


def one_pass(params: Arrays, grads: Arrays, options: dict[str, Any], threads: int) -> Callable[[], object]:
    """Return the step that does it all itself."""
    import fusedstep as fs

    fs.set_num_threads(threads)
    given = dict(options)
    scale = given.pop("grad_scale", 1.0)
    optimizer = fs.Adam(params, grads=grads, **given)
    return lambda: optimizer.step(grad_scale=scale)


def separate(params: Arrays, grads: Arrays, options: dict[str, Any], threads: int) -> Callable[[], object]:
    """Return the same with a bare step of this package and NumPy for the rest."""
    import fusedstep as fs

    fs.set_num_threads(threads)
    optimizer = fs.Adam(params, grads=grads)
    averages = [np.array(param) for param in params] if "ema_decay" in options else []
    rest = np.float32(1.0 - DECAY)

    def step() -> None:
        if "skip_nonfinite" in options and not all(np.isfinite(grad).all() for grad in grads):
            return
        if "grad_scale" in options:
            for grad in grads:
                grad *= np.float32(1.0 / SCALE)
        if "max_grad_norm" in options:
            norm = float(np.sqrt(sum(float(np.vdot(grad, grad)) for grad in grads)))
            for grad in grads:
                grad *= np.float32(min(1.0, NORM / (norm + 1e-6)))
        if "clip_value" in options:
            for grad in grads:
                np.clip(grad, -CLIP, CLIP, out=grad)
        optimizer.step()
        for average, param in zip(averages, params, strict=False):
            average *= np.float32(DECAY)
            average += rest * param
        if "zero_grads" in options:
            for grad in grads:
                grad.fill(0)

    return step


def with_torch(params: Arrays, grads: Arrays, options: dict[str, Any], threads: int) -> Callable[[], object]:
    """Return torch's fused step with torch's functions before and after it."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.nn.Parameter(torch.from_numpy(param)) for param in params]
    given = [torch.from_numpy(grad) for grad in grads]
    for tensor, grad in zip(tensors, given, strict=True):
        tensor.grad = grad
    optimizer = torch.optim.Adam(tensors, fused=True)
    data = [tensor.detach() for tensor in tensors]
    averages = [tensor.clone() for tensor in data] if "ema_decay" in options else []

    def step() -> None:
        if "grad_scale" in options:
            torch._foreach_mul_(given, 1.0 / SCALE)
        if "max_grad_norm" in options or "skip_nonfinite" in options:
            most = NORM if "max_grad_norm" in options else float("inf")
            norm = torch.nn.utils.clip_grad_norm_(tensors, most, foreach=True)
            if "skip_nonfinite" in options and not torch.isfinite(norm):
                return
        if "clip_value" in options:
            torch.nn.utils.clip_grad_value_(tensors, CLIP, foreach=True)
        optimizer.step()
        if averages:
            torch._foreach_lerp_(averages, data, 1.0 - DECAY)
        if "zero_grads" in options:
            torch._foreach_zero_(given)

    return step


WAYS = {"fusedstep, one pass": one_pass, "fusedstep, separate passes": separate, "torch fused": with_torch}


def measure(case: str, threads: int, repeats: int) -> list[dict[str, Any]]:
    """Check and time every row of one case."""
    import models
    from fusedstep.bench import arrays, report
    from fusedstep.bench.timing import alternate, runner

    shapes = models.CASES[case]
    starts = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes)])
    pairs = list(zip(shapes, starts.tolist(), strict=False))
    source = [arrays.fill(shape, "grad", np.float32, start) for shape, start in pairs]
    found: list[dict[str, Any]] = []
    for row, options in ROWS.items():
        runs: dict[str, Any] = {}
        first: Arrays = []
        for way, build in WAYS.items():
            params = [arrays.fill(shape, "param", np.float32, start) for shape, start in pairs]
            grads = [np.array(grad) for grad in source]

            def restore(grads: Arrays = grads) -> None:
                for grad, given in zip(grads, source, strict=True):
                    np.copyto(grad, given)

            step = build(params, grads, options, threads)
            for _ in range(CHECKED_STEPS):
                restore()
                step()
            first = first or [np.array(param) for param in params]
            worst = max(float(np.max(np.abs(a - b))) for a, b in zip(first, params, strict=True))
            if worst > 1e-5:
                raise SystemExit(f"{case}, {row}, {way}: parameters differ by {worst}")
            changed = {"grad_scale", "max_grad_norm", "clip_value", "zero_grads"} & options.keys()
            needed = changed if build is not one_pass else "zero_grads" in options
            runs[way] = runner(step, restore if needed else None)
        timings = alternate(runs, repeats=repeats)
        report.note(f"{case} {row}: " + ", ".join(f"{n} {report.duration(t.median)}" for n, t in timings.items()))
        found += [{"case": case, "row": row, "way": way, **t.as_dict()} for way, t in timings.items()]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="1e6,1e7,resnet50")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    from fusedstep.bench import machine, report
    from fusedstep.bench.timing import ratio

    found: list[dict[str, Any]] = []
    for case in chosen.cases.split(","):
        rows = measure(case, threads, chosen.repeats)
        found += rows
        table = []
        for row in ROWS:
            figures = {one["way"]: one for one in rows if one["row"] == row}
            own = figures["fusedstep, one pass"]["turns"]
            cells = [f"{o['microseconds']:,.1f} ({ratio(o['turns'], own):.2f}x)" for o in figures.values()]
            table.append([row, *cells])
        report.show(f"Adam, {case}: microseconds (times the one pass)", ["step options", *WAYS], table)
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "results": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
