"""The package on x86-64 CPUs that this one is not: which instruction set it chooses, and the reference's bytes on it.

`tools/emulate.py` compares the digest of the core on these and on other architectures.
"""

from __future__ import annotations

import os
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

import fusedstep as fs

EMULATOR = "qemu-x86_64-static"
# QEMU emulates AVX2 from 7.2 on, and no AVX-512.
CPUS = {
    "Nehalem": ["baseline"],  # SSE4.2
    "SandyBridge": ["baseline"],  # AVX
    "Haswell": ["baseline", "avx2"],
}
PROGRAMS = """
import os, warnings
warnings.simplefilter("ignore")
import fusedstep as fs
from fuzz.programs import run_program
print(fs.isa(), fs.available_isas())
print(sum(run_program(number) for number in range(*map(int, os.environ["NUMBERS"].split()))))
"""


def emulated(cpu: str, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("emulates this machine's own programs: x86-64 Linux only")
    if shutil.which(EMULATOR) is None:
        pytest.skip(f"{EMULATOR} is not installed: apt-get install qemu-user-static")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FUSEDSTEP_", "OMP_"))}
    path = [pathlib.Path(__file__).parent, pathlib.Path(fs.__file__).parent.parent, kept.get("PYTHONPATH", "")]
    kept["PYTHONPATH"] = os.pathsep.join(map(str, path))
    command = [EMULATOR, "-cpu", cpu, sys.executable, "-c", code]
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("cpu", CPUS)
def test_instruction_set_and_bytes(cpu: str) -> None:
    done = emulated(cpu, PROGRAMS, NUMBERS="100 104")
    if done.returncode and "baseline" not in done.stdout and "NumPy was built with" in done.stderr:
        pytest.skip(f"NumPy does not start on {cpu}")
    assert done.returncode == 0, done.stdout + done.stderr
    chosen, steps = done.stdout.splitlines()
    assert chosen == f"{CPUS[cpu][-1]} {CPUS[cpu]}"
    assert int(steps) > 50


def test_an_instruction_set_that_the_cpu_lacks_is_refused() -> None:
    done = emulated("Nehalem", "import fusedstep as fs; fs.isa()", FUSEDSTEP_ISA="avx2")
    assert done.returncode == 1
    assert "avx2" in done.stderr.splitlines()[-1] and "baseline" in done.stderr.splitlines()[-1], done.stderr
