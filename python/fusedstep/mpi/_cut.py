"""Which process owns which elements, and in which buckets they travel."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..reference._arithmetic import BLOCK

__all__ = ["BLOCK", "Cut", "Run"]


class Run(NamedTuple):
    """Elements ``begin`` to ``end`` of one tensor."""

    tensor: int
    begin: int
    end: int


class _Row:
    """Tensors in a row, from number `first` on, cut into one contiguous share for each rank."""

    def __init__(self, first: int, sizes: Sequence[int], ranks: int, split: bool) -> None:
        self.first, self._sizes, self._split = first, list(sizes), split
        self._ends = list(itertools.accumulate(sizes, initial=0))
        self._places = [self._place(self._ends[-1] * rank // ranks) for rank in range(ranks)] + [(len(sizes), 0)]

    def _place(self, element: int) -> tuple[int, int]:
        """The place nearest to an element where a cut may be: a tensor, and elements of it."""
        tensor = bisect.bisect_right(self._ends, element) - 1
        if tensor >= len(self._sizes):
            return len(self._sizes), 0
        unit = BLOCK if self._split else max(self._sizes[tensor], 1)
        within = (element - self._ends[tensor] + unit // 2) // unit * unit
        return (tensor, within) if within < self._sizes[tensor] else (tensor + 1, 0)

    def piece(self, rank: int, tensor: int) -> tuple[int, int]:
        tensor -= self.first
        size = self._sizes[tensor]
        (first, begin), (last, end) = self._places[rank : rank + 2]
        begin = 0 if tensor > first else begin if tensor == first else size
        end = size if tensor < last else end if tensor == last else 0
        return (begin, end) if begin < end else (0, 0)

    def runs(self, rank: int) -> Iterator[Run]:
        first, last = self._places[rank][0], self._places[rank + 1][0]
        for tensor in range(self.first + first, self.first + min(last + 1, len(self._sizes))):
            begin, end = self.piece(rank, tensor)
            if begin < end:
                yield Run(tensor, begin, end)


class Cut:
    """All tensors in a row, cut into one contiguous share for each rank.

    Parameters
    ----------
    sizes
        Elements of every tensor.
    ranks
        Number of processes.
    split
        Whether a tensor may be cut between its blocks; otherwise only between tensors.

    Examples
    --------
    >>> cut = Cut([5000, 10, 3000], ranks=2, split=True)
    >>> list(cut.runs(0))
    [Run(tensor=0, begin=0, end=4096)]
    >>> list(cut.runs(1))
    [Run(tensor=0, begin=4096, end=5000), Run(tensor=1, begin=0, end=10), Run(tensor=2, begin=0, end=3000)]
    """

    def __init__(self, sizes: Sequence[int], ranks: int, split: bool) -> None:
        self.sizes = list(sizes)
        self.ranks = ranks
        self._split = split
        self._rows = [_Row(0, self.sizes, ranks, split)]

    def extended(self, sizes: Sequence[int]) -> Cut:
        """This cut, and one of further tensors into as many shares: what a rank owns it keeps."""
        made = Cut((), self.ranks, self._split)
        made.sizes = [*self.sizes, *sizes]
        made._rows = [*self._rows, _Row(len(self.sizes), sizes, self.ranks, self._split)]
        return made

    def piece(self, rank: int, tensor: int) -> tuple[int, int]:
        """First and last element, excluded, of a tensor that a rank owns; (0, 0) where it owns none."""
        row = bisect.bisect_right(self._rows, tensor, key=lambda row: row.first) - 1
        return self._rows[row].piece(rank, tensor)

    def runs(self, rank: int) -> Iterator[Run]:
        """What a rank owns, tensor by tensor."""
        for row in self._rows:
            yield from row.runs(rank)

    def buckets(self, most: int) -> list[list[list[Run]]]:
        """Buckets, and in each the runs of every rank: as many for all ranks, of up to `most` elements a rank."""
        most = max(most, BLOCK)
        shares = []
        for rank in range(self.ranks):
            share: list[list[Run]] = [[]]
            room = most
            for tensor, begin, end in self.runs(rank):
                while begin < end:
                    taken = end - begin if end - begin <= room else room // BLOCK * BLOCK
                    if taken == 0:
                        share.append([])
                        room = most
                        continue
                    share[-1].append(Run(tensor, begin, begin + taken))
                    begin, room = begin + taken, room - taken
            shares.append(share)
        count = max(map(len, shares))
        return [[share[k] if k < len(share) else [] for share in shares] for k in range(count)]

    def bucket_ends(self, rank: int, buckets: Sequence[Sequence[Sequence[Run]]]) -> list[tuple[int, int]]:
        """Where each bucket ends among a rank's own pieces: a tensor, and elements of the piece."""
        ends = []
        for following in buckets[1:]:
            run = following[rank][0] if following[rank] else None
            begin = 0 if run is None else run.begin - self.piece(rank, run.tensor)[0]
            ends.append((len(self.sizes), 0) if run is None else (run.tensor, begin))
        return [*ends, (len(self.sizes), 0)]
