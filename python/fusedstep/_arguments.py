"""Checks of plain number arguments, with messages that name the argument, what came and what is needed."""

from __future__ import annotations

import math
import numbers
import operator
from typing import SupportsIndex

__all__ = ["real", "whole"]


def real(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    above: float = -math.inf,
    high: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return `value` as a finite Python float inside the bounds.

    Parameters
    ----------
    name : str
        The argument's name, for the message.
    value : object
        What the caller passed: a real number (Python or NumPy), not a bool.
    low, high : float
        Inclusive bounds.
    above, below : float
        Exclusive bounds.

    Raises
    ------
    TypeError
        If `value` is not a real number.
    ValueError
        If it is NaN, infinite or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a real number, got {type(value).__name__}")
    number = float(value)
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        bounds = {">=": low, ">": above, "<=": high, "<": below}
        needed = ["finite", *(f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound))]
        raise ValueError(f"{name} must be {' and '.join(needed)}, got {number!r}")
    return number


def whole(name: str, value: object, *, low: int = 0) -> int:
    """Return `value` as a Python int of at least `low`.

    Raises
    ------
    TypeError
        If `value` is not an integer (a bool is not one).
    ValueError
        If it is less than `low`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    number = operator.index(value)
    if number < low:
        raise ValueError(f"{name} must be >= {low}, got {number}")
    return number
