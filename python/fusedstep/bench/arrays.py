"""Arrays for measurements: filled from one repeating tile, so that every element of any size can be checked.

An element-wise rule gives every repetition of the tile the same result. The tile's own result is computed
once, by an independent computation, and compared with all elements of the array that was timed: at 1e8
elements too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["TILE", "differing", "empty_like", "fill", "tile"]

TILE = 257 * 256
"""Elements of the tile: whole blocks of the 8-bit format, and no power of two, so no thread's share begins
alike."""


def tile(kind: str, dtype: DTypeLike = np.float32) -> NDArray[np.generic]:
    """Return the tile of ``kind`` ("param" or "grad"), shape ``(TILE,)``, the same numbers at every call.

    Both are drawn as float32 and then converted, so all dtypes see (roundings of) the same numbers. No
    gradient is smaller than 1e-3: implementations differ in where they add epsilon, which must stay
    negligible here.
    """
    generator = np.random.default_rng({"param": 1, "grad": 2}[kind])
    drawn = generator.standard_normal(TILE, dtype=np.float32)
    if kind == "param":
        drawn *= np.float32(0.1)
    else:
        drawn = np.float32(0.01) * drawn + np.copysign(np.float32(1e-3), drawn)
    return np.asarray(drawn.astype(dtype))


def empty_like(shape: Sequence[int], dtype: DTypeLike) -> NDArray[np.generic]:
    """Return an uninitialised array; all measured arrays come from here.

    NumPy asks the kernel for huge pages from 4 MiB on, which is worth up to a third of the time of a large
    step; whoever is compared gets its arrays from the same place.
    """
    return np.empty(tuple(shape), dtype=dtype)


def fill(shape: Sequence[int], kind: str, dtype: DTypeLike, start: int = 0) -> NDArray[np.generic]:
    """Return an array of ``shape`` that holds the tile over and over, beginning at element ``start`` of
    it."""
    array = empty_like(shape, dtype)
    flat = array.reshape(-1)
    source = np.roll(tile(kind, dtype), -start % TILE)
    whole = flat.size // TILE
    if whole:
        flat[: whole * TILE].reshape(whole, TILE)[...] = source
    flat[whole * TILE :] = source[: flat.size - whole * TILE]
    return array


def differing(
    array: NDArray[np.generic],
    result: NDArray[np.generic],
    start: int = 0,
    *,
    atol: float = 0.0,
    rtol: float = 0.0,
) -> int:
    """Return how many elements of ``array`` differ from the tile's ``result``.

    Parameters
    ----------
    array : ndarray
        Any shape; the array after the computation that began from :func:`fill` with ``start``.
    result : ndarray
        Shape ``(TILE,)``: the tile after the same computation, done another way.
    start : int
        As given to :func:`fill`.
    atol, rtol : float
        Tolerances as in :func:`numpy.isclose`. With both zero the bytes are compared.
    """
    flat = np.ascontiguousarray(array).reshape(-1)
    turned = np.roll(result, -start % TILE)
    exact = atol == 0.0 and rtol == 0.0
    if exact:
        whole_type = f"u{flat.dtype.itemsize}"
        flat, turned = flat.view(whole_type), turned.astype(array.dtype, copy=False).view(whole_type)
    wrong = 0
    for begin in range(0, flat.size, TILE):
        piece = flat[begin : begin + TILE]
        want = turned[: piece.size]
        if exact:
            wrong += int(np.count_nonzero(piece != want))
        else:
            got = piece.astype(np.float64)
            target = want.astype(np.float64)
            wrong += int(np.count_nonzero(~(np.abs(got - target) <= atol + rtol * np.abs(target))))
    return wrong
