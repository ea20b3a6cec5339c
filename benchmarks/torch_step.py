"""One step of a torch model: ``fusedstep.torch`` beside ``torch.optim``, which take turns.

    python benchmarks/torch_step.py [--cases network,thousand,resnet50,gpt2,training] [--rounds N] [--json FILE]

``opt.step()`` with gradients in place, as a training loop calls it, and whole training steps of two small models. The
parameters after three steps are compared before anything is timed. ``--memory`` shows the peak memory of a process that
updates in the backward pass beside one that does not.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import environment
import models

RULES: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3},
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "RMSprop": {"lr": 1e-3},
}
WAYS: dict[str, dict[str, Any]] = {"torch": {}, "torch foreach": {"foreach": True}, "torch fused": {"fused": True}}
SHAPES: dict[str, Callable[[], models.Shapes]] = {
    "network": models.network,
    "thousand": lambda: ((1000,),) * 1000,
    "resnet50": models.resnet50,
    "gpt2": models.gpt2_small,
}


def steppers(shapes: models.Shapes, rule: str, ways: Sequence[str]) -> dict[str, Callable[[], object]]:
    """One optimizer per way, over parameters of its own with the same values, checked against the first."""
    import torch

    import fusedstep.torch as ft

    found: dict[str, Callable[[], object]] = {}
    wanted: list[Any] = []
    for way, options in [*((way, WAYS[way]) for way in ways), ("fusedstep", {})]:
        if "fused" in options and rule == "RMSprop":
            continue  # torch has no fused RMSprop
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        module = ft if way == "fusedstep" else torch.optim
        optimizer = getattr(module, rule)(params, **RULES[rule], **options)
        for _ in range(3):
            optimizer.step()
        if not wanted:
            wanted = [param.detach().clone() for param in params]
        for param, expected in zip(params, wanted, strict=True):
            torch.testing.assert_close(param.detach(), expected, rtol=1e-5, atol=1e-6)
        found[way] = optimizer.step
    return found


def trainers(kind: str) -> dict[str, Callable[[], object]]:
    """Whole training steps: forward, backward, step, zero_grad."""
    import torch

    import fusedstep.torch as ft

    found: dict[str, Callable[[], object]] = {}
    for way in ("torch fused", "fusedstep"):
        torch.manual_seed(0)
        if kind == "transformer":
            layer = torch.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True)
            model: Any = torch.nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
            x = torch.randn(8, 32, 128)
        else:
            parts = [torch.nn.Linear(784, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU()]
            model, x = torch.nn.Sequential(*parts, torch.nn.Linear(256, 10)), torch.randn(64, 784)
        params = list(model.parameters())
        if way == "fusedstep":
            optimizer: Any = ft.AdamW(params, lr=1e-3)
        else:
            optimizer = torch.optim.AdamW(params, lr=1e-3, fused=True)

        def run(model: Any = model, optimizer: Any = optimizer, x: Any = x) -> None:
            model(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        found[way] = run
    return found


def measure(case: str, rule: str, contestants: dict[str, Callable[[], object]], repeats: int) -> list[dict[str, Any]]:
    """Time one case and print it; return its rows."""
    from fusedstep.bench.timing import alternate, ratio, runner

    timings = alternate({way: runner(step) for way, step in contestants.items()}, repeats=repeats)
    rows = []
    for way, timing in timings.items():
        times = ratio(timing.seconds, timings["fusedstep"].seconds)
        rows.append({"case": case, "rule": rule, "way": way, "ratio": times, **timing.as_dict()})
        low, high = (f"{1e6 * timing.quantile(q):.1f}" for q in (0.25, 0.75))
        print(f"{case:12} {rule:8} {way:14} {1e6 * timing.median:10.1f} us ({low} to {high}) {times:7.2f}", flush=True)
    return rows


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
    parser.add_argument("--cases", default="network,thousand,resnet50,gpt2,training")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--ways", default=",".join(WAYS), help="what of torch to compare with: " + ", ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json")
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

    import torch

    import fusedstep

    torch.set_num_threads(threads)
    fusedstep.set_num_threads(threads)
    print(
        f"torch {torch.__version__}, {threads} threads, {fusedstep.isa()}; the last column is the time over fusedstep's"
    )
    rows = []
    for case in chosen.cases.split(","):
        if case == "training":
            for kind in ("transformer", "MLP"):
                rows += measure(kind, "AdamW", trainers(kind), chosen.rounds)
            continue
        for rule in chosen.rules.split(","):
            rows += measure(case, rule, steppers(SHAPES[case](), rule, chosen.ways.split(",")), chosen.rounds)
    if chosen.json:
        from fusedstep.bench import machine, report

        report.write_json(chosen.json, {"machine": machine.describe(), "results": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
