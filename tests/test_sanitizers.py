"""The core and its pool under the sanitizers, without Python; `make sanitize` runs the Python tests under them too."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest
from repository import script


@pytest.mark.skipif(sys.platform != "linux", reason="g++ with its sanitizers")
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_the_core_is_clean(sanitizer: str, tmp_path: pathlib.Path) -> None:
    for name in ("cmake", "ninja", "g++"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    sanitize = script("tools/sanitize.py")
    options = ["-DFUSEDSTEP_PYTHON=OFF"]
    if sanitizer == "thread":  # one instruction set is enough for the threads, and saves half of the time
        options += ["-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=any"]
    sanitize.configure(sanitizer, tmp_path, *options)
    sanitize.build(tmp_path, "fusedstep_digest")
    program = tmp_path / "fusedstep_digest"
    done = subprocess.run(
        [str(program)], env=os.environ | sanitize.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
