"""How parameters and states lie in memory: decode them to the compute type, encode them back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._pieces import BLOCK_8BIT
from ..sparse import SparseRows
from ._checks import check_array

__all__ = ["Stored", "check_gradient", "check_rows", "compute_type", "store_param", "store_state"]

Array = NDArray[Any]

FLOAT64 = np.dtype(np.float64)
FLOAT32 = np.dtype(np.float32)
FLOAT16 = np.dtype(np.float16)


def is_bfloat16(array: Any) -> bool:
    """Whether an array is of ``ml_dtypes.bfloat16``, told without importing that package."""
    return isinstance(array, np.ndarray) and array.dtype.name == "bfloat16"


def compute_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a rule works on parameters of this dtype."""
    return FLOAT64 if dtype == FLOAT64 else FLOAT32


@dataclass
class Stored:
    """One array of numbers in some storage format, with what belongs to it."""

    array: Array
    kind: np.dtype[Any]  # the compute type
    format: str  # "plain", "float16", "bfloat16", "master", "split", "8bit-signed" or "8bit-unsigned"
    extra: Array | None = None  # the float32 master, the int16 remainders, or the scales of 8-bit blocks
    key: tuple[int, int, int] | None = None  # of the noise of stochastic rounding: seed, tensor, step
    memory: list[tuple[str, Array, bool]] = field(default_factory=list)

    def decode(self) -> Array:
        """The numbers as a flat array of the compute type; the memory itself where it is of that type."""
        if self.format == "plain":
            return self.array.reshape(-1)
        from .. import formats

        flat = self.array.reshape(-1)
        if self.format == "master":
            assert self.extra is not None
            return formats.master_values(flat, self.extra.reshape(-1))
        if self.format == "split":
            assert self.extra is not None
            return formats.join(flat, self.extra.reshape(-1))
        if self.format.startswith("8bit"):
            assert self.extra is not None
            return formats.decode_8bit(flat, self.extra, self.format == "8bit-signed").astype(self.kind)
        decode = formats.decode_bfloat16 if self.format == "bfloat16" else formats.decode_float16
        return decode(flat).astype(self.kind)

    def take(self, rows: Array) -> Stored:
        """Some rows, as an array of their own."""
        extra = None if self.extra is None else self.extra[rows]
        return Stored(self.array[rows], self.kind, self.format, extra, self.key)

    def put(self, rows: Array, part: Stored) -> None:
        """Put back what `take` took."""
        self.array[rows] = part.array
        if self.extra is not None:
            self.extra[rows] = part.extra

    def encode(self, values: Array) -> None:
        """Store changed numbers; nothing to do where `decode` gave the memory itself."""
        if self.format == "plain":
            return
        from .. import formats

        flat = self.array.reshape(-1)
        if self.format == "split":
            assert self.extra is not None
            flat.view(np.uint16)[...], self.extra.reshape(-1)[...] = formats.split(values)
        elif self.format.startswith("8bit"):
            assert self.extra is not None
            flat[...], self.extra[...] = formats.encode_8bit(values, self.format == "8bit-signed")
        else:
            if self.format == "master":
                assert self.extra is not None
                self.extra.reshape(-1)[...] = values
            noise = None if self.key is None else formats.noise(formats.noise_key(*self.key), values.size)
            encode = formats.encode_bfloat16 if is_bfloat16(self.array) else formats.encode_float16
            flat.view(np.uint16)[...] = encode(values, noise)


def store_param(value: Any, name: str, master: Any, rounding: str, key: tuple[int, int, int]) -> Stored:
    """Check one parameter with its master and say how they are stored."""
    is_half = is_bfloat16(value) or getattr(value, "dtype", None) == FLOAT16
    allowed = (value.dtype,) if is_bfloat16(value) else (FLOAT32, FLOAT64, FLOAT16)
    array = check_array(value, name, allowed, expect="float32, float64, float16 or bfloat16")
    stored = Stored(
        array, compute_type(array.dtype), array.dtype.name if is_half else "plain", memory=[(name, array, True)]
    )
    if master is not None:
        beside = name.replace("param", "master", 1)
        if not is_half:
            raise TypeError(f"{beside}: got a master for a {array.dtype} {name}, needs a float16 or bfloat16 one")
        remainders = is_bfloat16(array) and getattr(master, "dtype", None) == np.int16
        stored.format = "split" if remainders else "master"
        expect = "float32, or int16 remainders" if is_bfloat16(array) else "float32"
        dtype = np.dtype(np.int16) if remainders else FLOAT32
        stored.extra = check_array(master, beside, (dtype,), array.shape, expect=expect)
        stored.memory.append((beside, stored.extra, True))
    elif rounding == "stochastic" and is_half:
        stored.key = key
    return stored


def store_state(value: Any, name: str, kind: str, param: Stored, shape: tuple[int, ...]) -> Stored:
    """Check one state and say how it is stored: an array, or a pair of 8-bit codes and scales."""
    if isinstance(value, (tuple, list)):
        if kind == "exact":
            raise TypeError(f"{name}: got 8-bit codes, needs {param.kind}: this state has no 8-bit form")
        if len(value) != 2:
            raise ValueError(f"{name}: got {len(value)} items, needs a pair of codes and scales")
        codes = check_array(value[0], f"{name} codes", (np.dtype(np.uint8),), shape)
        scales = check_array(value[1], f"{name} scales", (FLOAT32,), (-(-codes.size // BLOCK_8BIT),))
        memory = [(f"{name} codes", codes, True), (f"{name} scales", scales, True)]
        return Stored(codes, param.kind, f"8bit-{kind}", scales, memory=memory)
    narrow = is_bfloat16(value) and kind != "exact"
    expect = str(param.kind) if kind == "exact" else f"{param.kind}, bfloat16, or a pair of 8-bit codes and scales"
    array = check_array(value, name, (value.dtype,) if narrow else (param.kind,), shape, expect=expect)
    return Stored(array, param.kind, "bfloat16" if narrow else "plain", memory=[(name, array, True)])


def check_gradient(
    value: Any, name: str, param: Stored, writeable: bool, shape: tuple[int, ...] | None = None
) -> Array:
    """Check one gradient: any format no wider than the compute type, so that decoding it is exact."""
    allowed: list[np.dtype[Any]] = [FLOAT32, FLOAT16, *([FLOAT64] if param.kind == FLOAT64 else [])]
    expect = " or ".join(["float64"] * (param.kind == FLOAT64) + ["float32, float16 or bfloat16"])
    return check_array(
        value,
        name,
        [value.dtype] if is_bfloat16(value) else allowed,
        param.array.shape if shape is None else shape,
        expect=expect,
        writeable=writeable,
    )


def check_rows(grad: SparseRows, name: str, param: Stored, writeable: bool) -> Array:
    """Check a gradient of some rows and return its values."""
    shape = param.array.shape
    if not shape:
        raise ValueError(f"{name}: got SparseRows for a parameter of shape (), needs one with rows")
    integers = (np.dtype(np.int32), np.dtype(np.int64))
    indices = check_array(grad.indices, f"{name}.indices", integers, writeable=False)
    if indices.ndim != 1:
        raise ValueError(f"{name}.indices: got shape {indices.shape}, needs one axis")
    wrong = np.flatnonzero((indices < 0) | (indices >= shape[0]))
    if wrong.size:
        at = int(wrong[0])
        raise ValueError(f"{name}.indices[{at}]: got {indices[at]}, needs a row from 0 to {shape[0] - 1}")
    return check_gradient(grad.values, f"{name}.values", param, writeable, (len(indices), *shape[1:]))
