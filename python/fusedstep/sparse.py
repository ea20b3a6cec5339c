"""Gradients of some rows of a table, as embeddings have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseRows"]

Array = NDArray[Any]


class SparseRows:
    """The gradient of a table of which only some rows have one, in place of an array as large as the table.

    Parameters
    ----------
    indices
        Rows of the parameter (its first axis), from 0; int32 or int64, of shape ``(n,)``, in any order and with
        repetitions: the values of a repeated row are added up in the order in which they come.
    values
        Their gradients, of shape ``(n, *param.shape[1:])``, in a dtype that the parameter's gradient may have.

    Notes
    -----
    A step touches these rows and nothing else: `SGD` without momentum and weight decay, and `Adagrad` without weight
    decay, leave what a dense gradient with zeros in the other rows would leave; `SparseAdam` also leaves the moments
    of the other rows alone.

    Examples
    --------
    >>> SparseRows(np.array([4, 1, 4]), np.ones((3, 2), dtype=np.float32))
    SparseRows(3 rows of float32, shape (2,))
    """

    __slots__ = ("indices", "values")

    def __init__(self, indices: Array, values: Array) -> None:
        self.indices = indices
        self.values = values

    def __repr__(self) -> str:
        return f"SparseRows({len(self.indices)} rows of {self.values.dtype}, shape {self.values.shape[1:]})"

    def __len__(self) -> int:
        return len(self.indices)

    def summed(self, dtype: np.dtype[Any]) -> tuple[Array, Array]:
        """The rows that occur, ascending and each once, and the sums of their values.

        Parameters
        ----------
        dtype
            In which values are added; the first value of a row begins its sum.

        Returns
        -------
        rows : array of int64
        sums : array of `dtype`, of shape ``(len(rows), *values.shape[1:])``
        """
        rows, first, place = np.unique(self.indices.astype(np.int64), return_index=True, return_inverse=True)
        values = self.values.astype(dtype)
        sums = values[first]
        again = np.ones(len(place), dtype=bool)
        again[first] = False
        with np.errstate(all="ignore"):
            np.add.at(sums, place.reshape(-1)[again], values[again])  # one after the other, unlike sums[place] +=
        return rows, sums
