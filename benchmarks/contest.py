"""Contestants: a peer in this process, or in a process of its own that takes its turns on request."""

from __future__ import annotations

import gc
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import models
from adapters import RULES, Array, Peer, Problem, Session, Unsupported, load
from fusedstep.bench import arrays
from fusedstep.bench.timing import runner

CHECKED_STEPS = 3
"""Steps whose result is compared with the expectation before a peer is timed."""

LARGEST_WHOLE = 30_000_000
"""Elements up to which a case is stepped whole in float64 for a comparison."""


@cache
def expected(rule: str) -> tuple[Array, float]:
    """Return one tile after the checked steps, in float64, and the largest change of an element.

    Computed by plain NumPy where the rule has a plain form here, else by torch's (or optax's) float64 step.
    """
    start = arrays.tile("param").astype(np.float64)
    problem = Problem(RULES[rule], "float64", [start], [arrays.tile("grad").astype(np.float64)], 1)
    result = stepped(problem)[0]
    return result, float(np.max(np.abs(result - start)))


@cache
def expected_whole(case: str, rule: str) -> tuple[list[Array], float]:
    """Return the same of all tensors of a case, for rules with sums over them."""
    if models.elements(models.CASES[case]) > LARGEST_WHOLE:
        raise Unsupported(f"{rule} is checked up to {LARGEST_WHOLE:,} elements")
    problem = problem_of(case, rule, "float64", 1)
    result = stepped(problem)
    pairs = zip(result, problem.params, strict=True)
    return result, max(float(np.max(np.abs(after - before))) for after, before in pairs)


def stepped(problem: Problem) -> list[Array]:
    """Return the tensors of a float64 problem after the checked steps of the first peer that has the rule."""
    for name in ("numpy", "torch single", "optax jit", "pytorch_optimizer"):
        offered, _ = load([name])
        try:
            session = offered[name].build(problem)
        except (KeyError, Unsupported):
            continue
        for _ in range(CHECKED_STEPS):
            if session.before is not None:
                session.before()
            session.step()
        result = [np.array(value) for value in session.values()]
        if result[0].dtype == np.float64:
            return result
    raise Unsupported(f"nothing here computes {problem.rule.name} in float64 to compare with")


def tolerance(dtype: str, change: float) -> tuple[float, float]:
    """Return ``(atol, rtol)``: a thousandth of the largest change, and four roundings of the parameter.

    A thousandth leaves room for the places where epsilon is added; a missing bias correction or a wrong
    constant is hundreds of times larger.
    """
    return 1e-3 * change, 4.0 * float(np.finfo(dtype).eps)


def problem_of(case: str, rule: str, dtype: str, threads: int) -> Problem:
    """Return the case's problem, every tensor filled from the tile where the one before it ended."""
    shapes = models.CASES[case]
    starts = list(itertools.accumulate((math.prod(shape) for shape in shapes), initial=0))
    # As in a program: the parameters are made one after the other, and so are the gradients.
    params = [arrays.fill(shape, "param", dtype, start) for shape, start in zip(shapes, starts, strict=False)]
    grads = [arrays.fill(shape, "grad", dtype, start) for shape, start in zip(shapes, starts, strict=False)]
    return Problem(RULES[rule], dtype, params, grads, threads)


def wrong_elements(values: Sequence[Array], case: str, rule: str, dtype: str) -> int:
    """Return how many elements of all tensors are not what is expected, within the tolerance."""
    if RULES[rule].whole:
        wanted, change = expected_whole(case, rule)
        atol, rtol = tolerance(dtype, change)
        pairs = zip(values, wanted, strict=True)
        return sum(int(np.count_nonzero(~np.isclose(v, w, rtol=rtol, atol=atol))) for v, w in pairs)
    result, change = expected(rule)
    atol, rtol = tolerance(dtype, change)
    wrong = 0
    start = 0
    for value in values:
        wrong += arrays.differing(value, result, start, atol=atol, rtol=rtol)
        start += value.size
    return wrong


class Local:
    """A peer in this process."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.session: Session | None = None

    def prepare(self, case: str, rule: str, dtype: str, threads: int, problem: Problem | None = None) -> str:
        """Build the step and check its result; return why it takes no part, or an empty string."""
        if models.elements(models.CASES[case]) > self.peer.most:
            return "too slow at this size"
        try:
            given = problem_of(case, rule, dtype, threads) if problem is None else problem
            session = self.peer.build(given)
            for _ in range(CHECKED_STEPS):
                if session.before is not None:
                    session.before()
                session.step()
            wrong = wrong_elements(session.values(), case, rule, dtype)
        except Unsupported as reason:
            return str(reason)
        if wrong:
            return f"WRONG: {wrong} elements"
        self.session = session
        return ""

    def run(self, number: int) -> float:
        """Make ``number`` steps; return the seconds."""
        assert self.session is not None
        return runner(self.session.step, self.session.before)(number)

    def release(self) -> None:
        """Give the arrays back."""
        self.session = None
        gc.collect()

    def close(self) -> None:
        """Nothing to end."""


class Remote:
    """A peer in a process of its own; this one waits while that one works."""

    def __init__(self, name: str) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).resolve()), name]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.missing: list[str] = self._answer()  # modules that could not be imported

    def _ask(self, *words: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            if line.startswith("= "):
                return json.loads(line[2:])
        raise RuntimeError(f"the process of {self.name} ended with status {self.process.wait()}")

    def prepare(self, case: str, rule: str, dtype: str, threads: int, problem: Problem | None = None) -> str:
        """As :meth:`Local.prepare`; the problem is built in the other process."""
        return str(self._ask("prepare", case, rule, dtype, threads))

    def run(self, number: int) -> float:
        """As :meth:`Local.run`; timed in the other process."""
        return float(self._ask("run", number))

    def release(self) -> None:
        """As :meth:`Local.release`."""
        self._ask("release")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def stream_run(case: str, dtype: str, states: int, threads: int) -> Any:
    """Return the streaming limit as a contestant: one pass over a step's arrays that computes nothing.

    One tensor with all the case's elements: what the memory allows, with no cost per tensor.
    """
    import fusedstep as fs
    from fusedstep import _core

    fs.set_num_threads(threads)

    count = models.elements(models.CASES[case])
    count = count * np.dtype(dtype).itemsize // 4
    written = [arrays.fill((count,), "param", np.float32) for _ in range(1 + states)]
    read = [arrays.fill((count,), "grad", np.float32)]
    return runner(lambda: _core.stream(written, read))


def moved(case: str, dtype: str, states: int) -> int:
    """Return the bytes a step must move: parameter and states read and written, the gradient read."""
    return models.elements(models.CASES[case]) * np.dtype(dtype).itemsize * (2 + 2 * states + 1)


def serve(name: str) -> None:
    """Take turns as told on standard input (the other end of :class:`Remote`)."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(answer: Any) -> None:
        answers.write("= " + json.dumps(answer) + "\n")
        answers.flush()

    offered, missing = load([name])
    tell(missing)
    if missing:
        return
    contestant = Local(offered[name])
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        tell(getattr(contestant, verb)(*rest))


if __name__ == "__main__":
    serve(sys.argv[1])
