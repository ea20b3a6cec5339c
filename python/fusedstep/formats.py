"""How numbers are stored: the NumPy definition of every storage format.

The native code produces the bytes that these functions produce. They use integer operations and correctly rounded
single float operations only, so the result depends on no CPU, compiler or NumPy version. ``docs/formats.md`` describes
each format bit by bit.

Values that are not stored in the compute type are decoded to it, changed, and encoded again. All encoders start from
float32; float64 values are first rounded to float32 (nearest, ties to even), and decoding into float64 is exact.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from ._floats import default_floats
from ._pieces import BLOCK_8BIT, in_pieces

Array: TypeAlias = npt.NDArray[Any]
Bits16: TypeAlias = npt.NDArray[np.uint16]
Float32: TypeAlias = npt.NDArray[np.float32]

BLOCK_NOISE: Final = 2048
"""Elements whose noise comes from one block key."""

_NAN32: Final = np.uint32(0x7FC00000)
_NAN16: Final = {"float16": np.uint16(0x7E00), "bfloat16": np.uint16(0x7FC0)}


def bfloat16() -> np.dtype[Any]:
    """Return the dtype of bfloat16 arrays, ``ml_dtypes.bfloat16``.

    Raises
    ------
    ImportError
        If ``ml_dtypes`` is not installed; the message says how to install it.
    """
    try:
        from ml_dtypes import bfloat16 as scalar
    except ImportError:
        raise ImportError("bfloat16 arrays need the package ml_dtypes: pip install fusedstep[bfloat16]") from None
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype


def is_bfloat16(dtype: npt.DTypeLike) -> bool:
    """Whether `dtype` is the bfloat16 of ``ml_dtypes``, told without importing it."""
    found = np.dtype(dtype)
    return found.num >= 256 and found.name == "bfloat16"  # NumPy's own have lower numbers, and names take time


def _bits(values: Array) -> npt.NDArray[np.uint32]:
    """Return the bit patterns of `values` after rounding them to float32."""
    if values.dtype not in (np.float32, np.float64):
        raise TypeError(f"values: got dtype {values.dtype}, needs float32 or float64")
    return np.ascontiguousarray(values, np.float32).view(np.uint32).reshape(values.shape)


def _is_nan(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    return (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)


# ---------------------------------------------------------------------------------------------------- 16-bit floats


@in_pieces
def decode_bfloat16(stored: Array) -> Float32:
    """Return the float32 values of bfloat16 numbers: exact.

    Parameters
    ----------
    stored : array of bfloat16, or of uint16 bit patterns
        Any shape.
    """
    return (stored.view(np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)


@default_floats()
@in_pieces
def encode_bfloat16(values: Array, noise: Bits16 | None = None) -> Bits16:
    """Return the bfloat16 bit patterns of `values`.

    Rounds to nearest, ties to even; or, given `noise`, away from zero with a probability equal to the fraction of the
    spacing that is dropped. Values beyond the largest bfloat16 become infinite where rounding takes them there, as
    IEEE 754 has it; every NaN becomes ``0x7FC0``.

    Parameters
    ----------
    values : array of float32 or float64
        Any shape.
    noise : array of uint16, optional
        One number per element, from :func:`noise`.
    """
    bits = _bits(values)
    even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    added = even if noise is None else noise.astype(np.uint32)
    rounded = ((bits + added) >> np.uint32(16)).astype(np.uint16)
    return np.where(_is_nan(bits), _NAN16["bfloat16"], rounded)


@default_floats()
@in_pieces
def decode_float16(stored: Array) -> Float32:
    """Return the float32 values of IEEE float16 numbers (or of their uint16 bit patterns): exact."""
    return stored.view(np.float16).astype(np.float32)


@default_floats()
@in_pieces
def encode_float16(values: Array, noise: Bits16 | None = None) -> Bits16:
    """Return the IEEE float16 bit patterns of `values`.

    Rounds to nearest, ties to even; or, given `noise`, away from zero with a probability equal to the dropped fraction
    of the spacing, seen to 13 bits (all there are) for normal and 16 bits for subnormal results. Magnitudes of 65520
    and above (nearest), and whatever noise carries to 65536, become infinite. Every NaN becomes ``0x7E00``.

    Parameters
    ----------
    values : array of float32 or float64
        Any shape.
    noise : array of uint16, optional
        One number per element, from :func:`noise`.
    """
    bits = _bits(values)
    sign = ((bits >> np.uint32(16)) & np.uint32(0x8000)).astype(np.uint16)
    size = bits & np.uint32(0x7FFFFFFF)
    finite = np.where(size < np.uint32(0x47800000), size, np.uint32(0x47800000))  # 65536 and above: infinite
    magnitude = finite.view(np.float32)
    rebased = finite - np.uint32(112 << 23)  # exponent bias 127 -> 15
    small = np.minimum(magnitude, np.float32(2.0**-14))
    if noise is None:
        normal = (rebased + np.uint32(0xFFF) + ((finite >> np.uint32(13)) & np.uint32(1))) >> np.uint32(13)
        # 0.5 has the spacing 2**-24 of the subnormals: the addition rounds to it, to nearest and even.
        subnormal = (small + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    else:
        wide = noise.astype(np.uint32)
        normal = (rebased + (wide >> np.uint32(3))) >> np.uint32(13)
        subnormal = ((small * np.float32(2.0**40)).astype(np.uint32) + wide) >> np.uint32(16)
    half = np.where(finite < np.uint32(0x38800000), subnormal, normal).astype(np.uint16)
    return np.where(_is_nan(bits), _NAN16["float16"], half | sign)


HALF: Final = {"float16": (encode_float16, decode_float16), "bfloat16": (encode_bfloat16, decode_bfloat16)}
"""The encoder and decoder of each 16-bit float, by the name of its dtype."""


# ----------------------------------------------------------------------------------------------------- split master


@default_floats()
@in_pieces
def split(values: Array) -> tuple[Bits16, npt.NDArray[np.int16]]:
    """Split float32 values into a bfloat16 parameter and a 16-bit remainder that restores them exactly.

    The parameter is the value rounded to nearest, ties away from zero, so that the remainder always fits:
    ``bits = (parameter << 16) + remainder``. A NaN becomes ``(0x7FC0, 0)``.

    Returns
    -------
    parameter : array of uint16
        Bit patterns of bfloat16.
    remainder : array of int16
    """
    bits = _bits(values)
    bits = np.where(_is_nan(bits), _NAN32, bits)
    parameter = ((bits + np.uint32(0x8000)) >> np.uint32(16)).astype(np.uint16)
    return parameter, bits.astype(np.uint16).view(np.int16)


@in_pieces
def join(parameter: Array, remainder: npt.NDArray[np.int16]) -> Float32:
    """Return the float32 values that :func:`split` took apart.

    A zero never comes with a negative remainder from there. Beside one that was written since, a remainder counts as an
    unsigned number, at most 2**-133: below zero there would be a NaN.
    """
    high = parameter.view(np.uint16).astype(np.uint32) << np.uint32(16)
    signed = remainder.astype(np.int32).view(np.uint32)
    low = np.where(high << np.uint32(1) == 0, signed & np.uint32(0xFFFF), signed)
    return (high + low).view(np.float32)


# --------------------------------------------------------------------------------------------------- float32 master


@in_pieces
def master_values(parameter: Array, master: Float32) -> Float32:
    """Return the float32 values of 16-bit parameters that have a float32 master.

    Where the parameter is the rounding of its master, bit for bit, that is the master. Anywhere else somebody has
    written the parameter since (loaded or clipped it, say), and the parameter counts.

    Parameters
    ----------
    parameter : array of float16 or bfloat16
        Any shape.
    master : array of float32
        With the same shape.
    """
    return kept_master(parameter.view(np.uint16), master, "bfloat16" if is_bfloat16(parameter.dtype) else "float16")


def kept_master(bits: Array, master: Float32, dtype: str) -> Float32:
    """Return the same for the bit patterns (uint16) of parameters of this dtype's name."""
    encode, decode = HALF[dtype]
    kept: Float32 = np.where(encode(master) == bits, master, decode(bits))
    return kept


