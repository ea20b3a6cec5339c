"""How long a step of several processes takes, beside a model of it.

Run with ``mpiexec -n 2 python -m mpi4py benchmarks/mpi_steps.py``. Every rank prints nothing but rank 0. With
``--link 1000`` the time on the network is that of links of 1,000 Mbit/s, instead of being measured; ``links.py`` makes
such links.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI

import fusedstep as fs
from fusedstep.mpi import Sharded

COMM = MPI.COMM_WORLD


def seconds(work: Callable[[], object], runs: int) -> list[float]:
    """The slowest rank's time of each run, sorted."""
    found = []
    for _ in range(runs + 1):
        COMM.Barrier()
        begin = time.perf_counter()
        work()
        found.append(COMM.allreduce(time.perf_counter() - begin, MPI.MAX))
    return sorted(found[1:])


def main() -> None:
    """Measure the parts of the model, then steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=1 << 23)
    parser.add_argument("--buckets", type=int, nargs="+", default=[1 << 20, 1 << 23])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--link", type=float, help="Mbit/s of every rank's link, in each direction")
    parser.add_argument(
        "--payload",
        type=float,
        default=0.94,
        help="share of a link's bits: 0.94 in frames of 1,500 bytes, 0.99 of 9,000",
    )
    args = parser.parse_args()
    n, ranks = args.elements, COMM.size
    show = print if COMM.rank == 0 else lambda *_: None

    share = np.zeros(4 * n // ranks, np.uint8)
    every = np.zeros(share.size * ranks, np.uint8)
    if args.link is None:
        way = statistics.median(seconds(lambda: COMM.Allgather(share, every), args.runs)) if ranks > 1 else 0.0
    else:
        way = share.size * (ranks - 1) / (args.link * 1e6 / 8 * args.payload)
    small = np.zeros(3, np.int64)
    latency = statistics.median(seconds(lambda: COMM.Allreduce(MPI.IN_PLACE, small, MPI.MAX), 200))
    other = np.zeros_like(every)
    copy = statistics.median(seconds(lambda: np.copyto(other, every), args.runs))
    own = np.zeros(n // ranks, np.float32)
    single = fs.AdamW(own)
    grad = np.ones_like(own)
    step = statistics.median(seconds(lambda: single.step(grad), args.runs))
    total = np.zeros(1 << 16)
    narrow = np.ones(1 << 16, np.float32)

    def average() -> None:
        for _ in range(n // ranks // total.size):
            total[...] = narrow
            for _ in range(ranks - 1):
                np.add(total, narrow, out=total)
            np.divide(total, ranks, out=total)
            narrow[...] = total

    averaging = statistics.median(seconds(average, args.runs))
    show(
        f"{ranks} ranks, {n} elements; of all at once, in ms: gather {1e3 * way:.1f}, copy {1e3 * copy:.1f}, "
        f"own step {1e3 * step:.1f}, average {1e3 * averaging:.1f}, latency {1e3 * latency:.3f}"
    )
    params = {"W": np.ones(n, np.float32)}
    grads = {"W": np.ones(n, np.float32)}
    for bucket in args.buckets:
        opt = Sharded(fs.AdamW, params, bucket_bytes=bucket)
        times = seconds(lambda opt=opt: opt.step(grads), args.runs)  # type: ignore[misc]
        buckets = len(opt._traffic.buckets)
        moved = 2 * copy * (ranks - 1) / ranks  # packed and unpacked, each way
        work = 2 * way + 2 * moved + averaging + step
        model = max(work, (work + buckets * latency) / opt._traffic.ahead) + 3 * latency
        show(
            f"bucket {bucket >> 10} KiB, {buckets} buckets: {1e3 * times[0]:.1f} to {1e3 * times[-1]:.1f}, median "
            f"{1e3 * statistics.median(times):.1f} ms; the model says {1e3 * model:.1f}"
        )
        del opt


if __name__ == "__main__":
    main()
