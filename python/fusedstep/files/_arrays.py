"""Arrays as files hold them: dtypes, bytes, checksums."""

from __future__ import annotations

import math
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _core, formats
from .._pieces import flat

__all__ = ["DTYPES", "LIMIT", "Entry", "Kind", "Output", "crc32", "entry_of", "in_file_order"]

Array = NDArray[Any]

crc32: Callable[..., int] = getattr(_core, "crc32", zlib.crc32)
"""``zlib.crc32``, in the core where the CPU has an instruction for it."""

LIMIT = 100_000_000
"""Bytes of names and plain values that a file may have at most, as in the package ``safetensors``."""


class Kind(NamedTuple):
    """A dtype of files: its name in each format, and its size in bytes."""

    safetensors: str
    npy: str
    itemsize: int


DTYPES = {
    "float64": Kind("F64", "<f8", 8),
    "float32": Kind("F32", "<f4", 4),
    "float16": Kind("F16", "<f2", 2),
    "bfloat16": Kind("BF16", "|V2", 2),  # as numpy.save has it, which knows no bfloat16
    "int64": Kind("I64", "<i8", 8),
    "int32": Kind("I32", "<i4", 4),
    "int16": Kind("I16", "<i2", 2),
    "int8": Kind("I8", "|i1", 1),
    "uint64": Kind("U64", "<u8", 8),
    "uint32": Kind("U32", "<u4", 4),
    "uint16": Kind("U16", "<u2", 2),
    "uint8": Kind("U8", "|u1", 1),
    "bool": Kind("BOOL", "|b1", 1),
}


class Entry(NamedTuple):
    """An array of a file. `crc` is what its format takes the checksum of: in .npz with the header of the .npy."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    crc: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def entry_of(name: str, array: Array) -> Entry:
    """The entry of an array.

    Raises
    ------
    TypeError
        Its dtype has no place in the files.
    """
    bfloat16 = formats.is_bfloat16(array.dtype) or array.dtype == np.dtype("V2")
    dtype = "bfloat16" if bfloat16 else array.dtype.name
    if dtype not in DTYPES or hasattr(array, "mask"):
        what = "a masked array" if hasattr(array, "mask") else f"dtype {array.dtype}"
        raise TypeError(f"{name}: got {what}, needs an array of {', '.join(DTYPES)}")
    return Entry(name, dtype, array.shape)


def in_file_order(entries: Sequence[Entry]) -> list[int]:
    """The numbers of the arrays as they follow one another in a file: so each begins at a multiple of its itemsize."""
    return sorted(range(len(entries)), key=lambda number: -DTYPES[entries[number].dtype].itemsize)


class Output:
    """Bytes on their way to a file, through memory of this object's own.

    What is checked is what is written, even if another thread changes an array meanwhile: the checksum is that of the
    copy. The copy lies in the cache when its checksum is taken and when the system reads it.

    Parameters
    ----------
    write
        Takes bytes, all of them.
    """

    SIZE = 1 << 18  # bytes; half and twice as many are slower here

    def __init__(self, write: Callable[[Any], object]) -> None:
        self._write = write
        self._buffer = np.empty(self.SIZE, np.uint8)
        self._used = 0

    def put(self, data: bytes) -> None:
        """Write some bytes."""
        self._put(np.frombuffer(data, np.uint8), 0)

    def put_array(self, array: Array, crc: int) -> int:
        """Write an array's elements in C order, little-endian; `crc` continued over them."""
        bits = array.view(f"{array.dtype.byteorder.replace('|', '=')}u{array.dtype.itemsize}")
        elements = flat(bits)
        if bits.flags.c_contiguous and (sys.byteorder == "little") == bits.dtype.isnative:
            return self._put(elements.view(np.uint8), crc)
        count = self.SIZE // array.dtype.itemsize
        for start in range(0, array.size, count):
            part = elements[start : start + count]
            crc = self._put(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).view(np.uint8), crc)
        return crc

    def _put(self, data: NDArray[np.uint8], crc: int) -> int:
        start = 0
        while start < data.size:
            free = self.SIZE - self._used
            part = data[start : start + free]
            place = self._buffer[self._used : self._used + part.size]
            place[...] = part
            crc = crc32(place, crc)
            self._used += part.size
            start += part.size
            if self._used == self.SIZE:
                self.flush()
        return crc

    def flush(self) -> None:
        """Hand on what is in the buffer."""
        self._write(self._buffer[: self._used])
        self._used = 0
