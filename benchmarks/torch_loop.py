"""A training loop that alternates torch's forward and backward with a step: torch's own fused one, or ours.

    python benchmarks/torch_loop.py [--json FILE]

Both hold a pool of threads; this shows whether they get in each other's way: seconds of the whole loop
count, with the share spent inside the step beside them. The losses after the loop are compared first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

import environment

MODELS = {
    "small: 64-128-10, batch 32": ((64, 128, 10), 32),
    "middle: 784-1024-512-10, batch 64": ((784, 1024, 512, 10), 64),
    "large: 1024-4096-4096-10, batch 8": ((1024, 4096, 4096, 10), 8),
}


class Loop:
    """One model, one optimizer, a clock inside the step."""

    def __init__(self, layers: Sequence[int], batch: int, way: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        parts: list[Any] = []
        for inputs, outputs in pairwise(layers):
            parts += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
        self.model = torch.nn.Sequential(*parts[:-1])
        self.inputs = torch.randn(batch, layers[0])
        self.targets = torch.randint(layers[-1], (batch,))
        self.loss_of = torch.nn.functional.cross_entropy
        self.params = list(self.model.parameters())
        self.inside = 0.0
        self.loss = 0.0
        self.step, self.keep = self._stepper(way, threads)

    def _stepper(self, way: str, threads: int) -> tuple[Callable[[], object], bool]:
        import torch

        if way == "torch fused":
            return torch.optim.Adam(self.params, lr=1e-3, fused=True).step, False
        import fusedstep as fs

        fs.set_num_threads(threads)
        views = [param.detach().numpy() for param in self.params]
        if way == "fusedstep (passed)":
            optimizer = fs.Adam(views, lr=1e-3)
            return lambda: optimizer.step([param.grad.numpy() for param in self.params]), False
        for param in self.params:
            param.grad = torch.zeros_like(param)
        bound = fs.Adam(views, lr=1e-3, grads=[param.grad.numpy() for param in self.params], zero_grads=True)
        return bound.step, True

    def run(self, number: int) -> float:
        """Make ``number`` iterations; return their seconds in all."""
        clock = time.perf_counter
        start = clock()
        for _ in range(number):
            loss = self.loss_of(self.model(self.inputs), self.targets)
            loss.backward()
            before = clock()
            self.step()
            self.inside += clock() - before
            if not self.keep:
                for param in self.params:
                    param.grad = None
        self.loss = float(loss.detach())
        return clock() - start


WAYS = ("torch fused", "fusedstep", "fusedstep (passed)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the loops in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    from fusedstep.bench import machine, report
    from fusedstep.bench.timing import alternate

    found: list[dict[str, Any]] = []
    rows: list[list[str]] = []
    for name, (layers, batch) in MODELS.items():
        loops = {way: Loop(layers, batch, way, threads) for way in WAYS}
        for loop in loops.values():
            loop.run(5)
        losses = [loop.loss for loop in loops.values()]
        if not np.allclose(losses, losses[0], rtol=1e-3):
            raise SystemExit(f"{name}: losses differ after five steps: {losses}")
        timings = alternate({way: loop.run for way, loop in loops.items()}, repeats=chosen.repeats, sample=0.1)
        for way, loop in loops.items():
            loop.inside = 0.0
            share = loop.run(timings[way].steps)
            found.append({"model": name, "way": way, "share": loop.inside / share, **timings[way].as_dict()})
        rows.append([name, *(f"{f['microseconds']:,.1f} ({100 * f['share']:.0f}%)" for f in found[-len(WAYS) :])])
    report.show("microseconds an iteration (share inside the step)", ["model", *WAYS], rows)
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "results": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
