"""OpenMP's threads and the package's own: the choice, OpenMP's settings, and runtimes that meet in one process."""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest
from cases import TEAMS
from isolated import CPUS, HEAD, linux, prints, python

import fusedstep as fs
from fusedstep import _core

openmp = pytest.mark.skipif("openmp" not in TEAMS, reason="this build has no OpenMP")
several = pytest.mark.skipif((CPUS or 1) < 2, reason="one CPU: a step has no team")

STEP = """
import hashlib, os
def step():
    params = [np.linspace(-1, 1, n, dtype=np.float32) for n in (70_000, 5, 300_000)]
    optimizer = fs.AdamW(params, lr=0.1, max_grad_norm=1.0, state_format="8bit")
    for t in range(3):
        optimizer.step([np.cos(p * t) for p in params])
    return hashlib.sha256(b"".join(p.tobytes() for p in params)).hexdigest()
def threads(): return len(os.listdir("/proc/self/task"))
"""


def test_choice() -> None:
    assert prints("print(fs.get_threading())") == "pool"
    assert prints("print(fs.get_threading())", FUSEDSTEP_THREADING="") == "pool"
    for team in TEAMS:
        assert prints("print(fs.get_threading())", FUSEDSTEP_THREADING=team) == team
        assert prints(f"fs.set_threading({team!r}); print(fs.get_threading())") == team


def test_wrong_choice() -> None:
    with pytest.raises(ValueError, match="name: got 'tbb', needs 'openmp' or 'pool'"):
        fs.set_threading("tbb")
    with pytest.raises(TypeError, match=r"name: got 3 \(int\), needs a string"):
        fs.set_threading(3)  # type: ignore[arg-type]
    uses = ("fs.get_threading()", "fs.set_threading('pool')", "fs.SGD(np.ones(1))")
    code = f"""
for use in {uses!r}:
    try: eval(use)
    except ValueError as error: print(error)
"""
    message = "FUSEDSTEP_THREADING: got 'tbb', needs 'openmp' or 'pool'"
    assert prints(code, FUSEDSTEP_THREADING="tbb").splitlines() == [message] * len(uses)


def test_info() -> None:
    code = "from fusedstep._info import info; print(info()['threading'])"
    for team in TEAMS:
        told = prints(code, FUSEDSTEP_THREADING=team)
        assert told.startswith(f"{team} (") and all(name in told for name in TEAMS)
    assert _core.build_info()["threading"].keys() == set(TEAMS)


@linux
def test_no_runtime_is_loaded_before_it_is_wanted() -> None:
    """Nor needed: `import fusedstep` costs nothing for it, and works where there is none."""
    loaded = STEP + "step(); print('omp.so' in open('/proc/self/maps').read())"
    assert prints(loaded) == "False"
    if "openmp" in TEAMS:
        assert prints(loaded, FUSEDSTEP_THREADING="openmp") == "True"


def test_without_a_runtime(tmp_path: pathlib.Path) -> None:
    """A package without its OpenMP library."""
    shutil.copytree(pathlib.Path(fs.__file__).parent, tmp_path / "fusedstep")
    for library in (tmp_path / "fusedstep").glob("_core_openmp*"):
        library.unlink()
    code = (
        STEP
        + """
from fusedstep._info import info
assert fs.__file__.startswith({folder!r}), fs.__file__
print(info()["threading"], list(_core.build_info()["threading"]))
try: fs.set_threading("openmp")
except ValueError as error: print(error)
step()
"""
    )
    head = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{HEAD}"
    told, error = prints(code.replace("{folder!r}", repr(str(tmp_path))), head=head).splitlines()
    assert told == "pool (pool: threads of the package's own) ['pool']"
    assert error.startswith("name: got 'openmp', needs 'pool'; there is no OpenMP: ")
    failed = python("fs.SGD(np.ones(1))", head=head, FUSEDSTEP_THREADING="openmp")
    assert "ValueError: FUSEDSTEP_THREADING: got 'openmp', needs 'pool'" in failed.stderr


