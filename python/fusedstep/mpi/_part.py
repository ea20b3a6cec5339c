"""One rank's part of an optimizer: an ordinary one, of pieces of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import gcd, prod
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .._base import Optimizer
from .._core import Model
from .._slots import Slot
from ..grouping import Grouping
from ..reference import State
from ._cut import BLOCK

__all__ = ["Part", "Piece", "part_class", "piece_of", "row_unit"]

Array = NDArray[Any]


@dataclass
class Piece:
    """The elements of a parameter that a rank owns.

    Attributes
    ----------
    array
        A part of the parameter's memory, or an array without elements.
    path
        The parameter's name.
    begin, size
        Where the piece begins, and elements of the whole parameter.
    """

    array: Array
    path: str
    begin: int
    size: int


def row_unit(shape: tuple[int, ...]) -> int:
    """The largest number of elements that divides a row and the blocks between which tensors are cut."""
    return gcd(BLOCK, prod(shape[1:]))


def piece_of(param: Array, path: str, begin: int, end: int) -> Piece:
    """The piece from one element to another; the parameter itself where that is all of it.

    Of a table it has the rows of `row_unit` elements, so that it can be stepped by rows.
    """
    if begin == 0 and end == param.size:
        return Piece(param, path, 0, end)
    plain = np.asarray(param)
    none = begin == end  # a matrix stays one
    array = np.empty((0, *plain.shape[1:]), plain.dtype) if none else plain.reshape(-1)[begin:end]
    if not none and plain.ndim > 1:
        array = array.reshape(-1, row_unit(plain.shape))
    return Piece(array, path, begin, plain.size)


def _text(value: Any) -> str:
    """An option with all its digits, which arrays round in their own text."""
    plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
    return f"({', '.join(map(_text, plain))})" if isinstance(plain, (tuple, list)) else repr(plain)


class Part(Optimizer):
    """What `part_class` adds to an optimizer.

    Its parameters are pieces, one for every parameter of the whole model and in the same order: so names, numbers
    (of which stochastic rounding makes its noise), step counts and groups are the whole model's.
    """

    _pieces: dict[int, Piece]  # by the id of their arrays
    _structure: Any  # the parameters of the whole, as they were given
    _share: Callable[[Model, list[tuple[int, int]]], None]  # what joins a native model to those of other ranks
    _told: dict[int, list[str]] | None = None  # during a step: what each schedule, by its id, has returned in it

    def _now(self, value: Any) -> Any:
        now = super()._now(value)
        if self._told is not None and callable(value):
            told = self._told.setdefault(id(value), [])
            if _text(now) not in told:
                told.append(_text(now))
        return now

    def described(self, value: Any) -> str:
        """An option as other ranks must have it; a schedule by what it has returned in this step."""
        return " ".join(["a schedule of", *(self._told or {}).get(id(value), [])]) if callable(value) else _text(value)

    def _split_by_trees(self, params: Any) -> Any:
        # Options that are trees have the structure of the whole.
        split = super()._split_by_trees(params if isinstance(params, Grouping) else self._structure)
        if isinstance(params, Grouping) or not isinstance(split, Grouping):
            return split if isinstance(params, Grouping) else params
        return Grouping(params, split.members, split.options)

    def _make_slot(
        self, param: Any, where: str, path: str, number: int, group: dict[str, Any], used: tuple[State, ...]
    ) -> Slot:
        path = self._pieces[id(param)].path
        return super()._make_slot(param, "params" + path, path, number, group, used)

    def _first_state(self, state: State, slot: Slot, group: Mapping[str, Any]) -> Any:
        slot.whole = self._pieces[id(slot.param)].size
        return super()._first_state(state, slot, group)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Not for this rank alone: see `Sharded.add_param_group`."""
        raise ValueError("param_groups: got a new group, needs add_param_group() of the optimizer, on all ranks")

    def _native(
        self,
        groups: Sequence[dict[str, Any]],
        slots: Sequence[Slot],
        steps: Sequence[int],
        scalars: Sequence[list[float]],
        first: int = 0,
    ) -> Model:
        model = super()._native(groups, slots, steps, scalars, first)
        around = []
        for slot in slots:
            piece = self._pieces[id(slot.param)]
            around.append((piece.begin, piece.size - piece.begin - slot.param.size))
        self._share(model, around)
        return model


_classes: dict[type[Optimizer], type[Part]] = {}


def part_class(optimizer_class: type[Optimizer]) -> type[Part]:
    """The optimizer class whose parameters are pieces."""
    if optimizer_class not in _classes:
        made = type(optimizer_class.__name__, (Part, optimizer_class), {"__module__": __name__})
        _classes[optimizer_class] = cast(type[Part], made)
    return _classes[optimizer_class]
