"""No bit depends on what the calling thread has set: rounding mode, flush-to-zero, denormals-are-zero, exceptions."""

from __future__ import annotations

import ctypes
import pathlib
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, FLOAT16, ROWS, assert_same, copied, functional_arrays, label, numbers, running
from isolated import compiled, prints

import fusedstep as fs
from fusedstep import formats
from fusedstep._floats import default_floats

REGISTER = """
#include <stdint.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
uint64_t get(void) { return _mm_getcsr(); }
void set(uint64_t value) { _mm_setcsr((unsigned)value); }
#else
uint64_t get(void) {
    uint64_t control, status;
    __asm__ volatile("mrs %0, fpcr\\n\\tmrs %1, fpsr" : "=r"(control), "=r"(status));
    return control | status << 32;
}
void set(uint64_t value) {
    __asm__ volatile("msr fpcr, %0\\n\\tmsr fpsr, %1" : : "r"(value & 0xFFFFFFFF), "r"(value >> 32));
}
#endif
"""
# Values of MXCSR, and of FPCR.
VALUES = {
    "x86_64": {"flush": 0x9FC0, "up": 0x5F80, "down": 0x3F80, "towards zero": 0x7F80},
    "aarch64": {"flush": 1 << 24, "up": 1 << 22, "down": 2 << 22, "towards zero": 3 << 22},
}.get(platform.machine(), {})
# What fesetround takes for down, up and towards zero.
DIRECTIONS = {"x86_64": (0x400, 0x800, 0xC00), "aarch64": (0x800000, 0x400000, 0xC00000)}.get(platform.machine(), ())
FLAGS = {"x86_64": 0x12, "aarch64": 0x82 << 32}.get(platform.machine(), 0)  # subnormal, division by zero

pytestmark = pytest.mark.skipif(not VALUES, reason="the control register is known for x86-64 and aarch64 alone")
environments = pytest.mark.parametrize("environment", VALUES)


class Register:
    """The floating-point control and status register of the calling thread."""

    def __init__(self, library: pathlib.Path) -> None:
        loaded = ctypes.CDLL(str(library))
        loaded.get.restype, loaded.set.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
        self.get: Callable[[], int] = loaded.get
        self.set: Callable[[int], None] = loaded.set

    @contextmanager
    def holding(self, environment: str) -> Iterator[int]:
        before = self.get()
        self.set(VALUES[environment])
        try:
            yield VALUES[environment]
        finally:
            self.set(before)


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Register:
    return Register(compiled(REGISTER, tmp_path_factory.mktemp("register")))


def delicate(size: int, dtype: Any = np.float32, seed: int = 0) -> Any:
    """Numbers that every environment treats in its own way: subnormal, halfway between others, large and small."""
    rng = np.random.default_rng(seed)
    exponents = rng.integers(-145, 10, size)
    return (rng.standard_normal(size) * 2.0**exponents).astype(dtype)


def test_environments_are_told_apart(register: Register) -> None:
    """What NumPy does in them: the tests below could not fail otherwise."""
    third, tiny = np.full(8, 1, np.float32), np.full(8, 1e-40, np.float32)
    found = []
    for environment in VALUES:
        with register.holding(environment):
            found.append((third / np.float32(3), -third / np.float32(3), tiny + tiny))
    assert len({tuple(array.tobytes() for array in arrays) for arrays in found}) == len(VALUES)


@environments
@pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["native", "reference"])
@pytest.mark.parametrize("rule", sorted(ROWS))
def test_functions(rule: str, where: Any, environment: str, register: Register) -> None:
    """Steps with everything that is computed around them: scaling, clipping, averaging."""
    options = ROWS[rule].options[-1]
    extra: Any = {"grad_scale": 3.0, "max_grad_norm": 0.5, "clip_value": 0.01, "ema_decay": 0.9}
    params = [delicate(700, seed=1), delicate(700, np.float64, seed=2)]
    grads = [delicate(700, seed=3), delicate(700, np.float64, seed=4)]
    states = [functional_arrays(rule, options, [param], 5) for param in params]

    def step(count: int) -> list[Any]:
        changed: list[Any] = []
        for param, grad, state in zip(params, grads, states, strict=True):
            p, ema, given = param.copy(), param.copy(), copied(state)
            for t in range(1, count + 1):
                getattr(where, rule)([p], [grad], step=t, ema=[ema], **given, **options, **extra)
            changed.append([p, ema, given])
        return changed

    expected = step(3)
    with register.holding(environment):
        actual = step(3)
    assert_same(actual, expected)


