"""GCC makes vectors of every rule's loop on the baseline, where one select too many is enough to prevent it."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from compilers import STANDARD, flags
from repository import ROOT

KERNELS = ROOT / "cpp" / "kernels" / "kernels.cpp"


def compiler() -> str:
    found = shutil.which("g++")
    if found is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs g++ on x86-64")
    if "Free Software Foundation" not in subprocess.run([found, "--version"], capture_output=True, text=True).stdout:
        pytest.skip("g++ is another compiler here")
    return found


def lines_of_update() -> range:
    """Where the function template stands that takes the steps."""
    lines = (KERNELS.parent / "step.hpp").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("void update("))
    return range(start + 1, start + 2 + lines[start:].index("}"))


def test_every_update_is_vectorised(tmp_path: Path) -> None:
    command = [compiler(), STANDARD, *flags("numerics"), *flags("optimised"), "-fopt-info-vec-all", "-c", str(KERNELS)]
    defines = ['-DFUSEDSTEP_ISA_NAME="baseline"', "-DFUSEDSTEP_TABLE=table_baseline"]
    run = subprocess.run([*command, *defines, "-o", str(tmp_path / "kernels.o")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    remark = re.compile(r"step\.hpp:(\d+):\d+: \w+: (.*)")
    found = [match for match in map(remark.search, run.stderr.splitlines()) if match]
    remarks = [match[2] for match in found if int(match[1]) in lines_of_update()]
    assert any("loop vectorized" in text for text in remarks)
    assert not [text for text in remarks if "couldn't vectorize loop" in text]
