"""Distributed matrices in one piece: which process works on which of them, and how their parts get there and back."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._directions import Matrices
from ._cuts import Box, Cut

__all__ = ["Batch", "Wholes"]

TAG = 7919  # of the messages, which others that are on their way do not have


class Unit(NamedTuple):
    """What one process works on: a matrix, or some of a parameter's."""

    matrices: Matrices
    cut: Cut
    box: Box

    @property
    def cost(self) -> int:
        """In proportion to the multiplications."""
        rows, columns = self.matrices.rows, self.matrices.columns
        return self.matrices.count * rows * columns * min(rows, columns)


class Batch(NamedTuple):
    """Equal matrices that one process works on together.

    Attributes
    ----------
    owner
        This process.
    units
        The matrices.
    there, back
        By process, the parts that it sends to the owner, and those that it gets back: the number of the unit, and where
        in the parameter. Of other processes than this one only if this one is the owner.
    """

    owner: int
    units: list[Unit]
    there: dict[int, list[tuple[int, Box]]]
    back: dict[int, list[tuple[int, Box]]]


def _units(one: Matrices, cut: Cut) -> Iterator[Unit]:
    """A parameter, matrix by matrix where it is a batch whose matrices lie one after the other."""
    whole = tuple((0, size) for size in cut.shape)
    first = cut.shape[0]
    if not one.stacked or one.count % first or cut.strides[0] * first != math.prod(cut.shape):
        yield Unit(one, cut, whole)
        return
    for i in range(first):
        yield Unit(replace(one, count=one.count // first, total=one.count), cut, ((i, i + 1), *whole[1:]))


def _shared_by(one: Box, other: Box) -> Box | None:
    """What both boxes have; None if nothing."""
    box = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))
    return box if all(begin < end for begin, end in box) else None


def _within(view: Tensor, box: Box, of: Box) -> Tensor:
    """A box of a tensor that is the box `of`."""
    return view[tuple(slice(begin - first, end - first) for (begin, end), (first, _) in zip(box, of, strict=True))]


