"""Steps allocate nothing and leave nothing behind."""

from __future__ import annotations

import pathlib
import sys
import tracemalloc

import numpy as np
from isolated import compiled, linux, prints

import fusedstep as fs

COUNTER = r"""
#include <dlfcn.h>
#include <stddef.h>
#include <stdatomic.h>
atomic_long counted;
int counting;
static void* (*real)(size_t);
void* malloc(size_t n) {
    if (!real) real = dlsym(RTLD_NEXT, "malloc");
    if (counting) counted++;
    return real(n);
}
void count(int on) { counting = on; if (on) counted = 0; }
long count_of(void) { return counted; }
"""


@linux
def test_a_step_allocates_nothing(tmp_path: pathlib.Path) -> None:
    """Counted at malloc itself, in a process that has the counter loaded before the C library."""
    code = """
import ctypes, gc, os
counter = ctypes.CDLL(os.environ["LD_PRELOAD"])
on, off = ctypes.c_int(1), ctypes.c_int(0)
count, count_of = counter.count, counter.count_of
gc.disable()
for options in ({}, {"state_format": "8bit"}, {"max_grad_norm": 1.0, "clip_value": 0.5, "ema_decay": 0.9}):
    for size in (1000, 200_000):
        for rule in (fs.Adam, fs.LAMB if hasattr(fs, "LAMB") else fs.SGD):
            grads = [np.ones(size, np.float32) for _ in range(3)]
            opt = rule([np.ones(size, np.float32) for _ in range(3)], grads=grads, **options)
            for _ in range(5): opt.step()
            count(on)
            for _ in range(100): opt.step()
            count(off)
            print(count_of(), end=" ")
"""
    library = compiled(COUNTER, tmp_path)
    counts = prints(code, LD_PRELOAD=str(library), FUSEDSTEP_NUM_THREADS="2", PYTHONMALLOC="pymalloc").split()
    # A hundred steps: pymalloc may fetch an arena now and then, a step that allocated would show a hundred.
    assert len(counts) == 12 and all(int(count) < 10 for count in counts), counts


def test_a_step_leaves_no_python_object() -> None:
    grads = [np.ones(100, np.float32) for _ in range(10)]
    bound = fs.Adam([np.ones(100, np.float32) for _ in range(10)], grads=grads)
    given = fs.Adam([np.ones(100, np.float32) for _ in range(10)], lr=lambda t: 1e-3)
    for _ in range(10):
        bound.step()
        given.step(grads)
    tracemalloc.start()
    try:
        before = tracemalloc.take_snapshot()
        for _ in range(1000):
            bound.step()
            given.step(grads)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    grown = sum(s.size_diff for s in after.compare_to(before, "filename") if "tracemalloc" not in str(s.traceback))
    assert grown < 4096, f"{grown} bytes stayed behind"


def test_wrong_steps_leak_nothing() -> None:
    optimizer = fs.SGD({"a": np.ones(3, np.float32)})
    grads = {"a": np.ones(3)}

    def refused(times: int) -> int:
        for _ in range(times):
            try:
                optimizer.step(grads)
            except TypeError:
                continue
            raise AssertionError("taken")
        return sys.getrefcount(grads["a"])

    assert refused(1000) <= refused(10) + 1
