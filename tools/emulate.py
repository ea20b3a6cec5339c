"""Compares the core's digest on emulated CPUs: ``python tools/emulate.py [MACHINE ...] [--jobs N]``.

Cross-compiles `fusedstep_digest` with warnings as errors for every machine whose compiler and emulator are installed,
runs it on every CPU of the machine, and prints the instruction sets it found there with its digest. On Debian and
Ubuntu: apt-get install qemu-user-static and the compilers that it says are missing. Takes 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import pathlib
import shutil
import subprocess
import sys
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parent.parent


@dataclass(frozen=True)
class Machine:
    """An architecture: the prefix of its compiler, QEMU's name of it, CPUs to emulate and their instruction sets."""

    triple: str
    emulator: str
    cpus: tuple[tuple[str, tuple[str, ...]], ...] = (("", ("baseline",)),)


MACHINES = {
    "x86_64": Machine(
        "x86_64-linux-gnu",
        "x86_64",
        (
            ("Nehalem", ("baseline",)),
            ("SandyBridge", ("baseline",)),
            ("Haswell", ("baseline", "avx2")),
            ("Skylake-Server", ("baseline", "avx2")),  # QEMU emulates no AVX-512
        ),
    ),
    "i686": Machine("i686-linux-gnu", "i386"),
    "aarch64": Machine("aarch64-linux-gnu", "aarch64"),
    "armv7l": Machine("arm-linux-gnueabihf", "arm"),
    "riscv64": Machine("riscv64-linux-gnu", "riscv64"),
    "ppc64le": Machine("powerpc64le-linux-gnu", "ppc64le"),
    "s390x": Machine("s390x-linux-gnu", "s390x"),  # big-endian
}


def missing(machine: Machine) -> str:
    """What to install first, or nothing."""
    tools = (
        ("cmake", "cmake"),
        ("ninja", "ninja-build"),
        (f"{machine.triple}-g++", f"g++-{machine.triple.replace('_', '-')}"),
        (f"qemu-{machine.emulator}-static", "qemu-user-static"),
    )
    return ", ".join(f"{tool} (apt-get install {package})" for tool, package in tools if shutil.which(tool) is None)


def build(name: str, machine: Machine, jobs: int) -> pathlib.Path:
    """The digest program for a machine; a warning is an error."""
    folder = ROOT / "build" / "emulate" / name
    options = {
        "FUSEDSTEP_PYTHON": "OFF",
        "FUSEDSTEP_WERROR": "ON",
        "CMAKE_CXX_COMPILER": f"{machine.triple}-g++",
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": name,
        "CMAKE_EXE_LINKER_FLAGS": "-static",
    }
    configure = [
        "cmake",
        "-S",
        str(ROOT),
        "-B",
        str(folder),
        "-G",
        "Ninja",
        *(f"-D{k}={v}" for k, v in options.items()),
    ]
    for command in (configure, ["cmake", "--build", str(folder), "--target", "fusedstep_digest", "-j", str(jobs)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"does not build:\n{done.stdout[-3000:]}{done.stderr}")
    return folder / "fusedstep_digest"


def digests(command: list[str]) -> dict[str, str]:
    """By instruction set, in the order in which the program found them."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"fails: {done.stdout[-500:]}{done.stderr[-500:]}")
    return {isa: digest for isa, rule, digest in map(str.split, done.stdout.splitlines()) if rule == "all"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="emulate", description=__doc__.partition("\n")[0])
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help=f"some of {', '.join(MACHINES)}; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="compilers at once (default: 1)")
    options = parser.parse_args()
    for name in options.machines:
        if name not in MACHINES:
            parser.error(f"MACHINE: got {name}, needs one of {', '.join(MACHINES)}")
    seen: set[str] = set()
    failed = 0
    for name in options.machines or MACHINES:
        machine = MACHINES[name]
        if needed := missing(machine):
            print(f"{name:8} left out, needs {needed}", flush=True)
            continue
        try:
            program = build(name, machine, options.jobs)
            for cpu, expected in machine.cpus:
                emulator = [f"qemu-{machine.emulator}-static", *(["-cpu", cpu] if cpu else [])]
                found = digests([*emulator, str(program)])
                seen |= set(found.values())
                wrong = "" if tuple(found) == expected else f", needs {', '.join(expected)}"
                failed += bool(wrong)
                print(
                    f"{name:8} {cpu:14} {', '.join(found)}{wrong}: {' '.join(sorted(set(found.values())))}", flush=True
                )
        except RuntimeError as error:
            failed += 1
            print(f"{name:8} {error}", flush=True)
    print("one digest" if len(seen) == 1 else f"{len(seen)} digests")
    return int(failed > 0 or len(seen) != 1)


if __name__ == "__main__":
    sys.exit(main())
