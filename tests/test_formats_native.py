"""The C++ storage formats leave the bytes of their NumPy definition, for each compiler and instruction set there is."""

from __future__ import annotations

import ctypes
import functools
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from compilers import STANDARD, flags

from fusedstep import formats

HARNESS = pathlib.Path(__file__).with_name("formats_harness.cpp")
ISAS = ["baseline", "avx2", "avx512"]
LENGTHS = [0, 1, 2, 15, 16, 17, 255, 256, 257, 511, 2047, 2048, 2049, 4100]


def cpu_runs(isa: str) -> bool:
    if isa == "baseline":
        return True
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    info = pathlib.Path("/proc/cpuinfo")
    return info.exists() and {"avx2": " avx2 ", "avx512": " avx512bw "}[isa] in info.read_text()


@pytest.fixture(scope="module", params=[(c, i) for c in ("g++", "clang++") for i in ISAS], ids="-".join)
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    compiler, isa = request.param
    if shutil.which(compiler) is None or not cpu_runs(isa):
        pytest.skip(f"no {compiler} here, or a CPU without {isa}")
    library = tmp_path_factory.mktemp("formats") / f"{compiler}-{isa}.so"
    of_isa = [] if isa == "baseline" else flags(isa)
    command = [compiler, STANDARD, *flags("numerics"), *flags("optimised"), *of_isa, "-shared", "-fPIC"]
    subprocess.run([*command, str(HARNESS), "-o", str(library)], check=True)
    yield ctypes.CDLL(str(library))


def call(library: Any, name: str, *arguments: Any) -> Any:
    function = getattr(library, name)
    function.restype = ctypes.c_size_t
    return function(
        *(ctypes.c_void_p(a.ctypes.data) if isinstance(a, np.ndarray) else ctypes.c_size_t(a) for a in arguments)
    )