STORAGE: dict[str, tuple[Any, dict[str, Any]]] = {
    "8 bits": (np.float32, {"state_format": "8bit", "max_grad_norm": 1.0}),
    "split": (BFLOAT16, {"master": "split", "state_format": "8bit"}),
    "bfloat16": (BFLOAT16, {"rounding": "stochastic", "state_format": "bfloat16", "ema_decay": 0.9}),
    "float16": (FLOAT16, {"master": "float32", "clip_value": 0.5}),
    "float64": (np.float64, {"skip_nonfinite": True}),
}


@environments
@pytest.mark.parametrize("storage", STORAGE)
def test_optimizers(storage: str, environment: str, register: Register) -> None:
    """A schedule, several threads, saving and loading, from the first line to the last."""
    dtype, options = STORAGE[storage]
    start = [delicate(n, np.float32, n).astype(dtype) for n in (70_000, 300)]
    grads = [[delicate(p.size, np.float32, t).astype(dtype) for p in start] for t in range(3)]

    def run() -> Any:
        optimizer = fs.AdamW(copied(start), lr=fs.schedules.inverse_time_decay(0.1, decay_rate=0.3), **options)
        for grad in grads[:2]:
            optimizer.step(grad)
        saved = optimizer.state_dict(state_format="float32")
        again = fs.AdamW(copied(optimizer.param_groups[0]["params"]), lr=0.1, **options)
        again.load_state_dict(saved)
        again.step(grads[2])
        values = [dict(one) for one in again.state]
        return [optimizer.param_groups[0]["params"], again.param_groups[0]["params"], values, optimizer.grad_norm]

    with running(threads=2):
        expected = run()
        with register.holding(environment):
            actual = run()
        assert_same(actual, expected)


@environments
def test_repeated_rows(environment: str, register: Register) -> None:
    values = delicate(40 * 8, seed=1).reshape(40, 8)
    rows = fs.SparseRows(np.arange(40) % 7, values)
    tables = [np.ones((9, 8), np.float32) for _ in range(4)]
    fs.functional.sgd(tables[0], rows, step=1, lr=0.1)
    fs.reference.sgd(tables[1], rows, step=1, lr=0.1)
    with register.holding(environment):
        fs.functional.sgd(tables[2], rows, step=1, lr=0.1)
        fs.reference.sgd(tables[3], rows, step=1, lr=0.1)
    assert_same(tables, [tables[0]] * 4)


@environments
def test_formats(environment: str, register: Register) -> None:
    values = [delicate(1000, np.float64), delicate(1000), numbers(1000, special=0.2)]

    def convert() -> list[Any]:
        made: list[Any] = []
        for one in values:
            for signed in (True, False):
                codes = formats.encode_8bit(one, signed)
                made += [codes, formats.decode_8bit(*codes, signed)]
            half = formats.encode_float16(one)
            made += [half, formats.decode_float16(half), formats.encode_bfloat16(one), formats.split(one)]
        return made

    expected = convert()
    with register.holding(environment):
        actual = convert()
    assert_same(actual, expected)


@environments
def test_averages(environment: str, register: Register) -> None:
    y, z = delicate(100, seed=1), delicate(100, seed=2)

    def average() -> list[Any]:
        one = fs.ExponentialAverage(0.9)
        one.update(y)
        return [one.update(z), fs.reference.schedule_free_average(y, z, beta=0.9)]

    expected = average()
    with register.holding(environment):
        actual = average()
    assert_same(actual, expected)


@environments
@pytest.mark.parametrize("size", [100, 100_000])
def test_caller_finds_its_environment_as_it_was(size: int, environment: str, register: Register) -> None:
    """Exception flags too, which a step would raise and must not lower."""
    param, grad = np.full(size, 1e-30, np.float32), np.full(size, 1e-30, np.float32)
    optimizer = fs.Adam(param, grads=grad)
    with running(threads=2), register.holding(environment) as value:
        for flags in (0, FLAGS):
            register.set(value | flags)
            optimizer.step()
            assert register.get() == value | flags
            with default_floats():
                assert register.get() not in VALUES.values()
            assert register.get() == value | flags


