"""How many threads a step uses, and who decides that."""

from __future__ import annotations

import os
import pathlib
import shutil

import numpy as np
import pytest
from cases import TEAMS, running
from isolated import CPUS, compiled, linux, prints

import fusedstep as fs

ASK = "print(fs.get_num_threads(), *_core.thread_default())"


def test_default_number() -> None:
    count, _, source = prints(ASK).split(maxsplit=2)
    assert 1 <= int(count) <= (CPUS or 1)
    assert source in ("CPU affinity", "cgroup CPU quota")


@pytest.mark.parametrize("text", ["3", " 3", "3 ", "\t3\n", "+3"])
def test_number_in_the_environment(text: str) -> None:
    """Spaces around it as OpenMP allows them: cmd.exe's ``set OMP_NUM_THREADS=3 && ...`` leaves one."""
    assert prints(ASK, OMP_NUM_THREADS=text) == "3 3 OMP_NUM_THREADS"
    assert prints(ASK, OMP_NUM_THREADS="5", FUSEDSTEP_NUM_THREADS=text) == "3 3 FUSEDSTEP_NUM_THREADS"


@pytest.mark.parametrize("text", ["4,2", " 4 , 2 ", "4,2,1"])
def test_list_for_nested_regions(text: str) -> None:
    assert prints(ASK, OMP_NUM_THREADS=text) == "4 4 OMP_NUM_THREADS"


@pytest.mark.parametrize("text", ["", " ", "0", "-1", "many", "1e3", "1.5", "4,", "4,x", ",4", "4 2", "9" * 20])
def test_bad_number_of_openmps_is_ignored(text: str) -> None:
    """As OpenMP does."""
    assert prints(ASK, OMP_NUM_THREADS=text) == prints(ASK)


@pytest.mark.parametrize("text", ["", " ", "0", "-1", "abc", "1e3", "1.5", "4,2", "4097", "5000", "9" * 20])
def test_bad_number_is_an_error_at_the_first_use(text: str) -> None:
    """Wherever that is, and not at import."""
    uses = (
        "fs.get_num_threads()",
        "fs.set_num_threads(2)",
        "fs.SGD(np.ones(1))",
        "fs.functional.sgd(np.ones(1), np.ones(1), step=1, lr=1.0)",
    )
    code = f"""
for use in {uses!r}:
    try: eval(use)
    except ValueError as error: print(error)
"""
    message = f"FUSEDSTEP_NUM_THREADS: got {text!r}, needs a whole number from 1 to 4096"
    assert prints(code, FUSEDSTEP_NUM_THREADS=text, OMP_NUM_THREADS="2").splitlines() == [message] * len(uses)


def test_info_says_which_number_and_whose() -> None:
    code = "from fusedstep._info import info; print(info()['threads'])"
    assert prints(code, OMP_NUM_THREADS="3") == "3 (OMP_NUM_THREADS)"
    assert prints(code, FUSEDSTEP_NUM_THREADS="3") == "3 (FUSEDSTEP_NUM_THREADS)"
    assert prints("fs.set_num_threads(2);" + code, FUSEDSTEP_NUM_THREADS="3") == (
        "2 (set_num_threads; by default 3, FUSEDSTEP_NUM_THREADS)"
    )


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


COUNT = """
import os
def threads(): return len(os.listdir("/proc/self/task"))
alone = threads()
def step(size, tensors=1):
    opt = fs.Adam([np.ones(size, np.float32) for _ in range(tensors)], max_grad_norm=1.0)
    for _ in range(3): opt.step([np.ones(size, np.float32) for _ in range(tensors)])
    return threads() - alone
"""


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_small_models_stay_on_the_calling_thread(team: str) -> None:
    code = COUNT + "print(step(1000), step(16000), step(100, 100), step(1), step(0), step(400_000))"
    *small, large = prints("_core.pretend_cpus(4);" + code, FUSEDSTEP_NUM_THREADS="4", FUSEDSTEP_THREADING=team).split()
    assert small == ["0"] * 5
    assert int(large) == 3
    assert prints(code, FUSEDSTEP_NUM_THREADS="1", FUSEDSTEP_THREADING=team).split()[-1] == "0"


@linux
@pytest.mark.parametrize("team", TEAMS)
def test_no_more_threads_than_cpus(team: str) -> None:
    """They would only wait for each other."""
    code = COUNT + "print(fs.get_num_threads(), step(4_000_000))"
    assert prints(code, FUSEDSTEP_NUM_THREADS="64", FUSEDSTEP_THREADING=team) == f"64 {min(64, CPUS or 1) - 1}"
    assert prints("fs.set_num_threads(64);" + code, FUSEDSTEP_THREADING=team) == f"64 {min(64, CPUS or 1) - 1}"