# ------------------------------------------------------------------------------------------------------------ noise

_WEYL64: Final = 0x9E3779B97F4A7C15
_MASK64: Final = (1 << 64) - 1


def _mix(x: int) -> int:
    """Scramble 64 bits: the finalizer of SplitMix64 (Steele, Lea and Flood 2014, figure 15)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def noise_key(seed: int, parameter: int, step: int) -> int:
    """Return the 64-bit key of the noise of one tensor at one step (unsigned 64-bit numbers all)."""
    key = 0
    for word in (seed, parameter, step):
        key = _mix(((key ^ word) + _WEYL64) & _MASK64)
    return key


def noise(key: int, size: int, start: int = 0) -> Bits16:
    """Return uniform 16-bit numbers for the elements ``start`` to ``start + size`` of a tensor.

    A counter hashed with the key: every element has its number, whoever computes it and however the tensor is cut.

    Parameters
    ----------
    key : int
        From :func:`noise_key`.
    size : int
        How many numbers.
    start : int
        The first element's position in the flattened tensor.
    """
    blocks = range(start // BLOCK_NOISE, -(-(start + size) // BLOCK_NOISE))
    keys = [_mix((key + (block + 1) * _WEYL64) & _MASK64) for block in blocks]
    low, high = np.array(keys, "<u8").reshape(-1, 1).view("<u4").T[:, :, None]
    x = np.arange(BLOCK_NOISE // 2, dtype=np.uint32) * np.uint32(0x9E3779B9) + low
    x = (x ^ (x >> np.uint32(15)) ^ high) * np.uint32(0x2C1B3C6D)
    x ^= x >> np.uint32(16)
    halves: Bits16 = x.astype("<u4").view("<u2").astype(np.uint16).reshape(-1)
    return halves[start % BLOCK_NOISE :][:size]


# ----------------------------------------------------------------------------------------------------- 8-bit blocks

# A code is linear in the cube root of an element's share of its block's largest. Root and cube are those of the pattern
# of a float read as an integer: a third of it and three times it. By whether the codes are signed:
with default_floats():  # as the thread that imports may have set another environment
    _TOP: Final = {True: np.float32(2 - 2.0**-23), False: np.float32(253 / 512)}  # the cube of the largest code's root
    _SHARE: Final = {True: np.float32(1.9975), False: _TOP[False]}  # what the largest becomes before its root: below 2
    _ROOT: Final = np.array(0x15555555, np.uint32).view(np.float32)[()]  # the largest signed code's: 1.666... * 2**-85
    _STEP: Final = {True: _ROOT / np.float32(127), False: np.float32(2.0**-93)}  # the root that one code stands for
    _PER_STEP: Final = np.float32(127) / _ROOT
_THIRD: Final = np.uint32(10923)  # 2**15 / 3
_LEAST: Final = np.uint32((127 - 100) << 23)  # 2**-100
_FLUSH: Final = {True: _LEAST, False: np.uint32(1 << 23)}  # 2**-126
_MOST: Final = {True: np.uint32(0x7F7FFFFF), False: np.uint32(0x7E7FFFFF)}  # below 2**128, 2**126
_SIGN: Final = np.uint32(1 << 31)


@default_floats()
@in_pieces
def encode_8bit(values: Array, signed: bool) -> tuple[npt.NDArray[np.uint8], Float32]:
    """Return the 8-bit codes and the scales of `values`.

    Each 256 consecutive elements (in C order) share one scale: their largest magnitude over a constant. A block that
    holds a NaN or an infinity (or, when unsigned, a number from ``2**126`` on or with the sign bit set) gets the scale
    NaN, so that all of it and nothing else decodes to NaN. A signed block below ``2**-100`` and an unsigned one below
    ``2**-126`` become zero; an unsigned one below ``2**-100`` has the scale of ``2**-100``. An unsigned value from
    ``2**-126`` on never gets the code of zero; a smaller one always does.

    Parameters
    ----------
    values : array of float32 or float64
        Any shape.
    signed : bool
        Signed codes (first moments) or unsigned ones (second moments).

    Returns
    -------
    codes : array of uint8
        With the shape of `values`; signed codes are in two's complement.
    scales : array of float32, shape ``(ceil(size / 256),)``
    """
    flat = _bits(values).reshape(-1)
    count = -(-flat.size // BLOCK_8BIT)
    bits = np.zeros((count, BLOCK_8BIT), np.uint32)
    bits.reshape(-1)[: flat.size] = flat
    size = bits & np.uint32(0x7FFFFFFF) if signed else bits
    top = size.max(axis=1, initial=0)
    bad, zero = top > _MOST[signed], top < _FLUSH[signed]
    usable = np.where(bad | zero, np.uint32(0x3F800000), np.maximum(top, _LEAST)).view(np.float32)
    scales = np.where(bad, _NAN32, np.where(zero, np.uint32(0), (usable / _TOP[signed]).view(np.uint32)))

    clean = np.where((bad | zero)[:, None], np.uint32(0), size)
    share = (clean.view(np.float32) * (_SHARE[signed] / usable)[:, None]).view(np.uint32)
    root = (share >> np.uint32(15)) * _THIRD
    if signed:
        steps = (root | (bits & _SIGN)).view(np.float32) * _PER_STEP + np.float32(1.5 * 2**23)
        codes = steps.view(np.uint32)
    else:
        codes = (root.view(np.float32) + _STEP[False] * np.float32(1.5 * 2**23)).view(np.uint32) & np.uint32(0xFF)
        codes = np.where(clean >= np.uint32(1 << 23), np.maximum(codes, np.uint32(1)), np.uint32(0))
    return codes.astype(np.uint8).reshape(-1)[: flat.size].reshape(values.shape), scales.view(np.float32)


@default_floats()
@in_pieces
def decode_8bit(codes: npt.NDArray[np.uint8], scales: Float32, signed: bool) -> Float32:
    """Return the float32 values of 8-bit codes and their scales, in the shape of `codes`."""
    integers = codes.reshape(-1).view(np.int8 if signed else np.uint8)
    root = (integers.astype(np.float32) * _STEP[signed]).view(np.uint32)
    each = np.repeat(scales, BLOCK_8BIT)[: integers.size]
    return ((root * np.uint32(3)).view(np.float32) * each).reshape(codes.shape)
