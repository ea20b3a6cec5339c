"""Show that a step takes as long after 3,000 steps of zero gradients as before: states never become
subnormal.

    python benchmarks/subnormal.py [--png FILE]

A first moment shrinks by 0.9 a step, so it leaves the normal float32 numbers after some 800 steps of zero
gradients and, without a rule against it, stays among the subnormal ones, on which processors may be many
times slower.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

import environment

STEPS = 3_000
WINDOW = 100
WARM = 5


def contestants(elements: int, threads: int) -> dict[str, Callable[[], object]]:
    """Return the steps to watch, each with states from a few real gradients and zero gradients from now
    on."""
    from adapters import RULES, Problem, load
    from fusedstep.bench import arrays

    offered, _ = load(["fusedstep", "torch fused", "numba", "deepspeed"])
    offered = {
        name: peer for name, peer in offered.items() if name in ("fusedstep", "torch fused", "numba", "deepspeed")
    }
    steps: dict[str, Callable[[], object]] = {}
    for name, peer in offered.items():
        grad = arrays.fill((elements,), "grad", np.float32)
        problem = Problem(RULES["adam"], "float32", [arrays.fill((elements,), "param", np.float32)], [grad], threads)
        session = peer.build(problem)
        for _ in range(WARM):
            session.step()
        grad[...] = 0.0
        steps[name] = session.step
    return steps


def watch(steps: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Return the median seconds of a step in each window of 100 steps, the contestants taking turns by
    windows."""
    windows: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.perf_counter
    for _ in range(STEPS // WINDOW):
        for name, step in steps.items():
            time.sleep(0.01)
            taken: list[float] = []
            for _ in range(WINDOW):
                start = clock()
                step()
                taken.append(clock() - start)
            windows[name].append(median(taken))
    return windows


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=100_000)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", default=None)
    parser.add_argument("--png", default=None)
    chosen = parser.parse_args(arguments)
    threads = environment.prepare(chosen.threads)
    from fusedstep.bench import machine, report

    windows = watch(contestants(chosen.elements, threads))
    rows = []
    for name, figures in windows.items():
        first = median(figures[:3])
        cells = [figures[place] for place in (0, 5, 7, 8, 9, 10, 12, 15, 20, 29)]
        rows.append([name, *(report.duration(cell) for cell in cells), f"{max(figures[3:]) / first:.2f}"])
    starts = [str(WINDOW * place) for place in (0, 5, 7, 8, 9, 10, 12, 15, 20, 29)]
    title = f"Adam, {report.size(chosen.elements)} elements, zero gradients: microseconds a step from step"
    report.show(title, ["peer", *starts, "worst/first"], rows)
    if chosen.json:
        report.write_json(chosen.json, {"machine": machine.describe(), "window": WINDOW, "seconds": windows})
    if chosen.png:
        draw(chosen.png, windows, title)
    return 0


def draw(path: str, windows: dict[str, list[float]], title: str) -> None:
    """Write the picture: microseconds over steps."""
    from fusedstep.bench import picture

    figure: Any
    figure, axes = picture.figure(8.0, 4.4)
    for name, colour in picture.colours(list(windows)).items():
        axes.plot(
            [WINDOW * (place + 0.5) for place in range(len(windows[name]))],
            [1e6 * value for value in windows[name]],
            color=colour,
            label=name,
            linewidth=2.4 if name == "fusedstep" else 1.4,
        )
    axes.set_xlabel("steps of zero gradients")
    axes.set_ylabel("microseconds a step")
    axes.set_ylim(bottom=0)
    axes.set_title(title.partition(":")[0])
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
    picture.finish(figure, path)


if __name__ == "__main__":
    raise SystemExit(main())
