"""What an optimizer keeps for each parameter: its states in their storage format, and what training adds to them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._core import Model
from ._floats import default_floats
from ._memory import Memory, allocated
from ._pieces import BLOCK_8BIT, blocks, flat, pieces
from ._stored import Stored
from .reference._checks import check_overlap

__all__ = [
    "QUANT_BLOCK",
    "Progress",
    "Slot",
    "StateView",
    "StateViews",
    "check_apart",
    "constant",
    "convert",
    "gather",
    "is_bfloat16_bits",
    "like",
    "spread",
    "stored_values",
]

Array = NDArray[Any]

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
QUANT_BLOCK = BLOCK_8BIT
LARGE = 1 << 22  # bytes from which NumPy asks the system for huge pages
LINE = 64  # bytes of a cache line
PAGE = 4096  # bytes of a page


def progress(model: Model) -> tuple[list[int], list[list[float]], int]:
    """Step counts and scalar states of every parameter, and the optimizer's own count of steps."""
    every = range(len(model))
    return [model.get_step(i) for i in every], [model.get_scalars(i) for i in every], model.steps_taken


@dataclass
class Slot:
    """One parameter and everything that belongs to it.

    Attributes
    ----------
    param
        The caller's array.
    path
        Where it is in the caller's structure: ``'["W1"]'``.
    group
        Number of its parameter group.
    states
        By name, an array, or for an 8-bit state a pair of codes (uint8, the parameter's shape) and scales
        (float32, one per 256 elements).
    master
        float32 copy (``master="float32"``) or int16 remainders (``master="split"``) of a 16-bit parameter.
    ema
        Moving average of the parameter, in the compute type.
    grad_sum
        Sum of the gradients of the next step, in the compute type.
    number
        By which it is saved and has its noise: its place in the run's first optimizer.
    whole
        Elements of the parameter of which `param` is a piece; 0 where it is all of it.
    """

    param: Any
    path: str
    group: int
    states: dict[str, Any] = field(default_factory=dict)
    master: Array | None = None
    ema: Array | None = None
    grad_sum: Array | None = None
    number: int = 0
    whole: int = 0

    def is_small(self, group: Mapping[str, Any]) -> bool:
        """Whether the group's options keep its states out of narrow formats."""
        small: bool = (self.whole or self.param.size) < group["min_quantized_size"]
        return small

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype in which the rule works: float64 for float64 parameters, float32 for all others."""
        return FLOAT64 if self.param.dtype == FLOAT64 else FLOAT32

    @property
    def split(self) -> bool:
        """Whether `master` holds remainders."""
        return self.master is not None and self.master.dtype == np.int16

    @property
    def array(self) -> Array:
        """The parameter as a plain array: a subclass such as ``numpy.matrix`` changes what its methods do."""
        return np.asarray(self.param)

    def values(self) -> Array:
        """The parameter as the rule sees it: from its master, in the compute type; maybe the array itself."""
        if self.split:
            assert self.master is not None
            return formats.join(self.array, self.master)
        if self.master is not None:
            return formats.master_values(self.array, self.master)
        values: Array = self.array.astype(self.compute, copy=False)
        return values

    def piece(self, piece: slice) -> Array:
        """The same of some elements, in C order."""
        part = Slot(flat(self.array)[piece], self.path, self.group)
        part.master = None if self.master is None else flat(self.master)[piece]
        return part.values()

    def move(self, to: Callable[[Array], Array]) -> None:
        """Replace every array by what `to` makes of it, the parameter excepted."""
        for name, value in self.states.items():
            self.states[name] = tuple(map(to, value)) if isinstance(value, tuple) else to(value)
        if self.master is not None:
            self.master = to(self.master)
        if self.ema is not None:
            self.ema = to(self.ema)
        if self.grad_sum is not None:
            self.grad_sum = to(self.grad_sum)

    def items(self) -> Iterator[tuple[str, Array]]:
        """Every array under its key in `Optimizer.state`, the parameter excepted."""
        for name, value in self.states.items():
            if isinstance(value, tuple):
                yield name, value[0]
                yield f"{name}_scales", value[1]
            else:
                yield name, value
        if self.master is not None:
            yield ("remainder" if self.split else "master"), self.master
        if self.ema is not None:
            yield "ema", self.ema
        if self.grad_sum is not None:
            yield "grad_sum", self.grad_sum


def gather(slots: Iterable[Slot], memory: Memory, near: Iterable[Any] = ()) -> None:
    """Move every array to the start of a cache line, the small ones of one kind into one block of memory.

    Nothing is written before it is known that new memory lies apart from the parameters and from the arrays in `near`.

    A vector that crosses from one cache line to the next costs two accesses. A thousand small arrays lie on thousands
    of pages, more than a processor keeps the addresses of; a large block lies on a few huge ones. The arrays of a
    parameter start at different places of their pages: a processor takes a read for that of a value just written
    where the addresses agree in their last twelve bits, and waits.
    """
    slots = list(slots)
    kinds = max((sum(1 for _ in slot.items()) for slot in slots), default=0)
    sizes = [0] * kinds
    for slot in slots:
        for kind, (_, array) in enumerate(slot.items()):
            sizes[kind] += _whole_lines(array.nbytes) * (array.nbytes < LARGE)
    starts = [(kind + 1) * PAGE // (kinds + 1) // LINE * LINE for kind in range(kinds)]
    blocks = [_aligned(memory, size, start) for size, start in zip(sizes, starts, strict=True)]
    places: list[Array] = []
    for slot in slots:
        for kind, (_, array) in enumerate(slot.items()):
            size = _whole_lines(array.nbytes)
            if array.nbytes < LARGE:
                place, blocks[kind] = blocks[kind][:size], blocks[kind][size:]
            else:
                place = _aligned(memory, size, starts[kind])
            places.append(place[: array.nbytes].view(array.dtype).reshape(array.shape))
    check_apart(memory, places, [*(slot.param for slot in slots), *near])
    following = iter(places)

    def move(array: Array) -> Array:
        moved = next(following)
        moved[...] = array
        return moved

    for slot in slots:
        slot.move(move)


def check_apart(memory: Memory, places: Iterable[Array], others: Iterable[Any]) -> None:
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


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _aligned(memory: Memory, size: int, start: int) -> NDArray[np.uint8]:
    """New memory that begins `start` bytes after a page does."""
    if size == 0:
        return np.empty(0, np.uint8)
    place = allocated(memory, size + PAGE)
    return place[(start - place.ctypes.data) % PAGE :][:size]


def constant(
    value: float, slot: Slot, kind: str, state_format: str, small: bool, shape: tuple[int, ...] | None = None
) -> Any:
    """A state of one value everywhere, in its storage format and of no size: `gather` gives it memory of its own.

    Parameters
    ----------
    value
        Of every element.
    slot
        The parameter.
    kind
        ``"signed"``, ``"unsigned"`` or ``"exact"`` (only the compute type).
    state_format
        As the option: ``"float32"`` means the compute type.
    small
        Whether the parameter is too small to be worth a narrow format.
    shape
        The state's, by default the parameter's.
    """
    exact = kind == "exact" or small or state_format == "float32"
    number, *scale = _encoded(value, kind, "float32" if exact else state_format, slot.compute)
    everywhere = spread(number, slot.param.shape if shape is None else shape)
    return (everywhere, spread(scale[0], (-(-slot.param.size // QUANT_BLOCK),))) if scale else everywhere


@functools.lru_cache(maxsize=64)
def _encoded(value: float, kind: str, state_format: str, compute: np.dtype[Any]) -> tuple[Array, ...]:
    """One number in a storage format, and its scale."""
    block = np.full(QUANT_BLOCK, value, compute)
    if state_format == "8bit":
        codes, scales = formats.encode_8bit(block, signed=kind == "signed")
        return codes[:1], scales
    return ((formats.encode_bfloat16(block).view(formats.bfloat16()) if state_format == "bfloat16" else block)[:1],)


def spread(number: Array, shape: tuple[int, ...]) -> Array:
    """The same number everywhere, as ``numpy.broadcast_to`` has it, in a tenth of its time."""
    return np.ndarray(shape, number.dtype, number.tobytes(), strides=(0,) * len(shape))


def like(stored: Any, memory: Memory = None) -> Any:
    """New memory of the same format, not set to anything."""
    if isinstance(stored, tuple):
        return tuple(like(part, memory) for part in stored)
    if memory is None:
        return np.empty(stored.shape, stored.dtype)
    return _aligned(memory, stored.nbytes, 0).view(stored.dtype).reshape(stored.shape)


@default_floats()
def stored_values(stored: Any, kind: str, compute: np.dtype[Any]) -> Array:
    """The values of a state in the compute type, a copy."""
    shape = stored[0].shape if isinstance(stored, tuple) else stored.shape
    values = np.empty(shape, compute)
    convert(values, stored, kind)
    return values


def convert(target: Any, stored: Any, kind: str) -> None:
    """Write a state in one storage format over one in another, a piece at a time.

    Parameters
    ----------
    target
        An array in the compute type or bfloat16, or a pair of codes and scales; C-contiguous.
    stored
        The same, or an array of any float dtype, byte order and layout; bfloat16 numbers may be two-byte voids, as
        which ``numpy.load`` returns them. Or an array in a file, or a function that returns the values of a slice of
        the elements.
    kind
        The state's.
    """
    if isinstance(target, tuple) and isinstance(stored, tuple):
        for part, given in zip(target, stored, strict=True):
            if isinstance(given, Stored):
                given.read_into(part)
            else:
                part[...] = given.reshape(part.shape)
        return
    if isinstance(stored, Stored) and isinstance(target, np.ndarray) and _same_format(stored, target):
        stored.read_into(target)
        return
    if isinstance(target, np.ndarray) and isinstance(stored, np.ndarray):
        narrow = [is_bfloat16_bits(array) for array in (target, stored)]
        if narrow == [False, False]:
            target[...] = stored
            return
        if narrow == [True, True]:
            target.view(np.uint16)[...] = stored.view(np.uint16)
            return
    codes = target[0] if isinstance(target, tuple) else target
    for piece in pieces(codes.size):
        values = _piece_values(stored, kind, piece)
        if isinstance(target, tuple):
            flat(target[0])[piece], target[1][blocks(piece)] = formats.encode_8bit(values, signed=kind == "signed")
        elif formats.is_bfloat16(target.dtype):
            flat(target.view(np.uint16))[piece] = formats.encode_bfloat16(values)
        else:
            flat(target)[piece] = values


def _same_format(stored: Stored, target: Array) -> bool:
    return stored.dtype == target.dtype or (is_bfloat16_bits(stored) and is_bfloat16_bits(target))


def _piece_values(stored: Any, kind: str, piece: slice) -> Array:
    """The values of some elements, as float32 or float64."""
    if callable(stored):
        values: Array = stored(piece)
        return values
    if isinstance(stored, tuple):
        return formats.decode_8bit(flat(stored[0])[piece], stored[1].reshape(-1)[blocks(piece)], kind == "signed")
    part: Array = flat(stored)[piece]
    if is_bfloat16_bits(stored):
        return formats.decode_bfloat16(part.view(np.uint16))
    return part.astype(np.float64 if part.dtype.itemsize > 4 else np.float32)


def is_bfloat16_bits(array: Array | Stored) -> bool:
    """Whether these are bfloat16 numbers, or what ``numpy.save`` makes of them: voids of two bytes."""
    return formats.is_bfloat16(array.dtype) or (array.dtype == np.dtype("V2") and array.dtype.names is None)


class Progress:
    """Where an optimizer's step counts and scalars are: its native model, which may be made anew."""

    model: Model


