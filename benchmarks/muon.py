"""Muon beside ``torch.optim.Muon``: the time of a step, and where a training gets in as many steps.

    python benchmarks/muon.py --json out/muon.json
    python benchmarks/muon.py --cases 48x128,24x256 --dtypes bfloat16 --threads 1
    python benchmarks/muon.py --train --steps 300

The parameters after a step are compared, element by element, before anything is timed: torch multiplies in bfloat16, so
they agree to 5 % of how far they went. All run interleaved in one process. With ``--cpu-time`` the clock is the CPU
time of the process, for a machine that others use too; then there should be one thread, as waiting threads spin.

``--train`` trains the character transformer of ``examples/`` with Muon for the matrices of its layers and AdamW for all
else, from the same start with the same batches, by this package and by ``torch.optim``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import environment
import models

OWN, TORCH = "fusedstep", "torch.optim"
DTYPES = ("bfloat16", "float32")
LEARNING_RATES = {"lr": 0.02, "rest": 3e-3}  # of the training


def shapes_of(case: str) -> models.Shapes:
    """Matrices of a case: ``gpt2:LAYERS``, or ``COUNTxWIDTH``."""
    if case.startswith("gpt2"):
        blocks = [shape for shape in models.gpt2_small()[2:] if len(shape) == 2]
        return tuple(blocks[: 4 * int(case.partition(":")[2] or 12)])
    count, width = map(int, case.split("x"))
    return ((width, width),) * count


def steppers(shapes: models.Shapes, dtypes: Sequence[str]) -> dict[str, Callable[[], object]]:
    """torch's optimizer, and this package's with each dtype of the products, checked against it."""
    import torch

    import fusedstep.torch as ft

    found: dict[str, Callable[[], object]] = {}
    wanted: list[Any] = []
    for way in (TORCH, *dtypes):
        generator = torch.Generator().manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        begun = [param.detach().clone() for param in params]
        for param in params:
            param.grad = torch.randn(param.shape, generator=generator)
        if way == TORCH:
            optimizer = torch.optim.Muon(params, lr=0.02, weight_decay=0.0)
        else:
            optimizer = ft.Muon(params, lr=0.02, weight_decay=0.0, ns_dtype=getattr(torch, way))
        optimizer.step()
        moved = [param.detach() - first for param, first in zip(params, begun, strict=True)]
        wanted = wanted or moved
        for mine, theirs in zip(moved, wanted, strict=True):
            assert (mine - theirs).abs().max() <= 0.05 * theirs.abs().max()
        found[way if way == TORCH else f"{OWN} {way}"] = optimizer.step
    return found


def cpu_timed(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of CPU time of each step, one after the other in every round."""
    seconds: dict[str, list[float]] = {way: [] for way in contestants}
    for turn in range(rounds):
        for way in reversed(list(contestants)) if turn % 2 else contestants:
            begun = time.process_time()
            contestants[way]()
            seconds[way].append(time.process_time() - begun)
    return seconds


def run_cases(chosen: argparse.Namespace, threads: int) -> list[dict[str, Any]]:
    """Time the cases, and print a table of them."""
    from fusedstep.bench import report
    from fusedstep.bench.timing import alternate, ratio, runner

    rows, lines = [], []
    dtypes = chosen.dtypes.split(",")
    for case in chosen.cases.split(","):
        contestants = steppers(shapes_of(case), dtypes)
        if chosen.cpu_time:
            seconds = cpu_timed(contestants, chosen.rounds)
        else:
            timings = alternate({w: runner(s) for w, s in contestants.items()}, repeats=chosen.rounds)
            seconds = {way: list(timing.seconds) for way, timing in timings.items()}
        cells = [f"{report.duration(statistics.median(seconds[TORCH]))}"]
        for way in (way for way in seconds if way != TORCH):
            times = ratio(seconds[TORCH], seconds[way])
            fastest = min(seconds[TORCH]) / min(seconds[way])
            cells += [report.duration(statistics.median(seconds[way])), f"{times:.2f}", f"{fastest:.2f}"]
            rows.append({"case": case, "way": way, "threads": threads, "ratio": times, "fastest": fastest})
        report.note(f"{case}: {', '.join(cells)}")
        lines.append([case, *cells])
    header = ["case", TORCH]
    for dtype in dtypes:
        header += [f"{OWN} {dtype}", "torch / ours", "of the fastest"]
    clock = "CPU time" if chosen.cpu_time else "time"
    report.show(f"median {clock} of a step, and torch's relative to it; threads: {threads}", header, lines)
    return rows


def trained(way: str, steps: int, seed: int) -> list[float]:
    """Losses of a training of the character transformer, one for each step."""
    import numpy as np
    import torch

    import fusedstep.torch as ft
    from char_transformer import CharTransformer, manual

    text, alphabet = manual()
    model = CharTransformer(len(alphabet), seed=seed)
    inside = ("query", "mixed", "up", "down")
    hidden = [weight for name, weight in model._weights.items() if name.startswith(inside)]
    others = [weight for name, weight in model._weights.items() if not name.startswith(inside)]
    rate, rest = LEARNING_RATES["lr"], LEARNING_RATES["rest"]
    if way == TORCH:
        optimizers: list[Any] = [torch.optim.Muon(hidden, lr=rate), torch.optim.AdamW(others, lr=rest)]
    else:
        groups = [{"params": hidden}, {"params": others, "rule": "adamw", "lr": rest}]
        optimizers = [ft.Muon(groups, lr=rate, ns_dtype=getattr(torch, way))]
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        starts = rng.integers(0, len(text) - model.context - 1, 16)
        x = np.stack([text[start : start + model.context] for start in starts])
        y = np.stack([text[start + 1 : start + model.context + 1] for start in starts])
        losses.append(model.gradients(x, y))
        for optimizer in optimizers:
            optimizer.step()
    return losses


def run_trainings(steps: int, dtypes: Sequence[str], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train by each way, and print what the last tenth of the steps has as its mean loss."""
    from fusedstep.bench import report

    rows, lines = [], []
    for seed in seeds:
        ends = {}
        for way in (TORCH, *dtypes):
            losses = trained(way, steps, seed)
            ends[way] = statistics.fmean(losses[-max(1, steps // 10) :])
        for way, end in ends.items():
            parts = end / ends[TORCH] - 1
            rows.append({"seed": seed, "way": way, "steps": steps, "loss": end, "beside torch": parts})
            lines.append([str(seed), way if way == TORCH else f"{OWN} {way}", f"{end:.4f}", f"{100 * parts:+.2f} %"])
    report.show(f"mean loss of the last tenth of {steps} steps", ["seed", "way", "loss", "beside torch"], lines, left=2)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="gpt2:12,12x768,24x256,48x128", help="gpt2:LAYERS or COUNTxWIDTH")
    parser.add_argument("--dtypes", default=",".join(DTYPES), help="of this package's products")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--json", help="write the figures")
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    import torch

    import fusedstep
    from fusedstep.bench import machine, report

    sys.path.append(str(Path(__file__).parents[1] / "examples"))
    torch.set_num_threads(threads)
    fusedstep.set_num_threads(threads)
    document: dict[str, Any] = {"machine": machine.describe()}
    if chosen.train:
        document["trainings"] = run_trainings(
            chosen.steps, chosen.dtypes.split(","), [int(seed) for seed in chosen.seeds.split(",")]
        )
    else:
        document["results"] = run_cases(chosen, threads)
    if chosen.json:
        report.write_json(chosen.json, document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
