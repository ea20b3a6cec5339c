"""Ranges of numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = [
    "CLOSED_WEIGHT",
    "FINITE",
    "INNER_WEIGHT",
    "NON_NEGATIVE",
    "POSITIVE",
    "POSITIVE_OR_INFINITE",
    "WEIGHT",
    "Interval",
]


@dataclass(frozen=True)
class Interval:
    """Real numbers between two bounds; one named in ``open`` (``"low"``, ``"high"``) is itself excluded."""

    low: float = -math.inf
    high: float = math.inf
    open: tuple[str, ...] = ("low", "high")

    def holds(self, value: float) -> bool:
        """Whether ``value`` lies inside; NaN never does."""
        above = value > self.low if "low" in self.open else value >= self.low
        below = value < self.high if "high" in self.open else value <= self.high
        return above and below

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "finite" if math.isinf(self.high) else f"<= {self.high:g} and finite"
        left = f"{'>' if 'low' in self.open else '>='} {self.low:g}"
        if math.isinf(self.high):
            return f"{left} and finite" if "high" in self.open else left
        return f"{left} and {'<' if 'high' in self.open else '<='} {self.high:g}"


FINITE = Interval()
NON_NEGATIVE = Interval(0.0, open=("high",))
POSITIVE = Interval(0.0)
POSITIVE_OR_INFINITE = Interval(0.0, open=("low",))
WEIGHT = Interval(0.0, 1.0, open=("high",))  # how much of an average is kept
INNER_WEIGHT = Interval(0.0, 1.0)
CLOSED_WEIGHT = Interval(0.0, 1.0, open=())
