"""What has to be set before any library loads: threads for everyone alike, and huge pages."""

from __future__ import annotations

import os
import sys

MARK = "STEP_BENCHMARKS_READY"


def prepare(threads: int | None = None, pages: str = "huge") -> int:
    """Start this script again with its environment set, unless that is done; return the number of threads.

    Parameters
    ----------
    threads : int, optional
        CPUs that everyone may use, by affinity (all that the process has, when absent): libraries without a
        setting for it are held to the same number.
    pages : {"huge", "own"}
        "huge": the C library asks for huge pages for every large block, so nobody is slower only because its
        allocator does not ask. "own": what each library does by itself (NumPy asks, torch and XLA do not).
    """
    cpus = sorted(os.sched_getaffinity(0))
    count = min(threads or len(cpus), len(cpus))
    if os.environ.get(MARK) != "1":
        os.sched_setaffinity(0, cpus[:count])
        names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        os.environ.update({name: str(count) for name in names})
        os.environ.update({MARK: "1", "DS_ACCELERATOR": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"})
        if pages == "huge":
            os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    return count
