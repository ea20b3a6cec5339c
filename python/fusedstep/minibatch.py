"""Mini-batches: arrays cut along their examples, shuffled in step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import whole

__all__ = ["minibatches"]

if TYPE_CHECKING:  # numpy.random takes longer to import than the rest of the package
    RandomState: TypeAlias = np.random.Generator | np.random.RandomState


class minibatches:
    """Mini-batches of one or several arrays, in a random order that is the same for all of them.

    Iterating once is one epoch: every example comes exactly once, in batches of `batch_size`, the last one
    smaller where the number of examples does not divide. Iterating again is the next epoch, in a new order.
    The data set itself is neither copied nor changed: each batch is taken from it when its turn comes, as new
    C-contiguous arrays of that batch alone.

    Parameters
    ----------
    *arrays : ndarray
        The data: any number of arrays of any dtype (memory-mapped ones too, masked ones not) with the same number
        of examples.
    batch_size : int, default 64
        Examples per batch, >= 1. With all of them it is batch gradient descent, with 1 stochastic gradient
        descent.
    rng : None, int, numpy.random.Generator or numpy.random.RandomState, default None
        Where the orders come from. An int seeds a generator of this object's own: the same int gives the same
        sequence of epochs. A generator is used as it stands and advanced by one permutation per epoch, so
        several objects that share one draw from it in turn. None: different in every run.
    axis : int or sequence of int, default 0
        The axis of the examples: 0 when examples are rows, 1 when they are columns, -1 for the last; or one
        per array.
    shuffle : bool, default True
        False keeps the order of the data and draws nothing from `rng`.
    drop_last : bool, default False
        True leaves out a last batch that is not full.

    Yields
    ------
    tuple of ndarray
        One batch of every array, also when there is only one array.

    Raises
    ------
    TypeError
        If an array is not a NumPy array or is a masked one, or another argument is of the wrong kind.
    ValueError
        If there is no array, the numbers of examples differ, or an axis does not exist.

    Examples
    --------
    >>> X, Y = np.zeros((12288, 148)), np.zeros((1, 148))  # examples in columns
    >>> batches = minibatches(X, Y, batch_size=64, rng=0, axis=1)
    >>> len(batches)
    3
    >>> [(x.shape, y.shape) for x, y in batches]
    [((12288, 64), (1, 64)), ((12288, 64), (1, 64)), ((12288, 20), (1, 20))]
    """

    def __init__(
        self,
        *arrays: NDArray[Any],
        batch_size: int = 64,
        rng: int | RandomState | None = None,
        axis: int | Sequence[int] = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        for i, array in enumerate(arrays):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"arrays[{i}]: got {type(array).__name__}, needs a NumPy array; use numpy.asarray")
            if isinstance(array, np.ma.MaskedArray):
                raise TypeError(
                    f"arrays[{i}]: got a masked array, whose mask a batch would not have, needs a plain NumPy array; "
                    "use array.filled(value), or leave masked examples out"
                )
        if not arrays:
            raise ValueError("minibatches needs at least one array, got none")
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(flag, (bool, np.bool_)):
                raise TypeError(f"{name}: got {type(flag).__name__}, needs a bool")
        self.arrays = tuple(np.asarray(array) for array in arrays)
        self.axes = _axes(axis, self.arrays)
        self.batch_size = whole("batch_size", batch_size, low=1)
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        counts = [array.shape[a] for array, a in zip(self.arrays, self.axes, strict=True)]
        self.examples: int = counts[0]
        for i, count in enumerate(counts):
            if count != self.examples:
                shape = self.arrays[i].shape
                raise ValueError(
                    f"arrays[{i}]: got {count} examples along axis {self.axes[i]} (shape {shape}), "
                    f"needs {self.examples} as arrays[0] has"
                )
        self._rng = _generator(rng)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(self.examples, self.batch_size)
        return full if rest == 0 or self.drop_last else full + 1

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """Start an epoch: draw its order now, take its batches one by one."""
        # the order is drawn here and not at the first batch, so epochs are in step with the calls of iter()
        return self._batches(self._rng.permutation(self.examples) if self.shuffle else None)

    def _batches(self, order: NDArray[np.intp] | None) -> Iterator[tuple[NDArray[Any], ...]]:
        for i in range(len(self)):
            start = i * self.batch_size
            stop = min(start + self.batch_size, self.examples)
            chosen = np.arange(start, stop) if order is None else order[start:stop]
            yield tuple(np.take(array, chosen, axis) for array, axis in zip(self.arrays, self.axes, strict=True))

    def __repr__(self) -> str:
        return f"<minibatches: {len(self)} of {self.batch_size} out of {self.examples} examples>"


def _axes(axis: object, arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    given = list(axis) if isinstance(axis, (tuple, list)) else [axis] * len(arrays)
    if len(given) != len(arrays):
        raise ValueError(f"axis: got {len(given)} integers, needs one integer or one per array ({len(arrays)})")
    axes = []
    for i, (value, array) in enumerate(zip(given, arrays, strict=True)):
        number = whole("axis", value, low=-sys.maxsize)
        if not -array.ndim <= number < array.ndim:
            raise ValueError(f"axis: got {number}, needs an axis of arrays[{i}], whose shape is {array.shape}")
        axes.append(number % array.ndim)
    return tuple(axes)


def _generator(rng: object) -> RandomState:
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng: got {type(rng).__name__}, needs None, an integer seed or a NumPy generator")
    return np.random.default_rng(whole("rng", rng, high=None))
