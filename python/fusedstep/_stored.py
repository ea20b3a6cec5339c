"""Arrays that are still in a file."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Stored"]

Array = NDArray[Any]


class Stored:
    """An array in a file that is open and was checked: what loading needs of an array, read when it is asked for.

    So a checkpoint goes from the file to where it belongs, with no copy of the states in between. It is not mapped into
    memory: a disk that fails, or a file that another program cuts off, would end the process.

    Parameters
    ----------
    read
        Fills a writeable array of bytes from a place in the file.
    start
        The place where the array begins.
    dtype, shape
        The array's.
    """

    def __init__(
        self, read: Callable[[int, Any], None], start: int, dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._read, self._start = read, start
        self.dtype, self.shape = dtype, shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def reshape(self, *shape: int) -> Stored:
        """The same elements in one axis."""
        assert shape == (-1,)
        return Stored(self._read, self._start, self.dtype, (self.size,))

    def __getitem__(self, piece: slice) -> Array:
        """Some of the elements, in C order."""
        start, stop, _ = piece.indices(self.size)
        part = np.empty(max(stop - start, 0), self.dtype)
        self._fill(part, start)
        return part

    def read(self) -> Array:
        """The array, in new memory."""
        made = np.empty(self.shape, self.dtype)
        self.read_into(made)
        return made

    def read_into(self, target: Array) -> None:
        """Write the elements over those of an array that has as many."""
        if target.flags.c_contiguous and target.dtype.itemsize == self.dtype.itemsize and target.dtype.isnative:
            self._fill(target.reshape(-1), 0)
        else:
            target[...] = self.read().reshape(target.shape)

    def _fill(self, target: Array, start: int) -> None:
        size = self.dtype.itemsize
        self._read(self._start + start * size, target.view(np.uint8))
        if sys.byteorder == "big" and size > 1:
            target.view(f"u{size}").byteswap(inplace=True)
