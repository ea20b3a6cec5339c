"""Compilers and CMake for the tests, and the flags that the build has."""

from __future__ import annotations

import functools
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
from repository import ROOT

__all__ = ["STANDARD", "fails", "flags", "needs", "passes"]

FLAGS = ROOT / "cmake" / "flags.cmake"
_STANDARD = re.search(r"set\(CMAKE_CXX_STANDARD (\d+)\)", (ROOT / "CMakeLists.txt").read_text())
assert _STANDARD is not None
STANDARD = f"-std=c++{_STANDARD[1]}"


def needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def passes(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def fails(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    return " ".join(done.stderr.split())


@functools.cache
def flags(name: str) -> list[str]:
    """The flags in a list of cmake/flags.cmake, such as ``numerics`` or ``avx2``, for g++ and clang++."""
    needs("cmake")
    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "flags.cmake")
        script.write_text(f'include("{FLAGS.as_posix()}")\nmessage("${{{name}}}")\n')
        done = subprocess.run(
            ["cmake", "-DCMAKE_CXX_COMPILER_ID=GNU", "-P", str(script)], capture_output=True, text=True, check=True
        )
    found = done.stderr.strip().split(";")
    assert all(flag.startswith(("-", "$<")) for flag in found), f"{name}: {done.stderr}"
    return [flag for flag in found if flag.startswith("-")]  # the others depend on the build's type
