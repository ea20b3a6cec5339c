"""Places in memory for the arrays of an optimizer: aligned, the small ones in one block, apart from all others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._memory import Memory, allocated
from ._slots import Slot
from .reference._checks import check_overlap

__all__ = ["like", "pack_states"]

Array = NDArray[Any]

LARGE = 1 << 22  # bytes from which NumPy asks the system for huge pages
LINE = 64  # bytes of a cache line
PAGE = 4096  # bytes of a page


def pack_states(slots: Iterable[Slot], memory: Memory, near: Iterable[Any] = ()) -> None:
    """Move every array to the start of a cache line, the small ones of one kind into one block of memory.

    Nothing is written before it is known that new memory lies apart from the parameters and from the arrays in `near`.

    A vector that crosses from one cache line to the next costs two accesses. A thousand small arrays lie on thousands
    of pages, more than a processor keeps the addresses of; a large block lies on a few huge ones. The arrays of a
    parameter start at different places of their pages, which avoids 4K aliasing: a read stalls behind a recent write
    whose address has the same last twelve bits.
    """
    slots = list(slots)
    kinds = max((sum(1 for _ in slot.items()) for slot in slots), default=0)
    sizes, large = [0] * kinds, []
    for slot in slots:
        for kind, (_, array) in enumerate(slot.items()):
            if array.nbytes < LARGE:
                sizes[kind] += _whole_lines(array.nbytes)
            else:
                large.append(_whole_lines(array.nbytes))
    starts = [(kind + 1) * PAGE // (kinds + 1) // LINE * LINE for kind in range(kinds)]
    allocate: Callable[[int], NDArray[np.uint8]] = partial(allocated, memory)
    if isinstance(memory, str):  # one file: each takes one of the few descriptors that a process has
        allocate = _in_turn(allocate(sum(size + PAGE for size in (*sizes, *large) if size)))
    blocks = [_aligned(allocate, size, start) for size, start in zip(sizes, starts, strict=True)]
    places: list[Array] = []
    for slot in slots:
        for kind, (_, array) in enumerate(slot.items()):
            size = _whole_lines(array.nbytes)
            if array.nbytes < LARGE:
                place, blocks[kind] = blocks[kind][:size], blocks[kind][size:]
            else:
                place = _aligned(allocate, size, starts[kind])
            places.append(place[: array.nbytes].view(array.dtype).reshape(array.shape))
    _check_apart(memory, places, [*(slot.param for slot in slots), *near])
    following = iter(places)

    def move(array: Array) -> Array:
        moved = next(following)
        if callable(memory) or not _is_zero(array):
            moved[...] = array
        return moved

    for slot in slots:
        slot.move(move)


def _is_zero(array: Array) -> bool:
    """Whether an array is one value of zero bits everywhere, as fresh memory of the system is.

    Pages of it that nobody writes are made by the thread that steps them first: on a machine of several nodes in the
    memory of that thread's node.
    """
    return not any(array.strides) and array.size > 0 and not any(array[(0,) * array.ndim].tobytes())


def _check_apart(memory: Memory, places: Iterable[Array], others: Iterable[Any]) -> None:
    """Raise ValueError where memory that a function returned is not for these places alone."""
    if not callable(memory):
        return
    arrays = [("memory", place, True) for place in places]
    arrays += [("params", np.asarray(array), False) for array in others if isinstance(array, np.ndarray)]
    try:
        check_overlap(arrays)
    except ValueError:
        raise ValueError(
            "memory: its function returned memory that overlaps a parameter, a state or what it returned before, needs "
            "memory of its own for every call"
        ) from None


def _in_turn(block: NDArray[np.uint8]) -> Callable[[int], NDArray[np.uint8]]:
    """A function that gives the next so many bytes of a block."""
    used = 0

    def following(size: int) -> NDArray[np.uint8]:
        nonlocal used
        used += size
        return block[used - size : used]

    return following


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _aligned(allocate: Callable[[int], NDArray[np.uint8]], size: int, start: int) -> NDArray[np.uint8]:
    """New memory that begins `start` bytes after a page does."""
    if size == 0:
        return np.empty(0, np.uint8)
    place = allocate(size + PAGE)
    return place[(start - place.ctypes.data) % PAGE :][:size]


def like(stored: Any) -> Any:
    """New memory of the same format, not set to anything."""
    if isinstance(stored, tuple):
        return tuple(map(like, stored))
    return np.empty(stored.shape, stored.dtype)
