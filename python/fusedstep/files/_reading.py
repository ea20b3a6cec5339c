"""Files that are read: everything is checked before anything is believed."""

from __future__ import annotations

import contextlib
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import formats
from .._arguments import path_text
from .._stored import Stored
from . import _npz, _safetensors
from ._arrays import DTYPES, Entry, Output, crc32, in_file_order
from ._tree import loads, rebuilt

__all__ = ["VERSION", "Opened"]

VERSION = 1
AXES = 32  # as many as every NumPy takes
LARGEST = 1 << 62  # bytes of an array


class Opened:
    """A file that was saved here: open, and every byte of it checked.

    Parameters
    ----------
    path
        The file; which of the formats it is in, its first bytes say.

    Raises
    ------
    OSError
        It cannot be read.
    ValueError
        It is none that was saved here, or was cut off or changed since. The message names the file and what is wrong.
        No more memory was taken than the file has bytes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path_text("path", path)
        if not stat.S_ISREG(os.stat(self.path).st_mode):
            raise ValueError(f"{self.path}: got no ordinary file, needs one that was saved here")
        self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  (this is a context manager)
        self._whole = False  # not known yet
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._check()
            self._whole = True
        except (ValueError, RecursionError) as error:
            self._file.close()
            raise ValueError(f"{self.path}: {error}") from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    @property
    def sections(self) -> Mapping[str, Any]:
        """What was saved, by name, in the form of an index."""
        return self._sections

    @contextlib.contextmanager
    def named(self) -> Iterator[None]:
        """Let messages of what does not fit begin with the file's name."""
        try:
            yield
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"{self.path}: {error}") from error

    def tree(self, section: str, read: bool = False) -> Any:
        """What was saved under a name, with `Stored` arrays, of one element read already; with `read`, all are.

        Raises
        ------
        ValueError
            There is nothing of that name, or it is of a wrong form.
        """
        if section not in self._sections:
            raise ValueError(f"got a file of {', '.join(self._sections)}, needs one with {section}")
        seen: set[int] = set()

        def array(number: int) -> Any:
            if not 0 <= number < len(self._entries) or number in seen:
                raise ValueError(f"{section}: got array {number} twice or of none, needs each of them once")
            seen.add(number)
            entry = self._entries[number]
            if entry.dtype != "bfloat16":
                dtype = np.dtype(entry.dtype)
            else:  # states go without ml_dtypes
                dtype = formats.bfloat16() if read else np.dtype("V2")
            stored = Stored(self._fill, self._starts[number], dtype, entry.shape)
            return stored.read() if read or stored.size == 1 else stored

        return rebuilt(self._sections[section], array, section)

    # ---- checks ----

    def _check(self) -> None:
        head = self._take(8)
        kind: Any = _npz if head.startswith(_npz.MAGIC) else _safetensors
        text = kind.index_in(head, self._size, self._take)
        try:
            index = loads(text)
        except ValueError as error:
            raise ValueError(f"damaged: {error}") from None
        self._entries, self._sections = _entries(index)
        order = in_file_order(self._entries)
        pieces = kind.frame([self._entries[i] for i in order], text)
        needed = sum(map(len, pieces)) + sum(entry.nbytes for entry in self._entries)
        if self._size != needed:
            what = "was cut off" if self._size < needed else "has something behind its end"
            raise ValueError(f"got {self._size} bytes, needs {needed}: the file {what}")
        self._starts = [0] * len(order)
        place = 0
        for number, piece in zip([*order, None], pieces, strict=True):
            self._file.seek(place)
            if self._take(len(piece)) != piece:
                raise ValueError("got other bytes around its arrays than were saved: the file was changed or damaged")
            place += len(piece)
            if number is not None:
                self._starts[number] = place
                place += self._entries[number].nbytes
        for entry, start in zip(self._entries, self._starts, strict=True):
            crc = kind.first_crc(entry)
            for part in self._parts(start, entry.nbytes):
                crc = crc32(part, crc)
            if crc != entry.crc:
                raise ValueError(
                    f"{entry.name}: got the checksum {crc:08x}, needs {entry.crc:08x}: the file was changed or damaged"
                )

    def _take(self, count: int) -> bytes:
        """The next bytes, fewer only at the end of the file."""
        parts = []
        while count > 0 and (part := self._file.read(count)):
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _parts(self, start: int, count: int) -> Iterator[Any]:
        buffer = np.empty(min(count, Output.SIZE), np.uint8)
        for place in range(0, count, Output.SIZE):
            part = buffer[: min(count - place, buffer.size)]
            self._fill(start + place, part)
            yield part

    def _fill(self, start: int, target: Any) -> None:
        self._file.seek(start)
        done = 0
        while done < target.size:
            got = self._file.readinto(target[done:])
            if not got:
                part = "; what it was loaded into may have changed in part, so load another file" * self._whole
                raise OSError(
                    f"{self.path}: got {start + done} bytes, needs more: the file was cut off meanwhile{part}"
                )
            done += got


def _entries(index: Any) -> tuple[list[Entry], Mapping[str, Any]]:
    """The arrays and the tree of an index, of the right kinds."""
    if not isinstance(index, dict) or not isinstance(version := index.get("version"), int):
        raise ValueError("got an index of another form, needs one that fusedstep writes")
    if version != VERSION:
        raise ValueError(f"got version {version} of the format, needs {VERSION}; another release of fusedstep reads it")
    arrays, tree = index.get("arrays"), index.get("tree")
    if not isinstance(arrays, list) or not isinstance(tree, dict) or len(index) != 3:
        raise ValueError("got an index of another form, needs one that fusedstep writes")
    entries = []
    for entry in arrays:
        if not isinstance(entry, list) or [type(part) for part in entry] != [str, str, list, str]:
            raise ValueError("got an array of another form in the index, needs name, dtype, shape and checksum")
        name, dtype, shape, crc = entry
        if dtype not in DTYPES or not re.fullmatch("[0-9a-f]{8}", crc):
            raise ValueError(f"{name[:60]}: got dtype {dtype[:20]!r} and checksum {crc[:20]!r}, needs others")
        fits = len(shape) <= AXES and all(type(size) is int and 0 <= size < LARGEST for size in shape)
        if not fits or math.prod(size or 1 for size in shape) * DTYPES[dtype].itemsize >= LARGEST:
            raise ValueError(f"{name[:60]}: got a shape that no array has, needs at most {AXES} axes, and fewer bytes")
        entries.append(Entry(name, dtype, tuple(shape), int(crc, 16)))
    if len({entry.name for entry in entries}) != len(entries):
        raise ValueError("got two arrays of one name, needs a name for each")
    return entries, tree
