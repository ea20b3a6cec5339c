"""State dicts of the whole optimizer and of one rank's part, from one to the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import needs_entries
from .._names import match, needs
from .._pieces import BLOCK_8BIT
from ..reference import RULES
from ._cut import Cut
from ._part import Part, Piece
from ._ranks import Ranks

__all__ = ["collected", "full_dict", "part_dict"]

Array = NDArray[Any]


def collected(ranks: Ranks, cut: Cut, tensor: int, mine: Array, shape: tuple[int, ...], unit: int = 1) -> Array:
    """An array that belongs to a parameter, put together from the ranks' pieces.

    Parameters
    ----------
    ranks, cut
        The processes, and who owns what.
    tensor
        Number of the parameter.
    mine
        This rank's piece.
    shape
        Of the whole.
    unit
        Elements of the parameter for each element of the array: 256 for scales.
    """
    lengths = [cut.piece(rank, tensor) for rank in range(ranks.size)]
    sizes = [-(-(end - begin) // unit) * mine.itemsize for begin, end in lengths]
    data = ranks.collect(np.ascontiguousarray(mine).reshape(-1).view(np.uint8), sizes)
    whole: Array = data.view(mine.dtype).reshape(shape)
    return whole


def full_dict(
    part: Part, own: dict[str, Any], ranks: Ranks, cut: Cut, shapes: Sequence[tuple[int, ...]]
) -> dict[str, Any]:
    """The state dict of the whole optimizer, made of those of all parts, of which `own` is this rank's."""
    for tensor, slot in enumerate(part._slots):
        entries = own["state"][slot.number]
        for name, value in entries.items():
            if isinstance(value, np.ndarray):
                scales = name.endswith("_scales")
                shape = (-(-cut.sizes[tensor] // BLOCK_8BIT),) if scales else shapes[tensor]
                entries[name] = collected(ranks, cut, tensor, value, shape, BLOCK_8BIT if scales else 1)
    return own


def part_dict(
    part: Part, pieces: Sequence[Piece], shapes: Sequence[tuple[int, ...]], state_dict: Mapping[str, Any]
) -> dict[str, Any]:
    """This rank's share of a state dict of the whole optimizer.

    Raises
    ------
    TypeError, ValueError
        It is of another model.
    """
    needs(state_dict, Mapping, "state_dict", "a dict")
    needs_entries("state_dict", state_dict, "state", "param_groups", needs="the state dict of an optimizer")
    states = state_dict["state"]
    needs(states, Mapping, 'state_dict["state"]', "a dict")
    own = dict(states)
    numbers = match(part._slots, part._names(), state_dict["param_groups"], "fusedstep" in state_dict)
    for slot, number, piece, shape in zip(part._slots, numbers, pieces, shapes, strict=True):
        if number in own:
            where = f'state_dict["state"][{number!r}]'
            needs(own[number], Mapping, where, "a dict")
            own[number] = dict(_entries(part._rule_of(part._groups[slot.group]), own[number], piece, shape, where))
    return {**state_dict, "state": own}


def _entries(
    rule: str, saved: Mapping[str, Any], piece: Piece, shape: tuple[int, ...], where: str
) -> Iterator[tuple[str, Any]]:
    numbers = {"step", "steps_taken", *RULES[rule].scalars}
    for name, value in saved.items():
        if value is None or name in numbers:
            yield name, value
            continue
        array = value if hasattr(value, "shape") else np.asarray(value)
        if str(name).endswith("_scales"):
            first, count = piece.begin // BLOCK_8BIT, -(-piece.array.size // BLOCK_8BIT)
            fits = tuple(array.shape) == (-(-piece.size // BLOCK_8BIT),)
            yield name, array[first : first + count] if fits else array
            continue
        if tuple(array.shape) != shape:
            raise ValueError(
                f'{where}["{name}"]: got shape {tuple(array.shape)}, needs {shape}, the shape of params{piece.path}'
            )
        yield name, array.reshape(-1)[piece.begin : piece.begin + piece.array.size].reshape(piece.array.shape)
