"""Processes forked from one that steps, and during a step."""

from __future__ import annotations

import pathlib
import sys

import pytest
from cases import TEAMS
from isolated import compiled, linux, prints

FORK = """
import os, sys, signal
def step(n):
    p = np.ones(n, np.float32)
    opt = fs.SGD(p, lr=0.5, max_grad_norm=1e9)
    opt.step(np.ones(n, np.float32))
    assert (p == 0.5).all()
    return opt
fs.set_num_threads(4)
_core.pretend_cpus(4)
opt = step(400_000)
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            opt.step(np.ones(400_000, np.float32))
            assert (opt.param_groups[0]["params"] == 0).all()
            step(400_000)
            grandchild = os.fork()
            if grandchild == 0:
                step(400_000)
                os._exit(0)
            assert os.waitpid(grandchild, 0)[1] == 0
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0, "the child failed or hung"
step(400_000)
print("done", len(os.listdir("/proc/self/task")))
"""


@linux
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="Python warns of fork() beside threads, and this is with them")
@pytest.mark.parametrize("team", TEAMS)
def test_fork_after_threads_were_used(team: str) -> None:
    assert prints(FORK, FUSEDSTEP_THREADING=team).startswith("done")


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_multiprocessing_workers(team: str) -> None:
    code = """
import multiprocessing as mp, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # fork() beside threads, from Python 3.12 on
def work(seed):
    p = np.full(300_000, seed, np.float32)
    fs.Adam(p, lr=1.0).step(np.ones(300_000, np.float32))
    return float(p[0]), float(p[-1])
work(0)
for method in ("fork",):
    with mp.get_context(method).Pool(2) as pool:
        print(pool.map_async(work, range(4)).get(timeout=40))
"""
    assert prints(code, FUSEDSTEP_THREADING=team) == "[(-1.0, -1.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]"


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_child_forked_during_a_step_may_step(team: str) -> None:
    code = """
import contextlib, os, threading
grad = np.ones(2_000_000, np.float32)
optimizer = fs.Adam(np.zeros_like(grad))
stop = threading.Event()
def work():
    while not stop.is_set():
        optimizer.step(grad)
thread = threading.Thread(target=work)
thread.start()
for held in (False, True):
    for _ in range(5):
        child = os.fork()
        if child == 0:
            try:
                with optimizer._model.exclusive("save()") if held else contextlib.nullcontext():
                    ok = optimizer.step(grad)
                    if held and os.fork() == 0:
                        ok = ok and optimizer.step(grad)
                        os._exit(not ok)
                    os._exit(not (ok and (not held or os.wait()[1] == 0)))
            except BaseException:
                os._exit(7)
        assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
"""
    prints(code, FUSEDSTEP_THREADING=team)


REGION = """
#include <omp.h>
int region(void) {
    int seen = 0;
    #pragma omp parallel num_threads(4) reduction(+ : seen)
    seen += 1;
    return seen;
}
"""


@linux
@pytest.mark.skipif("openmp" not in TEAMS, reason="this build has no OpenMP")
def test_fork_before_the_package_was_imported(tmp_path: pathlib.Path) -> None:
    """GNU's runtime waits in a child for the threads of a region before the fork: the pool steps there."""
    library = compiled(REGION, tmp_path, "-fopenmp")
    code = f"""
import ctypes, os, signal
assert ctypes.CDLL({str(library)!r}).region() == 4
child = os.fork()
if child == 0:
    signal.alarm(20)
    import numpy as np, fusedstep as fs
    param = np.ones(400_000, np.float32)
    fs.SGD(param, lr=1.0).step(param.copy())
    os._exit(0 if (param == 0).all() and fs.get_threading() == "pool" else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    prints(code, head="", FUSEDSTEP_THREADING="openmp")


@linux
@pytest.mark.skipif("openmp" not in TEAMS, reason="this build has no OpenMP")
def test_child_has_the_pool() -> None:
    code = """
import os
assert fs.get_threading() == "openmp"
if os.fork() == 0:
    ok = fs.get_threading() == "pool"
    fs.set_threading("pool")
    try: fs.set_threading("openmp")
    except ValueError as error: print(error, flush=True)
    os._exit(not ok)
assert os.wait()[1] == 0 and fs.get_threading() == "openmp"
"""
    assert prints(code, FUSEDSTEP_THREADING="openmp") == (
        "threading: got 'openmp', needs 'pool' in a forked process; OpenMP's threads stay behind in its parent"
    )