class Wholes:
    """Memory for this process's parts of the directions, and who makes which of the matrices orthogonal.

    Every matrix has an owner among the processes of its mesh, so that all have about the same work. The parts of some
    equal matrices travel to their owner, and what has become of them travels back; then come the next ones. Of a matrix
    that is replicated, the owner gets the parts of its own replica, and all replicas get the same result.

    Parameters
    ----------
    cuts
        The distributed matrices, and how they are distributed.
    together
        Returns how many matrices of so many rows and columns are worked on together.
    empty
        Makes memory of a shape and dtype.
    """

    def __init__(
        self,
        cuts: dict[Matrices, Cut],
        together: Callable[[int, int], int],
        empty: Callable[[tuple[int, ...], Any], Tensor],
    ) -> None:
        self._cuts = {one.index: (one, cut) for one, cut in cuts.items()}
        self._together = together
        self._parts = {one.index: empty((math.prod(self._shape(cut)),), one.dtype) for one, cut in cuts.items()}
        self._views = dict[int, Tensor]()
        self._planned: tuple[Any, list[list[Batch]]] = (None, [])

    @cached_property
    def rank(self) -> int:
        """This process."""
        import torch.distributed as dist

        return dist.get_rank()

    def __contains__(self, index: int) -> bool:
        return index in self._cuts

    @property
    def parts(self) -> list[Tensor]:
        """All memory that is held."""
        return list(self._parts.values())

    def _box(self, cut: Cut) -> Box:
        return cut.boxes[cut.ranks.index(self.rank)]

    def _shape(self, cut: Cut) -> tuple[int, ...]:
        return tuple(end - begin for begin, end in self._box(cut))

    def like(self, index: int, param: Tensor) -> Tensor:
        """The memory of the direction of this process's part, with its shape and strides."""
        self._views[index] = view = self._parts[index].as_strided(param.shape, param.stride())
        return view

    # ---- who does what ----

    def rounds(self, active: tuple[int, ...]) -> list[list[Batch]]:
        """What happens one after the other in a step on these parameters: of every process one batch at a time."""
        if self._planned[0] != active:
            by_mesh = defaultdict[tuple[int, ...], list[Unit]](list)
            for index in active:
                one, cut = self._cuts[index]
                if one.rows and one.columns:
                    by_mesh[cut.ranks] += _units(one, cut)
            rounds = [batches for ranks, units in by_mesh.items() for batches in self._of_mesh(ranks, units)]
            self._planned = active, rounds
        return self._planned[1]

    def _of_mesh(self, ranks: tuple[int, ...], units: list[Unit]) -> Iterator[list[Batch]]:
        """The largest first, each to the process that has least to do so far: Graham (1969), LPT."""
        loads, owned = [0] * len(ranks), [list[Unit]() for _ in ranks]
        for unit in sorted(units, key=lambda unit: -unit.cost):
            least = loads.index(min(loads))
            loads[least] += unit.cost
            owned[least].append(unit)
        queues = [list(self._batches(rank, some)) for rank, some in zip(ranks, owned, strict=True)]
        for batches in zip_longest(*queues):
            yield [batch for batch in batches if batch is not None]

    def _batches(self, owner: int, units: Sequence[Unit]) -> Iterator[Batch]:
        kinds = defaultdict[Any, list[Unit]](list)
        for unit in units:
            kinds[unit.matrices.kind].append(unit)
        for some in kinds.values():
            most = self._together(some[0].matrices.rows, some[0].matrices.columns)
            batch, count = list[Unit](), 0
            for unit in some:
                if batch and count + unit.matrices.count > most:
                    yield self._batch(owner, batch)
                    batch, count = [], 0
                batch.append(unit)
                count += unit.matrices.count
            yield self._batch(owner, batch)

    def _batch(self, owner: int, units: list[Unit]) -> Batch:
        there, back = defaultdict[int, list[tuple[int, Box]]](list), defaultdict[int, list[tuple[int, Box]]](list)
        for k, unit in enumerate(units):
            cut = unit.cut
            replica = cut.replicas[cut.ranks.index(owner)]
            for rank, its, box in zip(cut.ranks, cut.replicas, cut.boxes, strict=True):
                if self.rank in (rank, owner) and (common := _shared_by(box, unit.box)) is not None:
                    back[rank].append((k, common))
                    if its == replica:
                        there[rank].append((k, common))
        return Batch(owner, units, there, back)

    # ---- on the way ----

    def carry(self, batches: list[Batch], whole: Tensor | None, back: bool) -> None:
        """Bring the parts of the batches of a round to their owners, or back.

        Parameters
        ----------
        batches
            Of each process one at most.
        whole
            Memory for the one of this process, if there is one: flat.
        back
            Whether the owners send.
        """
        import torch.distributed as dist

        operations, arriving = list[Any](), list[tuple[Tensor, list[Tensor]]]()
        for batch in batches:
            for rank, pieces in (batch.back if back else batch.there).items():
                held = [self._part(batch.units[k], box) for k, box in pieces] if rank == self.rank else []
                wholes = list(_matrices(batch, pieces, whole)) if batch.owner == self.rank else []
                if held and wholes:
                    for source, target in zip(wholes, held, strict=True) if back else zip(held, wholes, strict=True):
                        target.copy_(source)
                    continue
                mine, peer = (held, batch.owner) if held else (wholes, rank)
                if back == bool(wholes):
                    sent = torch.cat([view.reshape(-1) for view in mine])
                    operations.append(dist.P2POp(dist.isend, sent, peer, tag=TAG))
                else:
                    came = torch.empty(sum(view.numel() for view in mine), dtype=mine[0].dtype, device="cpu")
                    arriving.append((came, mine))
                    operations.append(dist.P2POp(dist.irecv, came, peer, tag=TAG))
        for work in dist.batch_isend_irecv(operations) if operations else ():
            work.wait()
        for came, views in arriving:
            for piece, view in zip(torch.split(came, [view.numel() for view in views]), views, strict=True):
                view.copy_(piece.view(view.shape))

    def _part(self, unit: Unit, box: Box) -> Tensor:
        """What this process has of a box."""
        return _within(self._views[unit.matrices.index], box, self._box(unit.cut))


def _matrices(batch: Batch, pieces: list[tuple[int, Box]], whole: Tensor | None) -> Iterator[Tensor]:
    """Boxes of the matrices of a batch in its owner's memory."""
    assert whole is not None
    sizes = [one.count * one.rows * one.columns for one, _, _ in batch.units]
    for k, box in pieces:
        _, cut, of = batch.units[k]
        shape = tuple(end - begin for begin, end in of)
        yield _within(whole.as_strided(shape, cut.strides, sum(sizes[:k])), box, of)
