"""Run the core and the Python tests under the compilers' sanitizers; the first report ends it.

    make sanitize                                    # addresses and undefined behaviour, then threads
    make sanitize ARGS="thread"                      # one of them
    make sanitize ARGS="address tests/test_fork.py"  # with other tests

The core is run by `fusedstep_digest`, on every instruction set and with threads. Python loads the sanitizer's runtime
first (LD_PRELOAD), and the extension alone is instrumented: memory that CPython keeps at exit is no leak of ours, so
leaks are not looked for (tests/test_allocations.py does).
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILDS = ROOT / "build" / "sanitize"
THREADS = ("test_python_threads", "test_free_threading", "test_memory_safety")
TESTS = {
    "address": (
        *(*THREADS, "test_parity", "test_errors", "test_saving", "test_sparse_rows", "test_threading"),
        *("test_adafactor", "test_adam_mini", "test_own_shapes"),
    ),
    "thread": THREADS,
}
FLAGS = {
    "address": "-fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined",
    "thread": "-fsanitize=thread",
}
LIBRARIES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}


def environment() -> dict[str, str]:
    """Sanitizers that end a program with its first report."""
    return {
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1:report_thread_leaks=0",
    }


def configure(sanitizer: str, folder: pathlib.Path, *options: str) -> None:
    """Configure a build with g++, whose runtimes are shared libraries. GNU's OpenMP is not instrumented: left out."""
    subprocess.run(
        [
            *("cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DCMAKE_CXX_COMPILER=g++"),
            *(f"-DCMAKE_CXX_FLAGS=-g -fno-omit-frame-pointer {FLAGS[sanitizer]}", "-DFUSEDSTEP_OPTIMISE=-O1"),
            *("-DFUSEDSTEP_OPENMP=OFF", *options),
        ],
        check=True,
    )


def build(folder: pathlib.Path, target: str) -> None:
    """Build one target."""
    subprocess.run(["cmake", "--build", str(folder), "--target", target], check=True)


def preloaded(sanitizer: str) -> str:
    """Return what LD_PRELOAD needs: the runtimes, and the C++ library whose exceptions they watch."""
    names = (*LIBRARIES[sanitizer], "libstdc++.so.6")
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in names
    ]
    return ":".join(found)


def check(sanitizer: str, tests: list[str]) -> int:
    """Build, run the core, run the tests; the exit status of what failed first."""
    import pybind11

    folder = BUILDS / sanitizer
    configure(sanitizer, folder, f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}")
    build(folder, "fusedstep_digest")
    done = subprocess.run([str(folder / "fusedstep_digest")], env=os.environ | environment(), check=False)
    if done.returncode:
        return done.returncode
    build(folder, "_core")
    package = folder / "python" / "fusedstep"
    shutil.copytree(ROOT / "python" / "fusedstep", package, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so"))
    for path in folder.glob("_core*.so"):
        shutil.copy2(path, package)
    variables = environment() | {
        "LD_PRELOAD": preloaded(sanitizer),
        "PYTHONPATH": str(package.parent),
        "PYTHONMALLOC": "malloc",  # or most of what Python allocates is out of sight
        "OPENBLAS_NUM_THREADS": "1",
    }
    left_out = "not small_stack"  # the runtimes need more stack than a small thread has
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", left_out, *tests]
    return subprocess.run(command, cwd=ROOT, env=os.environ | variables, check=False).returncode


def main() -> int:
    """Run the sanitizers that the command names, or all."""
    chosen = [word for word in sys.argv[1:] if word in FLAGS] or list(FLAGS)
    tests = [word for word in sys.argv[1:] if word not in FLAGS]
    for sanitizer in chosen:
        print(f"==== {sanitizer}", flush=True)
        failed = check(sanitizer, tests or [f"tests/{name}.py" for name in TESTS[sanitizer]])
        if failed:
            return failed
    return 0


if __name__ == "__main__":
    sys.exit(main())