VARIABLES: tuple[dict[str, str], ...] = (
    {},
    {"OMP_DYNAMIC": "true"},
    {"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"},
    {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"},
    {"OMP_WAIT_POLICY": "passive"},
    {"OMP_WAIT_POLICY": "active"},
    {"OMP_THREAD_LIMIT": "1"},
    {"OMP_THREAD_LIMIT": "2"},
    {"OMP_MAX_ACTIVE_LEVELS": "0"},
    {"OMP_NUM_THREADS": "2,4", "OMP_NESTED": "true"},
    {"OMP_SCHEDULE": "dynamic", "OMP_STACKSIZE": "256k"},
)


@openmp
@pytest.mark.parametrize("variables", VARIABLES, ids=lambda v: ",".join(f"{k}={x}" for k, x in v.items()) or "none")
def test_openmps_variables_change_no_bit(variables: dict[str, str]) -> None:
    code = STEP + "_core.pretend_cpus(4); print(step())"
    expected = prints(code, FUSEDSTEP_NUM_THREADS="1")
    done = python(code, FUSEDSTEP_THREADING="openmp", **{"FUSEDSTEP_NUM_THREADS": "4"} | variables)
    assert done.returncode == 0 and done.stdout.strip() == expected, done.stderr


@openmp
@linux
def test_a_process_that_openmp_binds_has_all_its_places() -> None:
    """The runtime binds the main thread to one CPU when it is loaded, by torch or by us."""
    cpus = len(os.sched_getaffinity(0))
    code = "fs.set_threading('openmp'); step(); print(fs.get_num_threads(), threads())"
    bound = {"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"}
    counted, running = prints(STEP + code, **bound).split()
    assert int(counted) == cpus
    assert running == prints(STEP + code).split()[1]


@openmp
@linux
def test_openmps_limit_holds() -> None:
    code = STEP + "_core.pretend_cpus(4); step(); print(threads())"
    with_limit = {"OMP_THREAD_LIMIT": "2", "FUSEDSTEP_THREADING": "openmp", "FUSEDSTEP_NUM_THREADS": "4"}
    alone = int(prints("import os; print(len(os.listdir('/proc/self/task')))"))
    assert int(prints(code, **with_limit)) == alone + 1
    assert int(prints(code, **with_limit | {"OMP_THREAD_LIMIT": "8"})) == alone + 3


@openmp
@linux
@several
def test_threadpoolctl_sees_and_limits_openmp() -> None:
    pytest.importorskip("threadpoolctl")
    code = (
        STEP
        + """
from threadpoolctl import threadpool_info, threadpool_limits
fs.set_threading("openmp")
assert "openmp" in [one["user_api"] for one in threadpool_info()], threadpool_info()
before = threads()
with threadpool_limits(1, user_api="openmp"):
    limited = step(); assert threads() == before, "a team was made"
assert step() == limited; assert threads() > before, "no team was made"
"""
    )
    prints(code, FUSEDSTEP_NUM_THREADS="2")


@pytest.mark.parametrize("team", TEAMS)
def test_threadpoolctl_sees_and_limits_the_package(team: str) -> None:
    pytest.importorskip("threadpoolctl")
    code = """
import fusedstep.threadpoolctl
from threadpoolctl import threadpool_info, threadpool_limits
[mine] = [one for one in threadpool_info() if one["user_api"] == "fusedstep"]
with threadpool_limits(1): print(fs.get_num_threads(), end=" ")
with threadpool_limits({"fusedstep": 2}): print(fs.get_num_threads(), end=" ")
print(fs.get_num_threads(), mine["num_threads"], mine["version"] == fs.__version__, mine["threading_layer"])
"""
    assert prints(code, FUSEDSTEP_NUM_THREADS="3", FUSEDSTEP_THREADING=team) == f"1 2 3 3 True {team}"


@openmp
@linux
def test_beside_the_runtime_of_torch() -> None:
    """torch brings an OpenMP runtime of its own under a name of its own: both are loaded, and work in turn."""
    pytest.importorskip("torch")
    code = (
        STEP
        + """
import re, torch
fs.set_threading("openmp")
product = torch.ones(300, 300)
expected = step()
for _ in range(5):
    assert (product @ product == 300).all() and step() == expected
files = {line.split("/")[-1] for line in open("/proc/self/maps") if re.search(r"lib[gi]?omp", line)}
assert files, "no runtime is loaded"
torch.set_num_threads(1)
assert step() == expected
"""
    )
    prints(code, FUSEDSTEP_NUM_THREADS="2")


@openmp
@linux
def test_runtime_that_is_loaded_is_shared() -> None:
    """Where another library loaded the runtime that this build is linked with, that one is used."""
    runtime = _core.build_info()["threading"]["openmp"].partition("(")[2].rstrip(")")
    code = f"""
import ctypes
ctypes.CDLL({runtime!r})
def loaded(): return {{line.split()[-1] for line in open("/proc/self/maps") if {runtime.split(".")[0]!r} in line}}
before = loaded()
fs.set_threading("openmp")
fs.SGD(np.ones(400_000, np.float32)).step(np.ones(400_000, np.float32))
assert loaded() == before and len(before) == 1, (before, loaded())
"""
    prints(code)
