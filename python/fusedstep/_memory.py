"""Where the arrays of an optimizer live: ordinary memory, files that are mapped, or memory of the caller's."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._held import check_released

__all__ = ["Memory", "allocated", "check_memory", "mapping"]

Bytes = NDArray[np.uint8]
Memory: TypeAlias = str | os.PathLike[str] | Callable[[int], Any] | None
mapping: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
"""Optimizers whose arrays are in files, by their identity, as a subclass may compare in its own way: a process that is
forked shares them."""

PIECE = 1 << 22  # bytes written at a time where the system cannot reserve the space of a file


def check_memory(memory: Memory) -> Memory:
    """Check the option; return a folder as the string of an absolute path, as the process may go elsewhere.

    Raises
    ------
    TypeError
        It is neither None, a path nor a function.
    NotADirectoryError
        There is no such folder.
    """
    if memory is None or callable(memory):
        return memory
    try:
        folder = os.fsdecode(memory)
    except TypeError:
        raise TypeError(
            f"memory: got {type(memory).__name__}, needs None, the path of a folder, or a function that takes a number "
            "of bytes and returns a buffer of them"
        ) from None
    if not os.path.isdir(folder):
        raise NotADirectoryError(f"memory: got {folder!r}, needs the path of a folder that exists")
    return os.path.abspath(folder)


def allocated(memory: Memory, size: int) -> Bytes:
    """New memory of `size` bytes, writeable and with nobody else; zeros, unless a function returned it.

    Parameters
    ----------
    memory
        As `check_memory` returns it.
    size
        Bytes.

    Raises
    ------
    OSError
        The file system has no room.
    TypeError, ValueError
        What the caller's function returned is no writeable buffer of enough bytes.
    """
    if memory is None or size == 0:
        return np.zeros(size, np.uint8)  # of large ones no page is touched
    if callable(memory):
        return _given(memory(size), size)
    assert isinstance(memory, str)
    import mmap  # here, as importing the package is to cost little
    import tempfile

    # A file without a name: it is gone when the last array is, also after a crash, so that a half-made step is never
    # taken for a checkpoint. Its space is reserved now: a full disk would end the process when a page is written.
    try:
        with tempfile.TemporaryFile(dir=memory) as file:
            _reserve(file, size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        what = f"memory: got a folder where no file of {size} bytes can be made, needs one: {error.strerror}"
        raise OSError(error.errno, what, memory) from error
    # A step goes through it in order: read ahead, and let go behind. In small pages Linux reads ahead for one stream of
    # a file only; there several states and threads reach a quarter of the disk's rate (benchmarks/disk.py).
    for advice in ("MADV_SEQUENTIAL", "MADV_HUGEPAGE"):
        with suppress(AttributeError, OSError):  # the system, or this kernel, has no such thing
            mapped.madvise(getattr(mmap, advice))
    return np.frombuffer(mapped, np.uint8)


class Forked:
    """Stands for the native model in a child of fork: a step would change the parent's states, and it alone."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> NoReturn:
        raise RuntimeError(
            f"memory: got {self._memory!r} in a process that was forked, needs the one that made the optimizer, as "
            "both share the states in its files; make a new optimizer here, from a state_dict() of before the fork"
        )


def _forked() -> None:
    for optimizer in tuple(mapping.values()):
        optimizer._model = optimizer._progress.model = Forked(optimizer._memory)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def _given(buffer: Any, size: int) -> Bytes:
    check_released(buffer, "memory")
    try:
        view = memoryview(buffer)
    except (BufferError, TypeError, ValueError):  # ValueError: closed, released, or of a dtype that no buffer has
        raise TypeError(f"memory: its function returned {type(buffer).__name__}, needs a buffer of bytes") from None
    if "O" in view.format:
        raise TypeError("memory: its function returned a buffer of Python objects, needs one of bytes")
    if view.readonly or not view.c_contiguous or view.nbytes < size:
        kind = "read-only " if view.readonly else "" if view.c_contiguous else "strided "
        raise ValueError(
            f"memory: its function returned a {kind}buffer of {view.nbytes} bytes, needs a writeable one of {size}"
        )
    return np.frombuffer(view, np.uint8, size)  # the buffer that was checked


def _reserve(file: Any, size: int) -> None:
    reserve = getattr(os, "posix_fallocate", None)  # not on macOS and Windows
    if reserve is not None:
        reserve(file.fileno(), 0, size)
        return
    zeros = bytes(min(size, PIECE))
    for start in range(0, size, PIECE):
        file.write(zeros[: size - start])
    file.flush()