class StateView(Mapping[str, Any]):
    """The state of one parameter, read-only as a mapping; its arrays are the live ones.

    Keys are ``"step"`` (int), the rule's states (``"exp_avg"``; with 8-bit storage the codes, and their scales
    under ``"exp_avg_scales"``), scalar states (float), and ``"master"``, ``"remainder"`` and ``"ema"`` where
    there are any.
    """

    def __init__(self, slot: Slot, progress: Progress, index: int, scalars: tuple[str, ...]) -> None:
        self._slot = slot
        self._progress = progress
        self._index = index
        self._scalars = scalars

    def _all(self) -> dict[str, Any]:
        found: dict[str, Any] = {"step": self._progress.model.get_step(self._index)}
        found.update(self._slot.items())
        if self._scalars:
            found.update(zip(self._scalars, self._progress.model.get_scalars(self._index), strict=True))
        return found

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class StateViews(Sequence[StateView]):
    """The states of all parameters; each view is made when it is asked for."""

    def __init__(self, slots: list[Slot], progress: Progress, scalars: Sequence[tuple[str, ...]]) -> None:
        self._slots = slots
        self._progress = progress
        self._scalars = scalars  # by group

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> StateView: ...

    @overload
    def __getitem__(self, index: slice) -> list[StateView]: ...

    def __getitem__(self, index: int | slice) -> StateView | list[StateView]:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        slot = self._slots[place]
        return StateView(slot, self._progress, place, self._scalars[slot.group])

    def __repr__(self) -> str:
        return repr(list(self))
