"""Where the memory of an array begins and ends, and whether its elements share it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

__all__ = ["bounds", "overlaps_itself"]


def bounds(array: NDArray[Any]) -> tuple[int, int]:
    """Addresses of an array's first byte and behind its last."""
    begin: int = array.__array_interface__["data"][0]
    if array.flags.c_contiguous:
        return begin, begin + array.nbytes
    reach = [(size - 1) * stride for size, stride in zip(array.shape, array.strides, strict=True)]
    return begin + sum(r for r in reach if r < 0), begin + sum(r for r in reach if r > 0) + array.itemsize


def overlaps_itself(strides: Iterable[int], shape: Iterable[int], width: int = 1) -> bool:
    """Whether the elements of an axis lie within those of axes of smaller strides; `width` is an element's.

    Examples
    --------
    >>> overlaps_itself((1, 3), (3, 2)), overlaps_itself((0,), (4,)), overlaps_itself((1, 2), (3, 2))
    (False, True, True)
    """
    reach = width
    for stride, size in sorted((abs(stride), size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride < reach:
            return True
        reach += (size - 1) * stride
    return False
