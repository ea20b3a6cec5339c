"""Gradients of some rows of a table, as embeddings have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._floats import default_floats

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
    Nothing is checked here: a step checks what it is given, and names it as its gradient.

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
        try:
            return f"SparseRows({len(self.indices)} rows of {self.values.dtype}, shape {self.values.shape[1:]})"
        except Exception:  # what is no array is an error of the step's
            return f"SparseRows({self.indices!r}, {self.values!r})"

    def __len__(self) -> int:
        return len(self.indices)

    @default_floats()
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

        Raises
        ------
        TypeError
            `indices` or `values` is not an array of integers or of numbers.
        ValueError
            They are not one value for every index.
        """
        for name, array, kinds in (("indices", self.indices, "iu"), ("values", self.values, "fiuV")):
            if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
                raise TypeError(f"{name}: got {type(array).__name__}, needs a NumPy array")
            if array.dtype.kind not in kinds or array.dtype.names is not None:
                what = "integers" if name == "indices" else "real numbers"
                raise TypeError(f"{name}: got dtype {array.dtype}, needs {what}")
        if self.indices.ndim != 1 or self.values.shape[:1] != self.indices.shape:
            raise ValueError(
                f"values: got shape {self.values.shape} for indices of shape {self.indices.shape}, needs one axis of "
                "indices and a value for each"
            )
        rows, first, place = np.unique(self.indices.astype(np.int64), return_index=True, return_inverse=True)
        values = self.values.astype(dtype)
        sums = values[first]
        again = np.ones(len(place), dtype=bool)
        again[first] = False
        np.add.at(sums, place.reshape(-1)[again], values[again])  # one after the other, unlike sums[place] +=
        return rows, sums