@functools.cache
def samples() -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 values of every exponent: random, exact, ties of each 16-bit format and their neighbours, specials."""
    rng = np.random.default_rng(0)
    tops = np.arange(1 << 16, dtype=np.uint32) << 16
    ties = [tops + low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]
    half = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32).view(np.uint32)
    ties += [half + np.uint32(d % 2**32) for d in (-1, 0, 1, 0xFFF, 0x1000, 0x1001)]
    subnormal = (np.arange(0, 2049, dtype=np.float32) * np.float32(2.0**-25)).view(np.uint32)
    ties += [subnormal + np.uint32(d % 2**32) for d in (-1, 0, 1)]
    return np.concatenate([*ties, rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32)]).view(np.float32)


def same(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> None:
    """Byte equality; any NaN equals any NaN where the arrays are floats."""
    assert a.dtype == b.dtype
    if a.dtype.kind == "f":
        a, b = (
            np.where(np.isnan(a), 0, a),
            np.where(np.isnan(b), 0, b) if np.array_equal(np.isnan(a), np.isnan(b)) else a + 1,
        )
    assert a.tobytes() == b.tobytes()


def widen(values: np.ndarray[Any, Any], dtype: Any) -> np.ndarray[Any, Any]:
    with np.errstate(invalid="ignore"):  # signalling NaN
        return values.astype(dtype)


def inputs(kind: str) -> np.ndarray[Any, Any]:
    """The samples in a compute type; as float64 values between two float32."""
    values = samples()
    return values if kind == "f32" else widen(values, np.float64) * (1 + 2.0**-30)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_16_bit(native: Any, name: str, kind: str) -> None:
    long = {"f16": "float16", "bf16": "bfloat16"}[name]
    every = np.arange(1 << 16, dtype=np.uint16)
    out: Any = np.empty(every.size, inputs(kind).dtype)
    call(native, f"decode_{name}_{kind}", every, out, every.size)
    same(out, widen(getattr(formats, f"decode_{long}")(every), out.dtype))

    values = inputs(kind)
    out = np.empty(values.size, np.uint16)
    call(native, f"encode_{name}_{kind}", values, out, values.size)
    same(out, getattr(formats, f"encode_{long}")(values))
    noise = formats.noise(7, values.size)
    noise[: values.size // 2 : 3], noise[1 : values.size // 2 : 3] = 0, 0xFFFF
    call(native, f"encode_{name}_stochastic_{kind}", values, out, noise, values.size)
    same(out, getattr(formats, f"encode_{long}")(values, noise))


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_split(native: Any, kind: str) -> None:
    values = inputs(kind)
    parameter, remainder = np.empty(values.size, np.uint16), np.empty(values.size, np.int16)
    call(native, f"encode_split_{kind}", values, parameter, remainder, values.size)
    expected = formats.split(values)
    same(parameter, expected[0])
    same(remainder, expected[1])
    back = np.empty_like(values)
    call(native, f"decode_split_{kind}", parameter, remainder, back, values.size)
    same(back, widen(formats.join(*expected), back.dtype))


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_8bit(native: Any, kind: str, signed: bool) -> None:
    rng = np.random.default_rng(1)
    name = f"q8_{'signed' if signed else 'unsigned'}_{kind}"
    dtype = inputs(kind).dtype
    spread = (
        rng.standard_normal((600, 256))
        * 2.0 ** rng.uniform(-40, 0, (600, 256))
        * 2.0 ** rng.uniform(-120, 120, (600, 1))
    )
    spread[rng.random(spread.shape) < 0.05] = 0
    if not signed:
        spread = np.abs(spread)
    wild = inputs(kind)[rng.permutation(samples().size)[:51200]].reshape(-1, 256).copy()
    wild[:100] = np.where(np.isfinite(wild[:100]), wild[:100] if signed else np.abs(wild[:100]), 0)
    edges = np.zeros((8, 256))
    edges[:, 0] = [3.4028234e38, 2.0**-99.9, 2.0**-100, 2.0**-100.1, 2.0**-126, 1.17e-38, 1e-45, 2.0**126]
    edges[:, 1:] = edges[:, :1] * 2.0 ** rng.uniform(-30, 0, (8, 255))
    values = np.concatenate([spread.astype(np.float32), wild, edges.astype(np.float32)]).astype(dtype).reshape(-1)
    for size in [*LENGTHS, values.size]:
        part = values[values.size - size :].copy()
        codes, scales = np.full(size, 99, np.uint8), np.empty(-(-size // 256), np.float32)
        bad = call(native, f"encode_{name}", part, codes, scales, size)
        expected = formats.encode_8bit(part, signed)
        same(codes, expected[0])
        same(scales, expected[1])
        assert bad == np.isnan(expected[1]).sum()
        back = np.empty(size, dtype)
        call(native, f"decode_{name}", codes, scales, back, size)
        same(back, formats.decode_8bit(codes, scales, signed).astype(dtype))

    every = np.tile(np.arange(256, dtype=np.uint8), 5)
    scales = np.array([1, 3e-39, 1.6e38, np.nan, 0.7], np.float32)
    back = np.empty(every.size, dtype)
    call(native, f"decode_{name}", every, scales, back, every.size)
    same(back, formats.decode_8bit(every, scales, signed).astype(dtype))


@pytest.mark.parametrize("stored", ["f32", "f64"])
@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_plain(native: Any, kind: str, stored: str) -> None:
    for direction, source, target in (("decode", stored, kind), ("encode", kind, stored)):
        values = inputs(source)
        out = np.empty(values.size, inputs(target).dtype)
        call(native, f"{direction}_{stored}_{kind}", values, out, values.size)
        with np.errstate(over="ignore", invalid="ignore"):
            same(out, values.astype(out.dtype))


def test_noise(native: Any) -> None:
    native.noise_key_of.restype = ctypes.c_uint64
    for words in ((0, 0, 0), (1, 2, 3), (2**64 - 1, 2**63, 12345)):
        key = native.noise_key_of(*map(ctypes.c_uint64, words))
        assert key == formats.noise_key(*words)
        for size in LENGTHS:
            for start in (0, 2048, 2048 * 5_000_000_000):
                out = np.empty(size + 1, np.uint16)
                native.noise(
                    ctypes.c_uint64(key),
                    ctypes.c_uint64(start),
                    out.ctypes.data_as(ctypes.c_void_p),
                    ctypes.c_size_t(size),
                )
                same(out[:size], formats.noise(key, size, start))
