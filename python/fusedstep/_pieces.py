"""Large arrays a piece at a time: what is converted needs little memory beside the result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._stored import Stored

__all__ = ["BLOCK_8BIT", "PIECE", "blocks", "flat", "in_pieces", "pieces"]

P = ParamSpec("P")
T = TypeVar("T")

BLOCK_8BIT: Final = 256
"""Elements that share one scale in the 8-bit formats."""

PIECE: Final = 1 << 16
"""Elements of a piece: whole blocks, and temporaries that stay in the cache."""


def pieces(size: int) -> Iterator[slice]:
    """The places of the pieces of so many elements."""
    for start in range(0, size, PIECE):
        yield slice(start, min(start + PIECE, size))


def blocks(piece: slice) -> slice:
    """The places of a piece's scales."""
    return slice(piece.start // BLOCK_8BIT, -(-piece.stop // BLOCK_8BIT))


def flat(array: NDArray[Any] | Stored) -> Any:
    """The elements in C order, to take slices of: without a copy of the whole, whatever the layout."""
    if isinstance(array, Stored):
        return array
    plain = np.asarray(array)
    return plain.reshape(-1) if plain.flags.c_contiguous else plain.flat


def in_pieces(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function of arrays, element by element or block by block, take large ones a piece at a time.

    Its first argument and any other array, and its results, have one element, or one for each block, for every
    element.
    """

    @functools.wraps(function)
    def whole(*args: P.args, **kwargs: P.kwargs) -> T:
        first: Any = args[0] if args else next(iter(kwargs.values()))
        if first.size <= PIECE:
            return function(*args, **kwargs)
        count = -(-first.size // BLOCK_8BIT)
        outs: list[NDArray[Any]] = []
        made: Any = None
        for piece in pieces(first.size):

            def cut(value: Any, piece: slice = piece) -> Any:
                if not isinstance(value, np.ndarray):
                    return value
                return flat(value)[piece if value.size == first.size else blocks(piece)]

            cut_function: Any = function
            made = cut_function(*map(cut, args), **{name: cut(value) for name, value in kwargs.items()})
            results = made if isinstance(made, tuple) else (made,)
            if not outs:
                outs = [np.empty(first.shape if r.size == PIECE else count, r.dtype) for r in results]
            for out, result in zip(outs, results, strict=True):
                out.reshape(-1)[piece if out.size == first.size else blocks(piece)] = result
        combined: Any = tuple(outs) if isinstance(made, tuple) else outs[0]
        return combined

    return whole
