"""Count the instructions of one small step under callgrind: an overhead that grows shows without a clock.

    python benchmarks/instructions.py [--torch] [--json FILE]

Steps of one and of several tensors, of few and of more elements, are counted in one process. The slopes are
the instructions of an element and of a tensor; what is left is the cost of a step as such: the call from
Python, the checks, the constants, the dispatch. ``--torch`` counts steps of `fusedstep.torch.Adam` and of torch's
fused Adam beside them. Valgrind shows programs a processor without AVX-512, so
``avx2`` is counted.
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any

STEPS = 200
ELEMENTS = (1_024, 2_048)
TENSORS = (10, 20)
LENGTH = 64
SHAPES = (*((f"elements {size}", 1, size) for size in ELEMENTS), *((f"tensors {n}", n, LENGTH) for n in TENSORS))
WAYS, TORCH_WAYS = ("bound", "passed"), ("torch", "torch fused")
UNWATCHED = f"elements {ELEMENTS[0]} bound, before it is watched"
BETWEEN = f"elements {ELEMENTS[0]} bound, between two that are watched"
"""Steps of one optimizer: in another's place in memory Python's tables take dozens of instructions more or less."""


def _cases() -> Iterator[tuple[str, Callable[[], object]]]:
    import numpy as np

    import fusedstep as fs

    def arrays(count: int, size: int) -> list[Any]:
        return [np.full(size, 0.5, np.float32) for _ in range(count)]

    def passing(optimizer: fs.Optimizer, grads: list[Any]) -> Callable[[], object]:
        return lambda: optimizer.step(grads)

    for name, count, size in SHAPES:
        yield f"{name} bound", fs.Adam(arrays(count, size), grads=arrays(count, size)).step
        yield f"{name} passed", passing(fs.Adam(arrays(count, size)), arrays(count, size))
    size = ELEMENTS[0]
    between = fs.Adam(arrays(1, size), grads=arrays(1, size))
    yield UNWATCHED, between.step
    between.watch(every=10**9)
    yield BETWEEN, between.step


def _torch_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    import torch

    import fusedstep.torch as ft

    def parameters(count: int, size: int) -> list[Any]:
        made = [torch.nn.Parameter(torch.full((size,), 0.5)) for _ in range(count)]
        for param in made:
            param.grad = torch.full((size,), 0.5)
        return made

    for name, count, size in SHAPES:
        yield f"{name} torch", ft.Adam(parameters(count, size)).step
        yield f"{name} torch fused", torch.optim.Adam(parameters(count, size), fused=True).step


def inner(torch: bool = False) -> None:
    """Make the counted steps; each getppid marks where a count begins or ends."""
    gc.disable()  # a collection would be counted for the case it falls into
    for _, step in _torch_cases() if torch else _cases():
        for _ in range(3):
            step()
        turns = repeat(None, STEPS)
        os.getppid()
        for _ in turns:
            step()
        os.getppid()


def count(torch: bool = False) -> dict[str, float]:
    """Return the instructions of one step of every case, of NumPy arrays or of torch's tensors.

    Raises
    ------
    FileNotFoundError
        Valgrind is not installed.
    RuntimeError
        The program did not run under it.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError("valgrind is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [
            valgrind, "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={folder}/counts",
            sys.executable, str(Path(__file__).resolve()), "--inner",
            *(["--torch"] if torch else []),
        ]  # fmt: skip
        environment = os.environ | {
            "FUSEDSTEP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the steps failed under valgrind: {done.stderr[-2000:]}")
        totals: dict[int, int] = {}
        for file in Path(folder).glob("counts.*"):
            found = re.search(r"^(?:totals|summary): (\d+)", file.read_text(encoding="utf-8"), re.MULTILINE)
            if found:
                totals[int(file.suffix[1:])] = int(found.group(1))
    ordered = [totals[place] for place in sorted(totals)]
    names = _names(torch)
    if len(ordered) < 2 * len(names):
        raise RuntimeError(f"callgrind wrote {len(ordered)} counts for {2 * len(names)} marks")
    return {name: ordered[2 * place + 1] / STEPS for place, name in enumerate(names)}


def _names(torch: bool) -> list[str]:
    ways = TORCH_WAYS if torch else WAYS
    return [*(f"{name} {way}" for name, _, _ in SHAPES for way in ways), *([] if torch else [UNWATCHED, BETWEEN])]


def overheads(counts: dict[str, float], ways: Sequence[str] = WAYS) -> dict[str, float]:
    """Return instructions per element, per tensor beyond its elements, and per step beyond both."""
    found: dict[str, float] = {}
    for how in ways:
        low, high = (counts[f"elements {size} {how}"] for size in ELEMENTS)
        element = (high - low) / (ELEMENTS[1] - ELEMENTS[0])
        few, many = (counts[f"tensors {number} {how}"] for number in TENSORS)
        tensor = (many - few) / (TENSORS[1] - TENSORS[0]) - LENGTH * element
        found[f"element, {how}"] = element
        found[f"tensor, {how}"] = tensor
        found[f"step, {how}"] = low - ELEMENTS[0] * element - tensor
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--torch", action="store_true", help="count steps of torch's tensors")
    parser.add_argument("--json", default=None)
    chosen = parser.parse_args(arguments)
    if chosen.inner:
        inner(chosen.torch)
        return 0
    from fusedstep.bench import report

    counts = count(chosen.torch)
    found = overheads(counts, TORCH_WAYS if chosen.torch else WAYS)
    report.show("instructions a step", ["case", "instructions"], [[n, f"{c:,.0f}"] for n, c in counts.items()])
    report.show("of which per", ["part", "instructions"], [[n, f"{c:,.1f}"] for n, c in found.items()])
    if chosen.json:
        report.write_json(chosen.json, {"counts": counts, "parts": found})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
