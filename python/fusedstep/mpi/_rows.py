"""Row gradients on their way: every rank gets the rows of all, averages them, and steps those that it owns."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import formats
from .._floats import default_floats
from ..sparse import SparseRows
from ._cut import Cut
from ._part import Piece, row_unit
from ._ranks import Ranks

__all__ = ["RowTraffic"]

Array = NDArray[Any]


class _Own(NamedTuple):
    """A rank's share of some rows. A cut may lie within a row, so shares are counted in units that no cut divides.

    Attributes
    ----------
    unit
        Elements.
    units
        Those of the parameter, ascending.
    place
        Which they are among the units of the rows.
    """

    unit: int
    units: NDArray[np.int64]
    place: slice


class RowTraffic:
    """The row gradients of one optimizer.

    Parameters
    ----------
    ranks, cut
        The processes, and who owns what.
    params
        The whole parameters, contiguous.
    pieces
        This rank's.
    grad_dtype, sum_dtype
        As of `Traffic`.
    """

    def __init__(
        self,
        ranks: Ranks,
        cut: Cut,
        params: Sequence[Array],
        pieces: Sequence[Piece],
        grad_dtype: str | None,
        sum_dtype: str,
    ) -> None:
        self._ranks, self._cut, self._pieces = ranks, cut, pieces
        self._params = params
        self._grad_dtype, self._sum_dtype = grad_dtype, np.dtype(sum_dtype)
        self._rows: dict[int, NDArray[np.int64]] = {}  # of the current step, by the tensor's number

    @default_floats()
    def receive(self, tensor: int, grad: SparseRows, compute: np.dtype[Any]) -> SparseRows:
        """Average a gradient over all ranks.

        Repeated rows are added up in each rank first, in the compute type and in the order in which they come. Then
        ranks are added up in their order, divided by their number, and rounded once. A rank without a row adds nothing.

        Returns
        -------
        SparseRows
            Of this rank's piece.
        """
        width = prod(self._params[tensor].shape[1:])
        rows, sums = grad.summed(compute)
        narrow = self._grad_dtype is not None and compute == np.float32
        sent = formats.encode_bfloat16(sums.reshape(-1)) if narrow else sums.reshape(-1)
        counts: list[int] = self._ranks.exchange(len(rows))
        numbers = self._collected(rows.astype(np.int64, copy=False), counts)
        values = self._collected(sent, [count * width for count in counts])
        every = np.unique(numbers)
        dtype = compute if compute == np.float64 else self._sum_dtype
        total = np.full((len(every), width), -0.0, dtype)  # to which every first value is added as it is
        end = 0
        for count in counts:
            end += count
            part = values[(end - count) * width : end * width]
            wide = formats.decode_bfloat16(part) if narrow else part
            total[np.searchsorted(every, numbers[end - count : end])] += wide.reshape(count, width)
        if len(counts) > 1:
            total /= len(counts)
        self._rows[tensor] = every
        own = self._own(self._ranks.rank, tensor)
        piece = self._pieces[tensor]
        averaged = total.astype(compute, copy=False).reshape(-1, own.unit)[own.place]
        return SparseRows(
            own.units - piece.begin // own.unit, averaged.reshape(len(own.units), *piece.array.shape[1:]).copy()
        )

    def _collected(self, mine: Array, counts: Sequence[int]) -> Array:
        data = self._ranks.collect(mine.view(np.uint8), [count * mine.itemsize for count in counts])
        whole: Array = data.view(mine.dtype)
        return whole

    def send(self) -> None:
        """Give everyone the rows that the step has changed."""
        for tensor in self._rows:
            flat = self._params[tensor].reshape(-1).view(np.uint8)
            item = self._params[tensor].itemsize
            owners = [self._own(rank, tensor) for rank in range(self._ranks.size)]
            mine = owners[self._ranks.rank]
            sent = flat.reshape(-1, mine.unit * item)[mine.units].reshape(-1)
            data = self._ranks.collect(sent, [len(own.units) * own.unit * item for own in owners])
            at = 0
            for rank, own in enumerate(owners):
                size = len(own.units) * own.unit * item
                if rank != self._ranks.rank:
                    flat.reshape(-1, own.unit * item)[own.units] = data[at : at + size].reshape(-1, own.unit * item)
                at += size

    def forget(self) -> None:
        """End a step."""
        self._rows = {}

    def _own(self, rank: int, tensor: int) -> _Own:
        shape, rows = self._params[tensor].shape, self._rows[tensor]
        begin, end = self._cut.piece(rank, tensor)
        if begin == end:
            return _Own(max(prod(shape[1:]), 1), np.empty(0, np.int64), slice(0, 0))
        width = prod(shape[1:])
        unit = width if end - begin == prod(shape) else row_unit(shape)
        first, last = np.searchsorted(rows, [begin // width, -(-end // width)])
        each = width // unit
        units = (rows[first:last, None] * each + np.arange(each)).reshape(-1)
        low, high = np.searchsorted(units, [begin // unit, end // unit])
        return _Own(unit, units[low:high], slice(first * each + low, first * each + high))
