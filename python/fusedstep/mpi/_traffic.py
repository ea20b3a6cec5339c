"""Buckets on their way: gradients to their owners, where they are averaged, and parameters back to everyone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import formats
from .._floats import default_floats
from .._pieces import pieces
from ._cut import Cut, Run
from ._library import MPI
from ._ranks import Ranks

__all__ = ["Traffic"]

Array = NDArray[Any]
Bytes = NDArray[np.uint8]

_AHEAD_BYTES: Final = 1 << 24  # on their way at a time, in each direction
_LEAST_AHEAD: Final = 2  # buckets
_MOST_AHEAD: Final = 8
_ALIGNED: Final = 8  # bytes: every run of a message begins at a multiple

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


class _Flight(NamedTuple):
    request: MPI.Request
    sent: Bytes  # MPI reads it until the request is done
    received: Bytes
    starts: list[int]  # where each rank's part begins


class Traffic:
    """The messages of one optimizer.

    Parameters
    ----------
    ranks
        The processes.
    cut
        Who owns what.
    params
        The whole parameters, contiguous.
    computes
        The dtype in which each is computed.
    bucket_bytes
        Bytes of gradients in a bucket, of all ranks together.
    grad_dtype
        ``"bfloat16"``: float32 gradients are rounded to that for the way.
    sum_dtype
        In which gradients are added up.

    Attributes
    ----------
    buckets
        The runs of each rank in each bucket.
    ahead
        Buckets on their way at a time, in each direction: small ones would wait for the latency of two.
    reduced
        The averaged gradients of this rank's pieces, in the compute type.
    """

    def __init__(
        self,
        ranks: Ranks,
        cut: Cut,
        params: Sequence[Array],
        computes: Sequence[np.dtype[Any]],
        bucket_bytes: int,
        grad_dtype: str | None,
        sum_dtype: str,
    ) -> None:
        self._ranks = ranks
        self._params = [param.reshape(-1).view(np.uint8) for param in params]
        self._items = [param.itemsize for param in params]
        self._grad_dtype = grad_dtype
        self._sum_dtype = np.dtype(sum_dtype)
        self.ahead = min(max(_AHEAD_BYTES // bucket_bytes, _LEAST_AHEAD), _MOST_AHEAD)
        self.buckets = cut.buckets(bucket_bytes // (FLOAT32.itemsize * ranks.size))
        self._begins = [cut.piece(ranks.rank, tensor)[0] for tensor in range(len(params))]
        self.reduced = []
        for tensor, compute in enumerate(computes):
            begin, end = cut.piece(ranks.rank, tensor)
            self.reduced.append(np.empty(end - begin, compute))
        largest = min(int(np.max([g.size for g in self.reduced], initial=0)), 1 << 16)
        self._sum = np.empty(largest, FLOAT64)
        self._grads: Sequence[Array | None] = ()
        self._stepped: Sequence[bool] = ()
        self._arriving: dict[int, _Flight] = {}
        self._leaving: dict[int, _Flight] = {}
        self._spare: list[Bytes] = []

    # ---------------------------------------------------------------------------------------------------- gradients

    def start(self, grads: Sequence[Array | None], stepped: Sequence[bool]) -> None:
        """Send off the first buckets of gradients; `stepped` says which parameters the step will change."""
        self._grads = [None if grad is None else grad.reshape(-1) for grad in grads]
        self._stepped = stepped
        self._ranks.traffic = self
        for bucket in range(min(self.ahead, len(self.buckets))):
            self._send_gradients(bucket)

    @default_floats()
    def receive(self, bucket: int) -> None:
        """Wait for a bucket, average it into `reduced`, and send the next one off."""
        flight = self._arriving.pop(bucket)
        self._ranks.wait(flight.request)
        offset = 0
        for run in self._active(bucket, self._ranks.rank):
            grad = self._grads[run.tensor]
            assert grad is not None
            wire = self._wire(grad)
            size = (run.end - run.begin) * wire.itemsize
            parts = [
                self._rounded(grad[run.begin : run.end])
                if rank == self._ranks.rank
                else flight.received[start + offset :][:size].view(wire)
                for rank, start in enumerate(flight.starts)
            ]
            begin = run.begin - self._begins[run.tensor]
            self._average(parts, self.reduced[run.tensor][begin : begin + run.end - run.begin])
            offset += _whole(size)
        self._spare += [flight.sent, flight.received]
        if bucket + self.ahead < len(self.buckets):
            self._send_gradients(bucket + self.ahead)

    def _active(self, bucket: int, rank: int) -> list[Run]:
        """The runs that have a gradient in this step."""
        return [run for run in self.buckets[bucket][rank] if self._grads[run.tensor] is not None]

    def _wire(self, grad: Array) -> np.dtype[Any]:
        """The dtype in which a gradient travels; bfloat16 as its bits."""
        narrow = self._grad_dtype is not None and grad.dtype == FLOAT32
        return np.dtype(np.uint16) if narrow or formats.is_bfloat16(grad.dtype) else grad.dtype

    def _rounded(self, part: Array) -> Array:
        wire = self._wire(part)
        if wire == part.dtype:
            return part
        return formats.encode_bfloat16(part) if part.dtype == FLOAT32 else part.view(wire)

    def _send_gradients(self, bucket: int) -> None:
        me = self._ranks.rank
        out, own = [0] * self._ranks.size, 0
        for rank in range(self._ranks.size):
            for tensor, begin, end in self._active(bucket, rank):
                grad = self._grads[tensor]
                assert grad is not None
                size = _whole((end - begin) * self._wire(grad).itemsize)
                out[rank] += size if rank != me else 0
                own += size if rank == me else 0
        back = [0 if rank == me else own for rank in range(self._ranks.size)]
        sent, received = self._buffer(sum(out)), self._buffer(sum(back))
        at = 0
        for rank in range(self._ranks.size):
            for tensor, begin, end in self._active(bucket, rank) if rank != me else ():
                grad = self._grads[tensor]
                assert grad is not None
                part = self._rounded(grad[begin:end])
                sent[at : at + part.nbytes].view(part.dtype)[...] = part
                at += _whole(part.nbytes)
        starts = _starts(back)
        request = self._ranks.comm.Ialltoallv(
            [sent, (out, _starts(out)), MPI.BYTE], [received, (back, starts), MPI.BYTE]
        )
        self._arriving[bucket] = _Flight(request, sent, received, starts)

    def _average(self, parts: Sequence[Array], out: Array) -> None:
        """The mean of the ranks' gradients, added up in the order of the ranks and rounded once."""
        dtype = FLOAT64 if out.dtype == FLOAT64 else self._sum_dtype
        for piece in pieces(out.size):
            total = self._sum[: piece.stop - piece.start].view(dtype)[: piece.stop - piece.start]
            total[...] = _values(parts[0][piece])
            for part in parts[1:]:
                total += _values(part[piece])
            if len(parts) > 1:
                total /= len(parts)
            out[piece] = total

    # --------------------------------------------------------------------------------------------------- parameters

    def send(self, bucket: int) -> None:
        """Send this rank's stepped parameters of a bucket to all others."""
        if self._ranks.size == 1:
            return
        while len(self._leaving) >= self.ahead:
            self._take(min(self._leaving))
        sizes = [sum(map(self._size, self._changed(bucket, rank))) for rank in range(self._ranks.size)]
        sent, received = self._buffer(sizes[self._ranks.rank]), self._buffer(sum(sizes))
        at = 0
        for run in self._changed(bucket, self._ranks.rank):
            part = self._part(run)
            sent[at : at + part.size] = part
            at += part.size
        starts = _starts(sizes)
        request = self._ranks.comm.Iallgatherv(
            [sent, sizes[self._ranks.rank], MPI.BYTE], [received, (sizes, starts), MPI.BYTE]
        )
        self._leaving[bucket] = _Flight(request, sent, received, starts)

    def finish(self) -> None:
        """Wait for all that is on its way, and put the other ranks' parameters in place."""
        for bucket in sorted(self._leaving):
            self._take(bucket)
        for flight in self._arriving.values():
            self._ranks.wait(flight.request)
        self._arriving.clear()
        self._grads = ()

    def send_all(self) -> None:
        """Give everyone the parameters that this rank owns, outside a step."""
        self._stepped = [True] * len(self._params)
        self._ranks.traffic = self
        for bucket in range(len(self.buckets)):
            self.send(bucket)
        self.finish()

    def _take(self, bucket: int) -> None:
        flight = self._leaving.pop(bucket)
        self._ranks.wait(flight.request)
        for rank, start in enumerate(flight.starts):
            if rank == self._ranks.rank:
                continue
            at = start
            for run in self._changed(bucket, rank):
                part = self._part(run)
                part[...] = flight.received[at : at + part.size]
                at += part.size
        self._spare += [flight.sent, flight.received]

    def _changed(self, bucket: int, rank: int) -> list[Run]:
        """The runs whose parameters the step changes."""
        return [run for run in self.buckets[bucket][rank] if self._stepped[run.tensor]]

    def _size(self, run: Run) -> int:
        return (run.end - run.begin) * self._items[run.tensor]

    def _part(self, run: Run) -> Bytes:
        item = self._items[run.tensor]
        return self._params[run.tensor][run.begin * item : run.end * item]

    # ------------------------------------------------------------------------------------------------------ buffers

    def _buffer(self, size: int) -> Bytes:
        """Memory for a message; that of messages that have arrived is used again."""
        fitting = [i for i, spare in enumerate(self._spare) if spare.size >= size]
        if fitting:
            return self._spare.pop(min(fitting, key=lambda i: self._spare[i].size))
        if self._spare:
            self._spare.pop()  # too small for what travels now
        return np.empty(size, np.uint8)


def _values(part: Array) -> Array:
    """Gradients as floats that NumPy adds."""
    return formats.decode_bfloat16(part) if part.dtype == np.uint16 else part


def _whole(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:rank]) for rank in range(len(sizes))]
