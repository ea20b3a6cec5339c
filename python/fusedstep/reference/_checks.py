"""Checks of the arrays given to a reference function: all of them before the first byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import overlapping

__all__ = ["as_list", "check_array", "check_overlap"]

Array = NDArray[Any]


def as_list(value: Any, name: str, count: int | None) -> list[Any]:
    """The tensors of one argument as a list: ``count`` of them, or a single one where ``count`` is None.

    Raises
    ------
    TypeError
        A single array where lists are in use, or the other way round.
    ValueError
        A list of another length than the parameters'.
    """
    if count is None:
        return [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{name}: got {type(value).__name__}, needs a list of {count} arrays, as param is")
    arrays = list(value)  # a list's class may say another length than it has
    if len(arrays) != count:
        raise ValueError(f"{name}: got {len(arrays)} arrays, needs {count}, as many as param")
    return arrays


def check_array(
    value: Any,
    name: str,
    dtypes: Sequence[np.dtype[Any]],
    shape: tuple[int, ...] | None = None,
    *,
    expect: str = "",
    writeable: bool = True,
) -> Array:
    """Check one array and return its memory as a plain array, as subclasses have arithmetic of their own.

    Parameters
    ----------
    value, name
        What came, and what to call it.
    dtypes, expect
        The dtypes allowed, and how to name them in a message (by default, as they are).
    shape
        The shape needed, or None for any.
    writeable
        Whether it is going to be written.

    Raises
    ------
    TypeError
        Not an array, another dtype, or not in the machine's byte order.
    ValueError
        Another shape, not C-contiguous, not aligned, or read-only.
    """
    wanted = expect or " or ".join(str(dtype) for dtype in dtypes)
    if not isinstance(value, np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: got {type(value).__name__}, needs a NumPy array of {wanted}")
    if not value.dtype.isnative:
        native = f"convert with .astype({value.dtype.name!r})"
        raise TypeError(f"{name}: got {value.dtype.str!r}, needs native byte order; {native}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: got {value.dtype}, needs {wanted}")
    if shape is not None and value.shape != shape:
        raise ValueError(f"{name}: got shape {value.shape}, needs {shape}")
    if not value.flags.c_contiguous:
        raise ValueError(f"{name}: got an array with gaps, needs a C-contiguous one; np.ascontiguousarray copies it")
    if not value.flags.aligned:
        raise ValueError(f"{name}: got an unaligned array, needs one aligned to its dtype; .copy() aligns it")
    if writeable and not value.flags.writeable:
        raise ValueError(f"{name}: got a read-only array, needs a writeable one")
    return np.asarray(value)


def check_overlap(arrays: Sequence[tuple[str, Array, bool]]) -> None:
    """Check that no array that is written shares memory with another one.

    Parameters
    ----------
    arrays
        Name, array, and whether it is written. All are contiguous, so their bounds tell all.

    Raises
    ------
    ValueError
        Two arrays overlap; arrays that are only read may.
    """
    ranges = sorted(
        (array.__array_interface__["data"][0], array.nbytes, index)
        for index, (_, array, _) in enumerate(arrays)
        if array.nbytes
    )
    any_end, any_index, written_end, written_index = (
        0,
        -1,
        0,
        -1,
    )  # how far the arrays seen so far reach, and which does
    for start, nbytes, index in ranges:
        name, _, written = arrays[index]
        end, other = (any_end, any_index) if written else (written_end, written_index)
        if start < end:
            raise overlapping(name, arrays[other][0])
        if start + nbytes > any_end:
            any_end, any_index = start + nbytes, index
        if written and start + nbytes > written_end:
            written_end, written_index = start + nbytes, index
