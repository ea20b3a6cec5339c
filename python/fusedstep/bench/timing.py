"""Timing of several computations against one another: alternating rounds, medians and quartiles.

Two figures taken a minute apart compare the machine's mood as much as the code, so everything that is
compared is timed in turns within one run, and what is reported is the median of the turns with its quartiles.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any

__all__ = ["Timing", "alternate", "ratio", "runner"]

Run = Callable[[int], float]
"""Takes a number of steps, makes them, returns the seconds they took together."""


@dataclass(frozen=True)
class Timing:
    """Seconds a step took, one figure per turn.

    Attributes
    ----------
    seconds : tuple of float
        Mean seconds of one step in each turn.
    steps : int
        Steps in each turn.
    """

    seconds: tuple[float, ...]
    steps: int

    def quantile(self, q: float) -> float:
        """Return the ``q`` quantile of the turns, linearly interpolated.

        Examples
        --------
        >>> Timing((3.0, 1.0, 2.0), 1).quantile(0.5)
        2.0
        >>> Timing((3.0, 1.0, 2.0, 4.0), 1).quantile(0.25)
        1.75
        """
        ordered = sorted(self.seconds)
        place = q * (len(ordered) - 1)
        low = math.floor(place)
        high = math.ceil(place)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    @property
    def median(self) -> float:
        """The median of the turns, in seconds."""
        return self.quantile(0.5)

    def as_dict(self, moved: int = 0) -> dict[str, Any]:
        """Return the figures for a JSON file; ``moved`` is the bytes one step reads and writes."""
        figures: dict[str, Any] = {
            "microseconds": 1e6 * self.median,
            "quartiles": [1e6 * self.quantile(0.25), 1e6 * self.quantile(0.75)],
            "fastest": 1e6 * min(self.seconds),
            "turns": [round(1e6 * seconds, 4) for seconds in self.seconds],
            "steps": self.steps,
        }
        if moved:
            figures["gbs"] = 1e-9 * moved / self.median
        return figures


def ratio(turns: Sequence[float], own: Sequence[float]) -> float:
    """Return the median over the rounds of how many times longer one took than the other in the same round.

    What slows the whole machine down for some rounds (a neighbour on the same memory) slows both, and leaves this
    figure alone.

    Examples
    --------
    >>> ratio([2.0, 4.0, 20.0], [1.0, 2.0, 10.0])
    2.0
    """
    return median(one / other for one, other in zip(turns, own, strict=True))


def _waited() -> float:
    """Return the seconds this process's threads have been ready to run while something else had the
    processor."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text(encoding="ascii").split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return 1e-9 * total


def _busy() -> bool:
    """Return whether another process wants a processor right now."""
    try:
        return int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0]) > 1
    except (OSError, IndexError, ValueError):
        return False


def _await_quiet(limit: float) -> float:
    """Wait until nothing else runs for a few glances in a row, or ``limit`` seconds; return the seconds."""
    start = time.monotonic()
    quiet = 0
    while quiet < 5 and time.monotonic() - start < limit:
        quiet = 0 if _busy() else quiet + 1
        time.sleep(0.002)
    return time.monotonic() - start


def _undisturbed(run: Run, *, patience: float = 0.3, share: float = 0.01) -> Run:
    """Return ``run`` with turns made again that another process cut into.

    A turn in which the threads waited for a processor for more than ``share`` of its time is made again, until
    one is quiet or ``patience`` seconds have gone; the least disturbed counts. Where the system does not say (no
    ``/proc``), every turn counts.
    """

    def careful(number: int) -> float:
        best = (math.inf, 0.0)
        deadline = time.monotonic() + patience
        while best[0] > share and (best[0] == math.inf or time.monotonic() < deadline):
            before = _waited()
            seconds = run(number)
            best = min(best, ((_waited() - before) / max(seconds, 1e-9), seconds))
        return best[1]

    return careful


def runner(step: Callable[[], object], before: Callable[[], object] | None = None) -> Run:
    """Return a function that calls ``step`` a number of times and returns the seconds that took.

    ``before`` is called ahead of every step and not timed: it puts back what a step uses up, such as a
    gradient that the peer overwrites.
    """

    def run(number: int) -> float:
        clock = time.perf_counter
        turns = repeat(None, number)
        start = clock()
        for _ in turns:
            step()
        return clock() - start

    def restoring(number: int) -> float:
        clock = time.perf_counter
        total = 0.0
        for _ in range(number):
            if before is not None:
                before()
            start = clock()
            step()
            total += clock() - start
        return total

    return _undisturbed(run if before is None else restoring)


def alternate(
    runs: Mapping[str, Run],
    *,
    repeats: int = 9,
    sample: float = 5e-3,
    settle: float = 0.02,
    most: int = 20_000,
    wait: float = 10.0,
) -> dict[str, Timing]:
    """Time several computations in turns.

    Parameters
    ----------
    runs : mapping of str to callable
        Each takes a number of steps, makes them and returns the seconds they took (see :func:`runner`).
    repeats : int
        Turns each computation gets; every second round goes through them backwards.
    sample : float
        Least seconds of steps in one turn; a single step where that takes longer.
    settle : float
        Pause before each turn, in seconds: another library's threads may still be spinning for work.
    most : int
        Most steps in one turn.
    wait : float
        Seconds to wait, in all, for moments in which nothing else runs.

    Returns
    -------
    dict of str to Timing

    Notes
    -----
    Each turn begins with untimed steps, a quarter of the turn and at least one, which bring the turn's own
    data back into the caches and wake its threads.
    """
    number: dict[str, int] = {}
    for name, run in runs.items():
        time.sleep(settle)
        run(1)
        once = min(run(1) for _ in range(2))
        if once < sample:
            some = max(1, min(most, int(0.2 * sample / max(once, 1e-9))))
            once = run(some) / some
        number[name] = max(1, min(most, math.ceil(sample / max(once, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            for name in reversed(list(runs)) if turn % 2 else runs:
                time.sleep(settle)
                wait -= _await_quiet(wait)
                runs[name](max(1, number[name] // 4))
                seconds[name].append(runs[name](number[name]) / number[name])
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(figures), number[name]) for name, figures in seconds.items()}
