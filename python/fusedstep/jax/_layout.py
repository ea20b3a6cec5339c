"""Where a model's states are: a few arrays, in which those of all parameters lie one behind the other.

A compiled program takes and returns every array by itself, at a microsecond and more for each: a hundred parameters
with two states each are three hundred arrays, or a hundred and one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._converting import constant
from .._slots import Slot
from ..reference import State

__all__ = ["Layout", "Leaf", "Piece", "Stream"]

ALIGNMENT = 64  # elements: every piece begins at a cache line, whatever its dtype
BFLOAT16 = np.dtype(jnp.bfloat16)
MASTERED = {"float32": (np.dtype(np.float16), BFLOAT16), "split": (BFLOAT16,)}
NOWHERE = (-1, -1, -1, -1)


@dataclass(frozen=True)
class Piece:
    """Elements of one of the arrays: its key, the first of them, how many, and what they begin with.

    ``fill`` is None for those that begin as a copy of the parameter.
    """

    key: str
    start: int
    size: int
    fill: Any

    def cut(self, arrays: dict[str, Any]) -> Any:
        """The elements."""
        return arrays[self.key][self.start : self.start + self.size]


@dataclass(frozen=True)
class Stream:
    """What is kept of one parameter under one name: its values or codes, and the scales of codes."""

    values: Piece
    scales: Piece | None = None

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """One, or two with the scales."""
        return (self.values,) if self.scales is None else (self.values, self.scales)

    def place(self, numbers: dict[str, int]) -> tuple[int, ...]:
        """Numbers of the arrays and first elements there, as the native step reads them."""
        found = [n for piece in self.pieces for n in (numbers[piece.key], piece.start)]
        return (*found, *NOWHERE)[:4]


@dataclass
class Leaf:
    """One parameter that is stepped: its place in the structure, and where what belongs to it is."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    group: int
    streams: dict[str, Stream] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape))

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype in which the rule works."""
        return np.dtype(np.float64 if self.dtype == np.float64 else np.float32)


class Layout:
    """The arrays of a model's states, and where each parameter's are.

    Parameters
    ----------
    leaves
        The parameters that are stepped.
    states
        The rule's states that there are, each with its first value: a number, or None for the parameter itself.
    master, ema
        Whether there are masters (``"float32"``, ``"split"`` or None) and averages.
    state_format, min_quantized_size
        How states are stored (see `fusedstep.Optimizer`).

    Raises
    ------
    TypeError
        A parameter of a dtype that has no such master.
    """

    def __init__(
        self,
        leaves: Sequence[Leaf],
        states: Sequence[tuple[State, float | None]],
        *,
        master: str | None,
        ema: bool,
        state_format: str,
        min_quantized_size: int,
    ) -> None:
        self.leaves = leaves
        self.sizes: dict[str, int] = {}
        self.dtypes: dict[str, np.dtype[Any]] = {}
        self.quantized = False
        for leaf in leaves:
            if master is not None and leaf.dtype not in MASTERED[master]:
                needed = " or ".join(dtype.name for dtype in MASTERED[master])
                raise TypeError(f"params{leaf.path}: got {leaf.dtype} with master={master!r}, needs {needed}")
            if master == "split":
                leaf.streams["master"] = Stream(self._piece(leaf.size, np.dtype(np.int16), 0))
            elif master is not None:
                leaf.streams["master"] = Stream(self._piece(leaf.size, np.dtype(np.float32), None))
            slot = Slot(np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), leaf.path, leaf.group)
            for state, first in states:
                small = leaf.size < min_quantized_size
                stored = constant(0.0 if first is None else first, slot, state.kind, state_format, small)
                parts = stored if isinstance(stored, tuple) else (stored,)
                fills = [None if first is None else part.flat[0] if part.size else 0 for part in parts]
                pieces = [self._piece(part.size, part.dtype, fill) for part, fill in zip(parts, fills, strict=True)]
                leaf.streams[state.name] = Stream(*pieces)
                self.quantized |= len(pieces) == 2
            if ema:
                leaf.streams["ema"] = Stream(self._piece(leaf.size, leaf.compute, None))
        self.keys = sorted(self.sizes)
        self.names = tuple(leaves[0].streams) if leaves else ()

    def _piece(self, size: int, dtype: np.dtype[Any], fill: Any) -> Piece:
        start = -(-self.sizes.get(dtype.name, 0) // ALIGNMENT) * ALIGNMENT
        self.sizes[dtype.name] = start + size
        self.dtypes[dtype.name] = dtype
        return Piece(dtype.name, start, size, fill)

    def rows(self, states: Sequence[str]) -> tuple[tuple[int, ...], ...]:
        """For every parameter, its group and where its master, each of the rule's states and its average are."""
        numbers = {key: number for number, key in enumerate(self.keys)}
        rows = []
        for leaf in self.leaves:
            streams = [leaf.streams.get(name) for name in ("master", *states, "ema")]
            places = [NOWHERE if stream is None else stream.place(numbers) for stream in streams]
            rows.append((leaf.group, *(number for place in places for number in place)))
        return tuple(rows)

    def first(self, params: Sequence[Any]) -> dict[str, Any]:
        """The arrays before the first step."""
        parts = [
            (piece, param.reshape(-1) if piece.fill is None else jnp.full(piece.size, piece.fill))
            for leaf, param in zip(self.leaves, params, strict=True)
            for stream in leaf.streams.values()
            for piece in stream.pieces
        ]
        return self._joined(parts)

    def _joined(self, parts: Sequence[tuple[Piece, Any]]) -> dict[str, Any]:
        """The arrays that these flat pieces make up, in the order of their places, with zeros in the gaps."""
        arrays: dict[str, list[Any]] = {key: [] for key in self.keys}
        ends = dict.fromkeys(self.keys, 0)
        for piece, values in parts:
            dtype = self.dtypes[piece.key]
            arrays[piece.key] += [jnp.zeros(piece.start - ends[piece.key], dtype), values.astype(dtype)]
            ends[piece.key] = piece.start + piece.size
        return {key: jnp.concatenate(found) for key, found in arrays.items()}

    def unpack(self, name: str, arrays: dict[str, Any]) -> list[Any]:
        """What is kept of every parameter under one name: arrays of its shape, or pairs of codes and scales."""
        found = []
        for leaf in self.leaves:
            stream = leaf.streams[name]
            values = stream.values.cut(arrays).reshape(leaf.shape)
            found.append(values if stream.scales is None else (values, stream.scales.cut(arrays)))
        return found

    def pack(self, unpacked: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """The arrays of what `unpack` returns under every name."""
        parts: list[tuple[Piece, Any]] = []
        for number, leaf in enumerate(self.leaves):
            for name, stream in leaf.streams.items():
                given = unpacked[name][number]
                values = given if isinstance(given, (tuple, list)) else (given,)
                where = f'unpacked["{name}"]{leaf.path}'
                if len(values) != len(stream.pieces):
                    needs = "an array" if stream.scales is None else "a pair of codes and scales"
                    got = getattr(given, "dtype", type(given).__name__)
                    raise ValueError(f"{where}: got {got}, needs {needs}")
                shapes = (leaf.shape, (stream.pieces[-1].size,))
                for piece, value, shape in zip(stream.pieces, values, shapes, strict=False):
                    dtype = self.dtypes[piece.key]
                    got = getattr(value, "dtype", None)
                    if got is None or not _fits(got, dtype):
                        needs = "a float dtype" if jnp.issubdtype(dtype, jnp.floating) else dtype.name
                        raise TypeError(f"{where}: got {got or type(value).__name__}, needs an array of {needs}")
                    if np.shape(value) != shape:
                        raise ValueError(f"{where}: got shape {np.shape(value)}, needs {shape}")
                    parts.append((piece, jnp.asarray(value).reshape(-1)))
        return self._joined(parts)


def _fits(given: Any, dtype: np.dtype[Any]) -> bool:
    """Whether numbers of a dtype may be rounded to another; codes and remainders may not."""
    return bool(given == dtype or (jnp.issubdtype(given, jnp.floating) and jnp.issubdtype(dtype, jnp.floating)))
