"""Interpreters of their own for tests of the environment, and C libraries that they load."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import fusedstep as fs

__all__ = ["CPUS", "HEAD", "compiled", "linux", "prints", "python"]

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and forks: Linux only")
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


HEAD = "import numpy as np, fusedstep as fs\nfrom fusedstep import _core\n"


def python(code: str, *prefix: str, head: str = HEAD, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter of its own, with these environment variables and no other of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FUSEDSTEP_", "OMP_"))}
    path = str(pathlib.Path(fs.__file__).parent.parent)
    kept["PYTHONPATH"] = path + os.pathsep + kept.get("PYTHONPATH", "")
    command = [*prefix, sys.executable, "-W", "error", "-c", head + code]
    return subprocess.run(command, env=kept | variables, capture_output=True, text=True, timeout=60)


def prints(code: str, *prefix: str, head: str = HEAD, **variables: str) -> str:
    """What code prints; it must succeed."""
    done = python(code, *prefix, head=head, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def compiled(source: str, folder: pathlib.Path, *options: str) -> pathlib.Path:
    """A shared library from C source."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("gcc is not installed: apt-get install gcc")
    text, library = folder / "library.c", folder / "library.so"
    text.write_text(source)
    command = [compiler, "-shared", "-fPIC", "-O1", *options, str(text), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library
