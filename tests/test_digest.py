"""The same bits beyond one machine: `fusedstep_digest` from other compilers, levels of optimisation and processors.

The program (cpp/digest.cpp) knows nothing of Python; here the same data go through the package as well.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import CAUTIOUS, ROWS, Array, running

import fusedstep as fs
from fusedstep.reference import RULES

ROOT = pathlib.Path(__file__).parent.parent
SOURCE = ROOT / "cpp" / "digest.cpp"
DTYPES: dict[str, Any] = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}
STEPS, SIZES = 50, (1, 300, 1100)


def build(folder: pathlib.Path, *options: str) -> pathlib.Path:
    for tool in ("cmake", "ninja"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: pip install {tool}")
    if not SOURCE.exists():
        pytest.skip("the C++ sources are not here")
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), "-G", "Ninja", "-DFUSEDSTEP_PYTHON=OFF", *options]
    for command in (configure, ["cmake", "--build", str(folder), "--target", "fusedstep_digest", "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "fusedstep_digest"


def read(*command: str, **variables: str) -> dict[str, dict[str, str]]:
    """The program's digests: by instruction set, by rule."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=os.environ | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        isa, rule, digest = line.split()
        found.setdefault(isa, {})[rule] = digest
    return found


def folder(factory: pytest.TempPathFactory, name: str) -> pathlib.Path:
    return factory.mktemp("digest") / name


@pytest.fixture(scope="session")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What g++ -O3 gives on the first instruction set; all others must agree."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    program = build(folder(tmp_path_factory, "g++-O3"), "-DCMAKE_CXX_COMPILER=g++", "-DFUSEDSTEP_WERROR=ON")
    found = read(str(program))
    assert sorted(found) == sorted(fs.available_isas())
    first = found[fs.available_isas()[0]]
    for isa, mine in found.items():
        assert mine == first, isa
    assert {*RULES, "all"} == first.keys()
    return first


