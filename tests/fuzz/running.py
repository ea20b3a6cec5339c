"""Cases one after the other in a process of their own, so that a crash is caught with the number of its case."""

from __future__ import annotations

import faulthandler
import importlib
import mmap
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import fusedstep

__all__ = ["Result", "load", "run_cases"]

HANGING = 120  # seconds that one case may take
COUNTS = struct.Struct("qq")  # cases done and calls made, which outlive a crash in a shared file


@dataclass
class Result:
    """What came of a run."""

    cases: int = 0
    calls: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)  # number of the case, what happened

    def __str__(self) -> str:
        return f"{self.cases} cases, {self.calls} calls, {len(self.failures)} failures"


def load(target: str) -> Callable[[int], int]:
    """The function ``module:name`` that runs a case by its number and returns how many calls it made."""
    module, _, name = target.partition(":")
    found: Callable[[int], int] = getattr(importlib.import_module(module), name)
    return found


def run_cases(
    target: str, first: int, seconds: float, cases: int = 1 << 40, failures: int = 20, chunk: int = 20_000
) -> Result:
    """Run the cases of numbers from `first` on, until time, cases or patience with failures are used up.

    A process is replaced after `chunk` cases, after a failure, and when it dies or hangs.
    """
    end, result, number = time.monotonic() + seconds, Result(), first
    while result.cases < cases and time.monotonic() < end and len(result.failures) < failures:
        count = min(chunk, cases - result.cases)
        done, calls, what = _in_process(target, number, count, end - time.monotonic())
        result.calls += calls
        if what:
            result.failures.append((number + done, what))
            done += 1
        result.cases += done
        number += done
    return result


def _in_process(target: str, first: int, count: int, seconds: float) -> tuple[int, int, str]:
    """Cases and calls that a process got through, and what became of the case after those."""
    here, package = pathlib.Path(__file__).parent.parent, pathlib.Path(fusedstep.__file__).parent.parent
    path = os.pathsep.join([str(here), str(package), os.environ.get("PYTHONPATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        shared = pathlib.Path(folder, "counts")
        shared.write_bytes(COUNTS.pack(0, 0))
        command = [sys.executable, "-m", "fuzz.running", target, str(first), str(count), str(seconds), str(shared)]
        ended = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        done, calls = COUNTS.unpack(shared.read_bytes())
    told = ended.stdout
    if ended.returncode:
        name = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit status {ended.returncode}"
        told = f"{name}\n{told}"
    return done, calls, told


def _work(target: str, first: int, count: int, seconds: float, shared: str) -> None:
    end, calls, run = time.monotonic() + seconds, 0, load(target)
    warnings.simplefilter("ignore")
    with open(shared, "r+b") as file, mmap.mmap(file.fileno(), COUNTS.size) as counts:
        for done in range(count):
            if done and time.monotonic() > end:  # at least one
                break
            faulthandler.dump_traceback_later(HANGING, exit=True)
            try:
                calls += run(first + done)
            except BaseException:
                traceback.print_exc()
                break
            counts[:] = COUNTS.pack(done + 1, calls)
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    faulthandler.enable()
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
