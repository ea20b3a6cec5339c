"""Objects that pickle or copy makes again: what they were made of is checked, as a file may be edited or of others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["restoring"]

# The exceptions that wrong entries cause, in whatever code reads them first.
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@contextlib.contextmanager
def restoring(made: Any, state: Any, needed: Iterable[str], unknown: Iterable[str] = ()) -> Iterator[None]:
    """Check the entries of a state; within, whatever is wrong with them is one error that leaves the object as it was.

    Parameters
    ----------
    made
        The object, whose attributes will be set.
    state
        What ``__setstate__`` was given.
    needed, unknown
        Names that it must have, and must not have.

    Raises
    ------
    TypeError
        It is no dict.
    ValueError
        An entry is missing, unknown or does not fit. The object has the attributes that it had.
    """
    kind = type(made).__name__
    if not isinstance(state, dict):
        raise TypeError(f"{kind}: got a state of {type(state).__name__}, needs the dict that pickling one makes")
    for what, names in (("without", set(needed) - state.keys()), ("with an unknown", set(unknown) & state.keys())):
        if names:
            raise ValueError(
                f"{kind}: got a state {what} entry {min(names, key=str)!r}, needs the entries that pickling one makes"
            )
    before = dict(vars(made))
    try:
        yield
    except BaseException as error:
        vars(made).clear()
        vars(made).update(before)
        if not isinstance(error, FAULTS):
            raise
        raise ValueError(
            f"{kind}: got a state whose entries do not fit ({type(error).__name__}: {error}), needs the entries that "
            "pickling one makes"
        ) from error
