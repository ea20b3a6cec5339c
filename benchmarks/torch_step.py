"""One step of a torch model: ``fusedstep.torch`` beside ``torch.optim`` and DeepSpeed's CPUAdam, which take turns.

    python benchmarks/torch_step.py --json out/torch_step.json
    python benchmarks/torch_step.py --cases thousand --rules Adam,SGD --ways "torch fused,deepspeed"
    python benchmarks/torch_step.py --json out/torch_step.json --render

``opt.step()`` with gradients in place, as a training loop calls it; ``loops.py`` times whole loops. Parameters after
three steps are compared, element by element, before anything is timed. ``--memory`` shows the peak memory of a process
that updates in the backward pass beside one that does not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import environment
import models

RULES: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 1e-2},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "RMSprop": {"lr": 1e-3},
}
WAYS: dict[str, dict[str, Any]] = {
    "torch": {},
    "torch foreach": {"foreach": True},
    "torch fused": {"fused": True},
    "deepspeed": {},
}
OWN = "fusedstep"
Row = dict[str, Any]
KEYS = ("case", "rule", "way", "threads")
SHAPES: dict[str, Callable[[], models.Shapes]] = {
    "network": models.network,
    "thousand": lambda: ((1000,),) * 1000,
    "resnet50": models.resnet50,
    "gpt2": models.gpt2_small,
}


def offers(way: str, rule: str) -> bool:
    """Return whether there is such an optimizer: torch has no fused RMSprop, DeepSpeed steps Adam and AdamW here."""
    return {"torch fused": rule != "RMSprop", "deepspeed": rule in ("Adam", "AdamW")}.get(way, True)


def optimizer_of(way: str, rule: str, params: list[Any]) -> Any:
    """Make one contestant's optimizer."""
    import torch

    import fusedstep.torch as ft

    if way == "deepspeed":
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(params, adamw_mode=rule == "AdamW", **RULES[rule])
    if way == OWN:
        return getattr(ft, rule)(params, **RULES[rule])
    return getattr(torch.optim, rule)(params, **RULES[rule], **WAYS[way])


def steppers(shapes: models.Shapes, rule: str, ways: Sequence[str]) -> dict[str, Callable[[], object]]:
    """One optimizer per way, over parameters of its own with the same values, checked against the first."""
    import torch

    found: dict[str, Callable[[], object]] = {}
    wanted: list[Any] = []
    for way in [*(way for way in ways if offers(way, rule)), OWN]:
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        optimizer = optimizer_of(way, rule, params)
        for _ in range(3):
            optimizer.step()
        if not wanted:
            wanted = [param.detach().clone() for param in params]
        for param, expected in zip(params, wanted, strict=True):
            torch.testing.assert_close(param.detach(), expected, rtol=1e-5, atol=1e-6)
        found[way] = optimizer.step
    return found


def measure(case: str, rule: str, contestants: dict[str, Callable[[], object]], repeats: int) -> list[Row]:
    """Time one case and print it; return its rows."""
    from fusedstep.bench import report
    from fusedstep.bench.timing import alternate, ratio, runner

    timings = alternate({way: runner(step) for way, step in contestants.items()}, repeats=repeats)
    rows = []
    for way, timing in timings.items():
        times = ratio(timing.seconds, timings[OWN].seconds)
        rows.append({"case": case, "rule": rule, "way": way, "ratio": times, **timing.as_dict()})
    report.note(f"{case} {rule}: " + ", ".join(f"{way} {report.duration(t.median)}" for way, t in timings.items()))
    return rows


def run_cases(chosen: argparse.Namespace, threads: int, document: dict[str, Any]) -> None:
    """Time what the command line names into ``document``, and write it after every case."""
    import torch

    import fusedstep
    from fusedstep.bench import machine, report

    torch.set_num_threads(threads)
    fusedstep.set_num_threads(threads)
    ways = chosen.ways.split(",")
    if "deepspeed" in ways:
        try:
            import deepspeed  # noqa: F401
        except ImportError as error:
            ways.remove("deepspeed")
            report.note(f"not installed: deepspeed ({error})")
    document["machine"] = machine.describe()
    for case in chosen.cases.split(","):
        for rule in chosen.rules.split(","):
            contestants = steppers(SHAPES[case](), rule, ways)
            rows = measure(case, rule, contestants, chosen.rounds)
            again = {(row["case"], row["rule"], row["way"], threads) for row in rows}
            kept = [row for row in document["results"] if tuple(row[key] for key in KEYS) not in again]
            document["results"] = kept + [row | {"threads": threads} for row in rows]
            if chosen.json:
                report.write_json(chosen.json, document)


def show(document: dict[str, Any]) -> None:
    """Print a table for each number of threads."""
    from fusedstep.bench import machine, report

    described = document["machine"]
    versions = ", ".join(
        f"{name} {described['versions'][name]}" for name in ("torch", "deepspeed") if name in described["versions"]
    )
    print(f"{described['date']}  {machine.summary(described)}, {versions}")
    for threads, group in groupby(sorted(document["results"], key=lambda row: row["threads"]), lambda r: r["threads"]):
        cases: dict[tuple[str, str], dict[str, Row]] = {}
        for row in group:
            cases.setdefault((row["case"], row["rule"]), {})[row["way"]] = row
        ways = [way for way in (OWN, *WAYS) if any(way in rows for rows in cases.values())]
        lines = [[*case, *(_cell(rows.get(way)) for way in ways)] for case, rows in cases.items()]
        title = f"microseconds of a step (median ± half the quartile range, times {OWN}'s), threads: {threads}"
        report.show(title, ["case", "rule", *ways], lines, left=2)


def _cell(row: Row | None) -> str:
    from fusedstep.bench import report

    if row is None:
        return "-"
    low, high = row["quartiles"]
    spread = f"{report.duration(1e-6 * row['microseconds'])} ±{50 * (high - low) / row['microseconds']:.0f}%"
    return spread if row["way"] == OWN else f"{spread} ({row['ratio']:.2f})"


def peak(way: str) -> float:
    """MiB that a training run of a deep network adds to the process at its peak."""
    import torch

    import fusedstep.torch as ft

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(1024, 1024, bias=False) for _ in range(48)))
    if way == "in backward":
        optimizer: Any = ft.apply_in_backward(model, ft.SGD, lr=1e-4)
    else:
        optimizer = ft.SGD(model.parameters(), lr=1e-4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        model(torch.randn(4, 1024)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cases that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(SHAPES))
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--ways", default=",".join(WAYS), help="what to compare with: " + ", ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", help="write the figures; with --merge, add to those there")
    parser.add_argument("--merge", action="store_true")
    parser.add_argument("--render", action="store_true", help="time nothing: the tables of --json")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    if chosen.peak:
        print(peak(chosen.peak))
        return 0
    if chosen.memory:
        for way in ("step", "in backward"):
            run = subprocess.run([sys.executable, __file__, "--peak", way], capture_output=True, text=True, check=True)
            print(f"{way:12} {float(run.stdout):8.0f} MiB beyond the model of 192 MiB")
        return 0

    from fusedstep.bench import report

    document: dict[str, Any] = {"results": []}
    if chosen.json and (chosen.merge or chosen.render) and Path(chosen.json).exists():
        document = report.read_json(chosen.json)
    if not chosen.render:
        run_cases(chosen, threads, document)
    show(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
