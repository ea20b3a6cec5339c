"""The processes of a communicator: waiting for them no longer than a timeout, and agreeing on errors."""

from __future__ import annotations

import atexit
import os
import pickle
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .._agreement import RankError, agree
from ._library import MPI

__all__ = ["LostRankError", "RankError", "Ranks"]

_POLLS: Final = 2000  # looks before a wait begins to sleep: about a millisecond
_SLEEP: Final = 1e-4  # seconds
_CALL: Final = 77  # tag of the messages that find out who is still there

_LEFT: Final[list[object]] = []  # messages that never ended: MPI may still write into their memory

_PROCESS: Final = os.getpid()

_OWN = MPI.Comm.Create_keyval()  # under which a communicator keeps its duplicate for this package


class LostRankError(TimeoutError):
    """Another rank did not answer in time, or this one was stopped while others waited for it.

    The parameters may be stepped in part: go on from the last checkpoint.

    MPI cannot be used any more, so the process calls ``MPI_Abort`` when it ends.
    """


class Ranks:
    """A communicator of this package's own over the same processes.

    Parameters
    ----------
    comm
        The user's communicator.
    timeout
        Seconds after which a rank that does not answer is lost.
    """

    def __init__(self, comm: MPI.Intracomm, timeout: float) -> None:
        own: Any = comm.Get_attr(_OWN)
        if own is None:
            own = comm.Dup()
            comm.Set_attr(_OWN, own)
        self.comm: MPI.Intracomm = own
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.timeout = timeout
        self.lost: LostRankError | None = None
        self.traffic: object = None  # lives as long as this

    # ------------------------------------------------------------------------------------------------------ waiting

    def wait(self, *requests: MPI.Request) -> None:
        """Wait for messages on their way.

        Raises
        ------
        LostRankError
            They did not arrive in time.
        """
        pending = list(requests)
        begin = time.monotonic()
        polls = 0
        try:
            while not MPI.Request.Testall(pending):
                polls += 1
                time.sleep(0 if polls < _POLLS else _SLEEP)  # 0: lets another process of this CPU run
                if time.monotonic() - begin > self.timeout:
                    self._give_up()
        except BaseException:
            _LEFT.append(pending)
            raise

    def _give_up(self) -> None:
        silent = self._silent()
        who = f"rank {silent[0]}" if len(silent) == 1 else f"ranks {silent}" if silent else "another rank"
        raise self._lose(f"no answer from {who} in {self.timeout:g} s")

    def leave(self, error: BaseException) -> None:
        """Never talk again, as this rank stopped where others wait for it: what it said next would be out of turn."""
        if self.size > 1 and self.lost is None:
            self._lose(f"{type(error).__name__} while others waited")

    def _lose(self, what: str) -> LostRankError:
        self.lost = LostRankError(
            f"rank {self.rank} of {self.size}: got {what}, needs all ranks; "
            "the parameters may be stepped in part, so start again from the last checkpoint"
        )
        _LEFT.append(self)
        atexit.register(self.comm.Abort, 1)  # or the process would wait for the others in MPI_Finalize
        return self.lost

    def _silent(self) -> list[int]:
        """Who does not give up at the same time, and so does not run any more."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        token, heard = np.zeros(1, np.uint8), np.zeros(self.size, np.uint8)
        self._calling = [self.comm.Isend([token, MPI.BYTE], rank, _CALL) for rank in others], token, heard
        calls = [self.comm.Irecv([heard[rank:], 1, MPI.BYTE], rank, _CALL) for rank in others]
        end = time.monotonic() + min(self.timeout / 2, 5.0)
        answered = [False] * len(others)
        while not all(answered) and time.monotonic() < end:
            answered = [done or call.Test() for done, call in zip(answered, calls, strict=True)]
            time.sleep(_SLEEP)
        return [rank for rank, done in zip(others, answered, strict=True) if not done]

    def check_process(self, name: str) -> None:
        """Refuse a child, which would write into the messages of its parent."""
        if self.size > 1 and os.getpid() != _PROCESS:
            raise RuntimeError(f"{name}: got a process that was forked, needs the one that MPI started")

    # ------------------------------------------------------------------------------------------------------ talking

    def sum(self, values: Any, flags: int = 0) -> None:
        """Add up float64 values over all ranks, in place; flags, which are 0 or more, as well."""
        if self.size > 1:
            self.wait(self.comm.Iallreduce(MPI.IN_PLACE, [values, MPI.DOUBLE], MPI.SUM))

    def exchange(self, thing: Any) -> list[Any]:
        """What every rank has, of plain Python objects."""
        if self.size == 1:
            return [thing]
        packed = np.frombuffer(pickle.dumps(thing), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self.wait(self.comm.Iallgather(np.array([packed.size], np.int64), sizes))
        data = self.collect(packed, sizes.tolist())
        ends = np.cumsum(sizes)
        return [pickle.loads(data[end - size : end].tobytes()) for size, end in zip(sizes, ends, strict=True)]

    def collect(self, mine: NDArray[np.uint8], sizes: Sequence[int]) -> NDArray[np.uint8]:
        """The bytes of all ranks one after the other, of which they have `sizes`."""
        data = np.empty(sum(sizes), np.uint8)
        self.wait(self.comm.Iallgatherv([mine, MPI.BYTE], [data, sizes, MPI.BYTE]))
        return data

    def copy_from_first(self, data: NDArray[np.uint8]) -> None:
        """Write rank 0's bytes over those of every rank."""
        if self.size > 1:
            self.wait(self.comm.Ibcast([data, MPI.BYTE], 0))

    def agree(self, error: BaseException | None, facts: Sequence[tuple[str, str]]) -> None:
        """Come together: nobody goes on if a rank has an error, or if the ranks would do different things.

        Parameters
        ----------
        error
            This rank's own, which its caller raises afterwards.
        facts
            Names and values that must be the same everywhere.

        Raises
        ------
        RankError
            Another rank has an error, or other values.
        """
        if self.size > 1:
            agree(self.rank, error, facts, self._largest, lambda thing: list(enumerate(self.exchange(thing))))

    def _largest(self, values: Sequence[int]) -> list[int]:
        found = np.array(values, np.int64)
        self.wait(self.comm.Iallreduce(MPI.IN_PLACE, found, MPI.MAX))
        largest: list[int] = found.tolist()
        return largest