def test_traps_of_the_caller_are_not_sprung() -> None:
    """Where the caller has unmasked exceptions, a step that divides by zero and overflows does not end the process."""
    code = """
import ctypes, ctypes.util
libm = ctypes.CDLL(ctypes.util.find_library("m"))
if not hasattr(libm, "feenableexcept"): print("done"); raise SystemExit
FE_INVALID, FE_DIVBYZERO, FE_OVERFLOW = 1, 4, 8
param, grad = np.full(100_000, 3e38, np.float32), np.full(100_000, -3e38, np.float32)
optimizer = fs.SGD(param, grads=grad, lr=10.0, momentum=0.9)
wild = fs.RMSprop(np.ones(100_000, np.float32), grads=np.zeros(100_000, np.float32), eps=0.0)
fs.set_num_threads(2)
libm.feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW)
for _ in range(3):
    optimizer.step()
    wild.step()
left = libm.fegetexcept()
libm.fedisableexcept(left)
assert left == FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW, left
assert np.isinf(param).all()
print("done")
"""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers of the exceptions are those of x86-64")
    assert prints(code) == "done"


ONE_LATER = """
import sys
def step(threads):
    fs.set_num_threads(threads)
    param = np.full(400_000, 1.5e-38, np.float32)
    fs.functional.sgd(param, np.full(400_000, 1.2e-38, np.float32), step=1, lr=1.0)
    return int((param.view(np.uint32) == 0).sum())
before = step(2) if "before" in sys.argv else 0
"""


@pytest.mark.parametrize("pool", ["made before", "made after"])
def test_library_built_for_fast_maths(pool: str, tmp_path: pathlib.Path) -> None:
    """Loading one sets flush-to-zero for the thread that does, and for the threads it makes from then on."""
    library = compiled("int nothing;", tmp_path, "-ffast-math")
    code = f"import sys; sys.argv.append({pool.split()[1]!r})" + ONE_LATER
    code += f"import ctypes; ctypes.CDLL({str(library)!r})\n"
    code += "print(before, np.float32(1e-40) * np.float32(1.0) == 0, *(step(n) for n in (1, 2, 4, 1, 2)))"
    zeros, flushing, *others = prints(code).split()
    assert (zeros, others) == ("0", ["0"] * 5)
    assert flushing in ("True", "False")  # newer compilers no longer do it for libraries


@pytest.mark.parametrize("mode", DIRECTIONS)
def test_import_in_another_environment(mode: int) -> None:
    """What the modules and the core compute once, at import, has the bits of the default environment."""
    code = """
import ctypes, ctypes.util, hashlib, numpy as np
libm = ctypes.CDLL(ctypes.util.find_library("m"))
assert libm.fesetround(MODE) == 0
import fusedstep as fs
assert libm.fesetround(0) == 0
numbers = np.random.default_rng(1).standard_normal(5000).astype(np.float32)
digest = hashlib.sha256()
for signed in True, False:
    codes = fs.formats.encode_8bit(numbers if signed else abs(numbers), signed)
    for array in *codes, fs.formats.decode_8bit(*codes, signed): digest.update(array.tobytes())
for options in {}, {"state_format": "8bit"}, {"state_format": "bfloat16", "rounding": "stochastic"}:
    for rule in fs.Adam, fs.LAMB, fs.RMSprop, fs.NAdam:
        param = numbers[::-1].astype(np.float16 if "rounding" in options else np.float32)
        optimizer = rule(param, lr=fs.schedules.cosine(0.1, 7), max_grad_norm=3.0, **options)
        for _ in range(3): optimizer.step(numbers.astype(param.dtype))
        digest.update(param.tobytes())
print(digest.hexdigest())
"""
    assert prints(code.replace("MODE", str(mode)), head="") == prints(code.replace("MODE", "0"), head="")


@pytest.mark.parametrize("rule", [CLASSES["adam"]], ids=label)
def test_numpy_reports_nothing_of_a_step(rule: Any) -> None:
    """`np.errstate` looks at the flags of its own operations; the package's raise none for it to find."""
    with np.errstate(all="raise"):
        optimizer = rule(np.full(100, 1e-38, np.float32), lr=1.0)
        optimizer.step(np.full(100, 1e-38, np.float32))
        np.ones(3) + np.ones(3)
