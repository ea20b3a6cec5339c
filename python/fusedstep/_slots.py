"""What an optimizer keeps for each parameter: its states in their storage format, and what training adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._core import Model

__all__ = ["STATE_FORMATS", "Slot", "StateView", "gather", "store_values", "stored_values"]

Array = NDArray[Any]

STATE_FORMATS = ("float32", "bfloat16", "8bit")
QUANT_BLOCK = 256
LARGE = 1 << 22  # bytes from which NumPy asks the system for huge pages
LINE = 64  # bytes of a cache line
PAGE = 4096  # bytes of a page


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
    """

    param: Any
    path: str
    group: int
    states: dict[str, Any] = field(default_factory=dict)
    master: Array | None = None
    ema: Array | None = None

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype in which the rule works: float64 for float64 parameters, float32 for all others."""
        return np.dtype(np.float64 if self.param.dtype == np.float64 else np.float32)

    @property
    def split(self) -> bool:
        """Whether `master` holds remainders."""
        return self.master is not None and self.master.dtype == np.int16

    def values(self) -> Array:
        """The parameter as the rule sees it: from its master, in the compute type; maybe the array itself."""
        if self.split:
            assert self.master is not None
            return formats.join(self.param.reshape(-1), self.master.reshape(-1)).reshape(self.param.shape)
        if self.master is not None:
            return self.master
        values: Array = self.param.astype(self.compute, copy=False)
        return values

    def move(self, to: Callable[[Array], Array]) -> None:
        """Replace every array by what `to` makes of it, the parameter excepted."""
        for name, value in self.states.items():
            self.states[name] = tuple(map(to, value)) if isinstance(value, tuple) else to(value)
        if self.master is not None:
            self.master = to(self.master)
        if self.ema is not None:
            self.ema = to(self.ema)

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


def gather(slots: Iterable[Slot]) -> None:
    """Move every array to the start of a cache line, the small ones of one kind into one block of memory.

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
    blocks = [_memory(size, start) for size, start in zip(sizes, starts, strict=True)]
    for slot in slots:
        kind = -1

        def move(array: Array) -> Array:
            nonlocal kind
            kind += 1
            size = _whole_lines(array.nbytes)
            if array.nbytes < LARGE:
                memory, blocks[kind] = blocks[kind][:size], blocks[kind][size:]
            else:
                memory = _memory(size, starts[kind])
            moved: Array = memory[: array.nbytes].view(array.dtype).reshape(array.shape)
            moved[...] = array
            return moved

        slot.move(move)


def _whole_lines(size: int) -> int:
    return -(-size // LINE) * LINE


def _memory(size: int, start: int) -> NDArray[np.uint8]:
    """New memory that begins `start` bytes after a page does."""
    memory = np.empty(size + PAGE, dtype=np.uint8)
    return memory[(start - memory.ctypes.data) % PAGE :][:size]


def store_values(values: Array, kind: str, state_format: str, compute: np.dtype[Any], small: bool) -> Any:
    """New storage for the values of a state.

    Parameters
    ----------
    values
        In any float dtype.
    kind
        ``"signed"``, ``"unsigned"`` or ``"exact"`` (only the compute type).
    state_format
        One of `STATE_FORMATS`; ``"float32"`` means the compute type.
    compute
        Compute type of the parameter.
    small
        Whether the parameter is too small to be worth a narrow format.
    """
    if kind == "exact" or small or state_format == "float32":
        return np.array(values, dtype=compute, order="C")
    if state_format == "bfloat16":
        bits = formats.encode_bfloat16(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
        return bits.view(formats.bfloat16()).reshape(values.shape)
    flat = np.ascontiguousarray(values, dtype=compute).reshape(-1)
    codes, scales = formats.encode_8bit(flat, signed=kind == "signed")
    return codes.reshape(values.shape), scales


def stored_values(stored: Any, kind: str, compute: np.dtype[Any]) -> Array:
    """The values of a state in the compute type, a copy."""
    if isinstance(stored, tuple):
        codes, scales = stored
        values = formats.decode_8bit(codes.reshape(-1), scales, signed=kind == "signed")
        return values.astype(compute).reshape(codes.shape)
    return np.array(stored, dtype=compute)


class StateView(Mapping[str, Any]):
    """The state of one parameter, read-only as a mapping; its arrays are the live ones.

    Keys are ``"step"`` (int), the rule's states (``"exp_avg"``; with 8-bit storage the codes, and their scales
    under ``"exp_avg_scales"``), scalar states (float), and ``"master"``, ``"remainder"`` and ``"ema"`` where
    there are any.
    """

    def __init__(self, slot: Slot, model: Model, index: int, scalars: tuple[str, ...]) -> None:
        self._slot = slot
        self._model = model
        self._index = index
        self._scalars = scalars

    def _all(self) -> dict[str, Any]:
        found: dict[str, Any] = {"step": self._model.get_step(self._index)}
        found.update(self._slot.items())
        found.update(zip(self._scalars, self._model.get_scalars(self._index), strict=True))
        return found

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())
