"""Threads, processes and instruction sets: how many, which, and what happens around fork() and under load."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cases import assert_same, copied, numbers, running, snapshot

import fusedstep as fs
from fusedstep import _core

LARGE = 200_000  # elements: worth a dozen threads
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks: Linux only")
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
VARIABLES = ("FUSEDSTEP_NUM_THREADS", "OMP_NUM_THREADS", "FUSEDSTEP_ISA")


def python(code: str, *prefix: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, with these environment variables and no other of ours."""
    kept = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    path = str(pathlib.Path(fs.__file__).parent.parent)
    kept["PYTHONPATH"] = path + os.pathsep + kept.get("PYTHONPATH", "")
    head = "import numpy as np, fusedstep as fs\nfrom fusedstep import _core\n"
    command = [*prefix, sys.executable, "-W", "error", "-c", head + code]
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True, timeout=60)


def prints(code: str, *prefix: str, **variables: str) -> str:
    done = python(code, *prefix, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ----------------------------------------------------------------------------------------------------- how many


def test_default_number() -> None:
    ask = "print(fs.get_num_threads(), *_core.thread_default())"
    count, _, source = prints(ask).split(maxsplit=2)
    assert 1 <= int(count) <= (CPUS or 1)
    assert source in ("CPU affinity", "cgroup CPU quota")
    assert prints(ask, OMP_NUM_THREADS="3") == "3 3 OMP_NUM_THREADS"
    assert prints(ask, OMP_NUM_THREADS="5,2") == "5 5 OMP_NUM_THREADS"
    assert prints(ask, OMP_NUM_THREADS="3", FUSEDSTEP_NUM_THREADS="7") == "7 7 FUSEDSTEP_NUM_THREADS"
    for nonsense in ("", "0", "-1", "many", "1e3", "99999999999999999999"):
        assert prints(ask, FUSEDSTEP_NUM_THREADS=nonsense).split(maxsplit=2)[2] == source
        assert prints(ask, FUSEDSTEP_NUM_THREADS=nonsense, OMP_NUM_THREADS="2") == "2 2 OMP_NUM_THREADS"


@linux
def test_affinity_mask() -> None:
    if shutil.which("taskset") is None:
        pytest.skip("taskset is not installed: apt-get install util-linux")
    cpu = str(min(os.sched_getaffinity(0)))
    assert prints("print(fs.get_num_threads(), _core.thread_default()[1])", "taskset", "-c", cpu) == "1 CPU affinity"


REDIRECT = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static FILE* redirected(const char* name, const char* path, const char* mode) {
    FILE* (*real)(const char*, const char*) = dlsym(RTLD_NEXT, name);
    char other[4096];
    if (strncmp(path, "/sys/fs/cgroup", 14) && strcmp(path, "/proc/self/cgroup")) return real(path, mode);
    snprintf(other, sizeof other, "%s%s", getenv("FAKE_ROOT"), path);
    return real(other, mode);
}
FILE* fopen(const char* path, const char* mode) { return redirected("fopen", path, mode); }
FILE* fopen64(const char* path, const char* mode) { return redirected("fopen64", path, mode); }
"""


def compiled(source: str, folder: pathlib.Path) -> pathlib.Path:
    """A library to be loaded before the C library, from C source."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("gcc is not installed: apt-get install gcc")
    text, library = folder / "library.c", folder / "library.so"
    text.write_text(source)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", str(text), "-o", str(library), "-ldl"], check=True)
    return library


@linux
@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "400000 100000"}, 1.0),
        ("0::/a/b\n", {"cpu.max": "20000 100000"}, 0.2),
        (
            "2:cpuacct,cpu:/pod\n1:memory:/\n",
            {"cpu/pod/cpu.cfs_quota_us": "100000", "cpu/pod/cpu.cfs_period_us": "100000"},
            1.0,
        ),
        ("2:cpu:/pod\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("2:cpuset:/pod\n", {"cpu/pod/cpu.cfs_quota_us": "1", "cpu/pod/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {"cpu.max": "x y"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_cgroup_quota(groups: str, files: dict[str, str], cpus: float | None, tmp_path: pathlib.Path) -> None:
    """Quotas of both kinds of control groups, from a file system made up for the purpose."""
    library = compiled(REDIRECT, tmp_path)
    for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{k}": v for k, v in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    told = prints("print(*_core.thread_default())", LD_PRELOAD=str(library), FAKE_ROOT=str(tmp_path))
    allowed = CPUS if cpus is None else -(-cpus // 1)
    assert allowed is not None and CPUS is not None
    assert told == (f"{int(allowed)} cgroup CPU quota" if allowed < CPUS else f"{CPUS} CPU affinity")


def test_set_and_get() -> None:
    with running(threads=3):
        assert fs.get_num_threads() == 3
        fs.set_num_threads(np.int64(2))
        assert fs.get_num_threads() == 2


@linux
def test_small_models_stay_on_the_calling_thread() -> None:
    code = """
import os
def threads(): return len(os.listdir("/proc/self/task"))
alone = threads()
def step(size, tensors=1):
    opt = fs.Adam([np.ones(size, np.float32) for _ in range(tensors)], max_grad_norm=1.0)
    for _ in range(3): opt.step([np.ones(size, np.float32) for _ in range(tensors)])
    return threads() - alone
print(step(1000), step(16000), step(100, 100), step(1), step(0), step(400_000))
"""
    *small, large = prints(code, FUSEDSTEP_NUM_THREADS="4").split()
    assert small == ["0"] * 5
    assert int(large) == 3
    assert prints(code, FUSEDSTEP_NUM_THREADS="1").split()[-1] == "0"


# ------------------------------------------------------------------------------------------------------- fork

FORK = """
import os, sys, signal
def step(n):
    p = np.ones(n, np.float32)
    opt = fs.SGD(p, lr=0.5, max_grad_norm=1e9)
    opt.step(np.ones(n, np.float32))
    assert (p == 0.5).all()
    return opt
fs.set_num_threads(4)
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
def test_fork_after_threads_were_used() -> None:
    assert prints(FORK).startswith("done")


@linux
def test_multiprocessing_workers() -> None:
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
    assert prints(code) == "[(-1.0, -1.0), (0.0, 0.0), (1.0, 1.0), (2.0, 2.0)]"


# ------------------------------------------------------------------------------------------ several Python threads


def test_different_optimizers_at_once() -> None:
    """Each leaves the bytes it leaves alone; the native steps run beside each other."""

    def work(seed: int) -> Any:
        params = [numbers(LARGE // 2, np.float32, seed), numbers(77, np.float32, seed)]
        optimizer = fs.Adam(params, lr=0.1, max_grad_norm=1.0, state_format="8bit")
        for t in range(6):
            optimizer.step([numbers(LARGE // 2, np.float32, 100 * seed + t), numbers(77, np.float32, seed)])
        return snapshot(optimizer)

    with running(threads=2):
        alone = [work(seed) for seed in range(4)]
        found: dict[int, Any] = {}
        threads = [threading.Thread(target=lambda seed=seed: found.update({seed: work(seed)})) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert_same([found[seed] for seed in range(4)], alone)


def test_one_optimizer_in_two_threads() -> None:
    """The second step is refused while the first runs; no step is lost or half done."""
    size = 8_000_000
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = fs.SGD(param, lr=1.0)
    taken, refused, ready = [0] * 4, [0] * 4, threading.Barrier(4)
    rounds = 0

    def work(k: int) -> None:
        ready.wait()
        for _ in range(12):
            try:
                taken[k] += optimizer.step(grad)
            except RuntimeError as error:
                assert str(error) == "step(): this optimizer is already taking a step in another thread"
                refused[k] += 1

    while rounds < 10 and not any(refused):  # until two steps meet
        rounds += 1
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sum(taken) + sum(refused) == 48 * rounds and sum(taken) == optimizer.steps_taken
    assert sum(refused) > 0, "the steps never met: make them longer"
    assert (param == -sum(taken)).all()


def test_loading_while_a_step_runs_is_refused_or_waits() -> None:
    """Saving, loading and setting options from another thread never tear a step apart."""
    param, grad = np.zeros(4_000_000, np.float32), np.ones(4_000_000, np.float32)
    optimizer = fs.SGD(param, lr=1.0, momentum=0.5)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            optimizer.max_grad_norm = None
            optimizer.param_groups[0]["lr"] = 1.0
            repr(optimizer)

    other = threading.Thread(target=change)
    other.start()
    for _ in range(20):
        optimizer.step(grad)
    stop.set()
    other.join(20)
    assert (param == param[0]).all()


# ---------------------------------------------------------------------------------------------- instruction sets


def test_instruction_set_forced_by_the_environment() -> None:
    for isa in fs.available_isas():
        assert prints("print(fs.isa())", FUSEDSTEP_ISA=isa) == isa
    assert prints("print(fs.isa())", FUSEDSTEP_ISA="") == fs.available_isas()[-1]
    assert prints("fs.set_isa(fs.available_isas()[0]); print(fs.isa())") == fs.available_isas()[0]


def test_wrong_instruction_set() -> None:
    for code in ("fs.isa()", "fs.SGD(np.ones(1))", "fs.set_isa('baseline')", "_core.rules()"):
        done = python(code, FUSEDSTEP_ISA="pentium")
        assert done.returncode == 1
        message = "ValueError: FUSEDSTEP_ISA: unknown instruction set 'pentium'; available: " + ", ".join(
            fs.available_isas()
        )
        assert done.stderr.strip().splitlines()[-1] == message


def test_isa_is_what_was_set() -> None:
    built = [name for name, _, supported in _core.build_info()["isas"] if supported]
    assert built == fs.available_isas() and built[0] == "baseline"
    for isa in built:
        with running(isa):
            assert fs.isa() == isa
    assert fs.isa() == built[-1] or "FUSEDSTEP_ISA" in os.environ


def test_instruction_set_changes_between_the_steps_of_one_optimizer() -> None:
    params = [numbers(5000), numbers(5000, np.float64)]
    mine, steady = copied(params), copied(params)
    one, other = fs.Adam(mine), fs.Adam(steady)
    for t, isa in enumerate(fs.available_isas() * 2):
        grads = [numbers(5000, seed=t), numbers(5000, np.float64, seed=t)]
        with running(isa):
            one.step(grads)
        other.step(grads)
    assert_same(snapshot(one), snapshot(other))


# ------------------------------------------------------------------------------------------------- nothing allocated

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