@pytest.mark.parametrize(
    ("compiler", "level", "openmp"), [("g++", "-O0", "ON"), ("clang++", "-O3", "ON"), ("clang++", "-O0", "OFF")]
)
def test_compilers(
    compiler: str, level: str, openmp: str, digests: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install clang")
    program = build(
        folder(tmp_path_factory, compiler + level),
        f"-DCMAKE_CXX_COMPILER={compiler}",
        f"-DFUSEDSTEP_OPTIMISE={level}",
        f"-DFUSEDSTEP_OPENMP={openmp}",
        f"-DCMAKE_BUILD_TYPE={'Debug' if level == '-O0' else 'Release'}",
    )
    for isa, mine in read(str(program)).items():
        assert mine == digests, f"{compiler} {level} {isa}"


# The names of Debian's cross compilers, and the emulator's name for the machine. The last two are only built, without a
# warning: they compute as the others do.
MACHINES = {
    "aarch64": ("aarch64-linux-gnu", "aarch64"),  # NEON
    "i686": ("i686-linux-gnu", "i386"),  # x87 unless told otherwise
    "s390x": ("s390x-linux-gnu", "s390x"),  # big-endian
    "armv7l": ("arm-linux-gnueabihf", None),
    "ppc64le": ("powerpc64le-linux-gnu", None),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines(machine: str, digests: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cross-compiled with warnings as errors, and run in an emulator."""
    triple, emulated = MACHINES[machine]
    compiler, emulator = f"{triple}-g++", f"qemu-{emulated}-static"
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install g++-{triple}")
    program = build(
        folder(tmp_path_factory, machine),
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_SYSTEM_NAME=Linux",
        f"-DCMAKE_SYSTEM_PROCESSOR={machine}",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DFUSEDSTEP_WERROR=ON",
    )
    if emulated is None:
        return
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed: apt-get install qemu-user-static")
    assert read(emulator, str(program)) == {"baseline": digests}


def test_windows(digests: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cross-compiled with MinGW-w64, warnings as errors, and run under Wine: every instruction set, and the pool."""
    compiler = "x86_64-w64-mingw32-g++-posix"  # the variant with std::thread
    if shutil.which(compiler) is None:
        pytest.skip(f"{compiler} is not installed: apt-get install g++-mingw-w64-x86-64")
    wine = shutil.which("wine64") or shutil.which("/usr/lib/wine/wine64")
    where = folder(tmp_path_factory, "windows")
    program = build(
        where,
        f"-DCMAKE_CXX_COMPILER={compiler}",
        "-DCMAKE_SYSTEM_NAME=Windows",
        "-DCMAKE_SYSTEM_PROCESSOR=AMD64",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DFUSEDSTEP_WERROR=ON",
    )
    if wine is None:
        pytest.skip("wine64 is not installed: apt-get install wine64")
    variables = {"WINEPREFIX": str(where / "wine"), "WINEDEBUG": "-all"}
    for isa, mine in read(wine, f"{program}.exe", **variables).items():
        assert mine == digests, isa


# ------------------------------------------------------------------------------------------- the same through Python


def table(name: str) -> str:
    found = re.search(rf"{name}\[\] = \{{(.*?)\}};", SOURCE.read_text(), re.S)
    assert found is not None
    return found[1]


def data(size: int, which: int) -> Array:
    x = np.arange(size, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(which * 0x9E3779B9 % 2**32)
    x = (x ^ (x >> 15)) * np.uint32(0x2C1B3C6D)
    x = (x ^ (x >> 12)) * np.uint32(0x297A2D39)
    x ^= x >> 15
    return ((x & 0xFF).astype(np.int32) - 128) / 128


def options(rule: str, flags: bool) -> dict[str, Any]:
    known = {name: float(value) for name, value in re.findall(r'\{"([a-z_0-9.]+)",\s*([\d.e-]+)\}', table("kValues"))}
    switches = re.findall(r'"(\w+)"', table("kFlags"))

    def value(name: str) -> Any:
        return flags if name in switches else known.get(name, 0.5)

    return {
        name: tuple(value(f"{name}.{i}") for i in range(len(default))) if isinstance(default, tuple) else value(name)
        for name, default in RULES[rule].hypers.items()
    }


def run(where: Any, rule: str, storage: tuple[str, ...], flags: bool, cautious: bool) -> int:
    param, grad, states, master = storage
    noisy, split = param.endswith("_noisy"), param == "split"
    dtype = DTYPES[param.removesuffix("_noisy")] if not split else DTYPES["bf16"]
    compute = np.float64 if param == "f64" else np.float32
    params = [data(n, t).astype(dtype) for t, n in enumerate(SIZES)]
    masters = [data(n, t).astype(np.float32) for t, n in enumerate(SIZES)] if master == "true" else None
    if split:
        masters = [np.zeros(n, np.int16) for n in SIZES]
    averages = [data(n, t).astype(compute) for t, n in enumerate(SIZES)] if flags else None
    hypers = options(rule, flags)
    columns: dict[str, list[Any]] = {}
    for state in RULES[rule].used(hypers):
        if state.kind == "exact":
            columns[state.name] = [np.full(n, 0.5, compute) for n in SIZES]
        elif states == "q8":
            columns[state.name] = [(np.zeros(n, np.uint8), np.zeros(-(-n // 256), np.float32)) for n in SIZES]
        else:
            columns[state.name] = [np.zeros(n, DTYPES["bf16"] if states == "bf16" else compute) for n in SIZES]
    scalars = {name: [np.ones(()) for _ in SIZES] for name in RULES[rule].scalars}
    extra: dict[str, Any] = {"seed": 7, "rounding": "stochastic" if noisy else "nearest", "master": masters}
    if flags:
        extra |= {"maximize": True, "clip_value": 0.75, "grad_scale": 3.0, "max_grad_norm": 4.0}
        extra |= {"ema": averages, "ema_decay": 0.9, "cautious": cautious}
    for step in range(1, STEPS + 1):
        grads = [data(n, 100 * step + t).astype(DTYPES[grad]) for t, n in enumerate(SIZES)]
        getattr(where, rule)(params, grads, step=step, **columns, **scalars, **hypers, **extra)

    digest = 0xCBF29CE484222325
    for t in range(len(SIZES)):
        arrays: list[Any] = [params[t], masters[t] if masters else None]
        if master == "true":
            arrays.reverse()
        arrays += [averages[t] if averages else None, *(values[t] for values in columns.values())]
        for array in arrays:
            for one in array if isinstance(array, tuple) else (array,):
                for byte in b"" if one is None else one.tobytes():
                    digest = (digest ^ byte) * 0x100000001B3 & (2**64 - 1)
    return digest


@pytest.mark.parametrize("rule", sorted(ROWS))
def test_python(rule: str, digests: dict[str, str]) -> None:
    """Plain functions, and for one half of the formats the reference, leave the program's bytes."""
    if sys.byteorder != "little":
        pytest.skip("the digest is of little-endian bytes")
    storages = re.findall(r"\{(\w+), (\w+), (\w+), (\w+)\}", table("kStorages"))
    assert len(storages) == 12
    digest = 0
    for number, storage in enumerate(storages):
        for flags, cautious in ((False, False), (True, False), (True, True))[: 2 + (rule in CAUTIOUS)]:
            isa = fs.available_isas()[number % len(fs.available_isas())]
            with running(isa, 1):
                mine = run(fs.functional, rule, storage, flags, cautious)
            if number % 4 == 1 and flags:
                assert run(fs.reference, rule, storage, flags, cautious) == mine
            digest = (digest * 31 + mine) % 2**64
    assert f"{digest:016x}" == digests[rule]
