"""States in their storage formats: made of one value, and written from one format into another."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._floats import default_floats
from ._pieces import BLOCK_8BIT, blocks, flat, pieces
from ._slots import Slot
from ._stored import Stored

__all__ = ["constant", "convert", "is_bfloat16_bits", "spread", "stored_values"]

Array = NDArray[Any]


def constant(
    value: float, slot: Slot, kind: str, state_format: str, small: bool, shape: tuple[int, ...] | None = None
) -> Any:
    """A state of one value everywhere, in its storage format and of no size: `pack_states` gives it memory of its own.

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
    return (everywhere, spread(scale[0], (-(-slot.param.size // BLOCK_8BIT),))) if scale else everywhere


@functools.lru_cache(maxsize=64)
def _encoded(value: float, kind: str, state_format: str, compute: np.dtype[Any]) -> tuple[Array, ...]:
    """One number in a storage format, and its scale."""
    block = np.full(BLOCK_8BIT, value, compute)
    if state_format == "8bit":
        codes, scales = formats.encode_8bit(block, signed=kind == "signed")
        return codes[:1], scales
    return ((formats.encode_bfloat16(block).view(formats.bfloat16()) if state_format == "bfloat16" else block)[:1],)


def spread(number: Array, shape: tuple[int, ...]) -> Array:
    """The same number everywhere, as ``numpy.broadcast_to`` has it, in a tenth of its time."""
    return np.ndarray(shape, number.dtype, number.tobytes(), strides=(0,) * len(shape))


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
