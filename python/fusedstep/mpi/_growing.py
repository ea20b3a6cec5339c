"""Parameters, who owns them and how they travel, and parameters that are added later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base import Optimizer
from .._core import Tree
from .._floats import default_floats
from ..optimizers import SGD
from ._alike import group_facts, parameter_facts
from ._part import piece_of
from ._ranks import RankError
from ._rows import RowTraffic
from ._stored import Stored
from ._traffic import Traffic

__all__ = ["Growing"]

Array = NDArray[Any]


class Growing(Stored):
    """The part of `Sharded` that knows where parameters belong.

    Attributes
    ----------
    _how
        Bytes of a bucket, and the dtypes in which gradients travel and are added up.
    _lengths
        How many parameters each structure of gradients has.
    _flat
        All parameters as one list.
    _rows, _ends, _reduced
        Row gradients on their way, where this rank's buckets end, and the averaged gradients of its pieces.
    """

    _how: tuple[int, str | None, str]
    _lengths: list[int]
    _flat: Tree
    _rows: RowTraffic
    _ends: list[tuple[int, int]]
    _reduced: list[Array]

    def _note_whole(self) -> None:
        self._params = [slot.param for slot in self._whole._slots]
        self._shapes = [np.shape(param) for param in self._params]
        self._dtypes = [param.dtype for param in self._params]
        self._flat = Tree(list(range(len(self._params))), "params")

    def _make_traffic(self) -> None:
        """What travels, once the cut and this rank's pieces are known."""
        bucket_bytes, grad_dtype, sum_dtype = self._how
        arrays = [np.asarray(param) for param in self._params]
        computes = [slot.compute for slot in self._whole._slots]
        self._traffic = Traffic(self._ranks, self._cut, arrays, computes, bucket_bytes, grad_dtype, sum_dtype)
        self._rows = RowTraffic(self._ranks, self._cut, arrays, self._pieces, grad_dtype, sum_dtype)
        self._ends = self._cut.bucket_ends(self._ranks.rank, self._traffic.buckets)
        self._reduced = [
            mine.reshape(piece.array.shape) for mine, piece in zip(self._traffic.reduced, self._pieces, strict=True)
        ]

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own, on all ranks (see `Optimizer.add_param_group`).

        They are cut into one share for each rank; other parameters stay where they are. From then on gradients are a
        list with one entry per group. Rank 0's values are copied to all.

        Raises
        ------
        TypeError, ValueError
            As `Optimizer.add_param_group`. Nothing has changed on any rank.
        RankError
            Another rank raised one, or has other parameters or options. Nothing has changed on any rank.
        """
        with self._together("add_param_group()"):
            self._add(group)

    def _add(self, group: Mapping[str, Any]) -> None:
        old, error, whole = len(self._params), None, self._whole
        try:
            if not isinstance(group, Mapping) or "params" not in group:
                raise TypeError(f'group: got {type(group).__name__}, needs a dict with an entry "params"')
            if whole._grads is not None:
                raise ValueError("add_param_group: gradients are bound to the old groups; make a new optimizer")
            structures = [{"params": structure} for structure in [*whole._structures, group["params"]]]
            whole = SGD(structures, lr=0.0, cast_grads=whole._cast_grads)  # checks that all lie apart
        except BaseException as raised:
            error = raised
        added = whole._slots[old:]
        self._agree(
            error,
            lambda: [
                ("number of parameters", str(len(whole._slots))),
                *parameter_facts(added),
                *group_facts(self._part, "group", group),
                *self._options(),
            ],
        )
        before, part = dict(vars(self)), self._part
        names = part._pieces
        try:
            self._whole, self._grouped = whole, True
            self._note_whole()
            self._lengths = [*self._lengths, len(added)]
            self._cut = self._cut.extended([slot.param.size for slot in added])
            pieces = [
                piece_of(slot.param, slot.path, *self._cut.piece(self._ranks.rank, old + i))
                for i, slot in enumerate(added)
            ]
            self._pieces = [*self._pieces, *pieces]
            self._make_traffic()
            part._pieces = names | {id(piece.array): piece for piece in pieces}
            Optimizer.add_param_group(part, {**group, "params": [piece.array for piece in pieces]})
        except BaseException as raised:
            part._pieces = names
            vars(self).update(before)
            error = raised
        try:
            self._agree(error, lambda: [])  # what is left to fail on one rank alone is its memory
        except RankError as other:
            self._ranks.leave(other)  # this rank has the group
            raise
        for piece, slot in zip(self._pieces, whole._slots, strict=True):
            piece.path = slot.path
        for param in self._params[old:]:
            self._ranks.copy_from_first(np.asarray(param).reshape(-1).view(np.uint8))
        with default_floats():
            for slot in part._slots[old:]:
                made = part._groups[slot.group]
                part._fill(slot, made, part._used(made))
