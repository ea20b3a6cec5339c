"""The square root by products (cpp/kernels/vec.hpp) has the bits of the instruction's, for every number there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from compilers import STANDARD, flags
from repository import ROOT

import fusedstep as fs


def test_every_root(tmp_path: Path) -> None:
    if "avx512" not in fs.available_isas():
        pytest.skip("this processor has no AVX-512")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("neither g++ nor clang++ is installed: apt install g++")
    program = tmp_path / "roots"
    sources = [f"-I{ROOT / 'cpp' / 'kernels'}", str(ROOT / "tests" / "roots.cpp"), "-o", str(program)]
    subprocess.run([compiler, STANDARD, "-O2", *flags("numerics"), *flags("avx512"), *sources], check=True)
    done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    assert done.stdout == "0\n"
