"""Checks of plain arguments, with messages that name the argument, what came and what is needed."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Container
from typing import Any

import numpy as np

from ._held import check_held

__all__ = [
    "choice",
    "escaped",
    "flag",
    "needs_entries",
    "no_entry",
    "number",
    "overlapping",
    "path_text",
    "real",
    "same",
    "whole",
]

LARGEST_COUNT = 2**63 - 1
"""What a step count may be at most, here as in the optimizers."""


def real(
    name: str,
    value: Any,
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
        raise TypeError(f"{name}: got {type(value).__name__}, needs a real number")
    try:
        number = float(value) + 0.0  # -0 becomes +0: equal values must leave equal bytes
    except OverflowError:
        number = -math.inf if value < 0 else math.inf
    if not (math.isfinite(number) and low <= number <= high and above < number < below):
        bounds = {">=": low, ">": above, "<=": high, "<": below}
        needed = ["finite", *(f"{sign} {bound:g}" for sign, bound in bounds.items() if math.isfinite(bound))]
        raise ValueError(f"{name}: got {number!r}, needs {' and '.join(needed)}")
    return number


def whole(name: str, value: Any, *, low: int = 0, high: int | None = LARGEST_COUNT) -> int:
    """Return `value` as a Python int inside the bounds; `high` of None is no bound.

    Raises
    ------
    TypeError
        If `value` is not an integer (neither a bool nor an array is one).
    ValueError
        If it is out of bounds.
    """
    check_held(value, name)
    try:
        if isinstance(value, (bool, np.ma.MaskedArray)):  # operator.index() gives what is behind a mask
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {type(value).__name__}, needs an integer") from None
    if integer < low:
        raise ValueError(f"{name}: got {integer}, needs >= {low}")
    if high is not None and integer > high:
        raise ValueError(f"{name}: got a larger integer, needs <= {high}")
    return integer


def number(name: str, value: Any) -> float:
    """Return a number as a float, NaN and the infinities included; an array or tensor of one element is one.

    Raises
    ------
    TypeError
        If `value` is not a number (neither a bool nor a masked element is one).
    """
    check_held(value, name)
    try:
        # float() of an array with axes depends on the version of NumPy; its item() does not
        plain = value.item() if hasattr(value, "item") else value
        if hasattr(plain, "__float__") and not isinstance(plain, bool) and not isinstance(value, np.ma.MaskedArray):
            return float(plain)
    except OverflowError:
        return math.inf if plain > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError):  # torch's item() raises the last
        pass
    raise TypeError(f"{name}: got {type(value).__name__}, needs a real number")


def flag(name: str, value: Any) -> bool:
    """Return `value`, or raise TypeError if it is not a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: got {type(value).__name__}, needs a bool")
    return value


def no_entry(where: str, name: Any, needs: str = "one") -> str:
    """The message about an entry that there is not; `where` is what a dict is called."""
    return f"{where}: got no entry " + (f'"{name}"' if isinstance(name, str) else repr(name)) + f", needs {needs}"


def needs_entries(where: str, given: Container[Any], *names: Any, needs: str = "one") -> None:
    """Raise ValueError unless there are entries of all these names."""
    for name in names:
        if name not in given:
            raise ValueError(no_entry(where, name, needs))


def overlapping(name: str, other: str) -> ValueError:
    """The error about an array that shares memory with another, where one of them is written."""
    return ValueError(f"{name}: got memory that overlaps {other}, needs memory of its own")


def same(value: Any, other: Any) -> bool:
    """Whether two plain values are equal; an array or tensor, which compares by element, equals none but itself."""
    plain = isinstance(value, np.generic) or not hasattr(value, "shape")
    return value is other or (plain and bool(value == other))


def choice(name: str, value: Any, choices: tuple[Any, ...]) -> Any:
    """Return `value`, or raise ValueError if it is none of the choices."""
    if not (value is None or isinstance(value, str)) or value not in choices:  # an array equals none
        raise ValueError(f"{name}: got {value!r}, needs one of {', '.join(map(repr, choices))}")
    return value


def escaped(text: str) -> str:
    """A name as the native code and files take it: lone surrogates, as of the names of files, have no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def path_text(name: str, path: Any) -> str:
    """The text of a path, or an error that names the argument."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name}: got {type(text).__name__}, needs text or a pathlib.Path")
    if "\0" in text:
        raise ValueError(f"{name}: got {text!r} with a null character, needs one without")
    return text
