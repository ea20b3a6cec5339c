"""Processes that step together agree first: nobody goes on if one has an error, or would do something else."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["RankError", "agree"]


class RankError(RuntimeError):
    """Another process could not take part, or was called with other options. Nothing has changed in any process."""


def agree(
    rank: int,
    error: BaseException | None,
    facts: Sequence[tuple[str, str]],
    largest: Callable[[list[int]], Sequence[int]],
    exchange: Callable[[Any], list[tuple[int, Any]]],
) -> None:
    """Come together, in every process at the same place.

    Parameters
    ----------
    rank
        This process.
    error
        This process's own, which its caller raises afterwards.
    facts
        Names and values that must be the same everywhere.
    largest
        Takes three integers, and returns the largest that any process has of each.
    exchange
        Takes a plain Python object, and returns the rank and the object of every process, in the order of the ranks.

    Raises
    ------
    RankError
        Another process has an error, or other values.
    """
    short = zlib.crc32(repr(facts).encode())
    failed, most, least = largest([int(error is not None), short, -short])
    if not failed and most == -least:
        return
    said = exchange((None if error is None else f"{type(error).__name__}: {error}", list(facts)))
    if error is not None:
        return
    for other, (text, _) in said:
        if text is not None:
            raise RankError(f"rank {other}: {text} (seen by rank {rank}; nothing has changed on any rank)")
    first_rank, (_, first) = said[0]
    values = dict(first)
    for other, (_, theirs) in said:
        for name, value in theirs:
            if values.get(name) != value:
                raise RankError(
                    f"{name}: got {values.get(name, 'nothing')} on rank {first_rank} and {value} on rank {other}, "
                    "needs the same on every rank; nothing has changed"
                )
    raise RankError("the ranks differ: needs the same parameters and options on every rank; nothing has changed")
