"""What both kinds of cases are made of: numbers, shapes, rules, options."""

from __future__ import annotations

import random
from typing import Any

import ml_dtypes
import numpy as np
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, ROWS, Array, Options, specials

from fusedstep._intervals import Interval
from fusedstep._step_options import STEP_OPTIONS
from fusedstep.reference import RULES

__all__ = ["DTYPES", "array", "flat_shape", "gradient_dtypes", "option", "rule_options", "step_options", "storage"]

DTYPES = (FLOAT32, FLOAT64, FLOAT16, BFLOAT16)
POOL = 1 << 15

# The ends of vectors, of the 256 elements of a scale, of the pieces (1024) and blocks (2048) that loops are cut into.
SIZES = (
    *range(18), 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 511, 512, 513, 769,
    1023, 1024, 1025, 2047, 2048, 2049, 2303, 2304, 2305, 4095, 4096, 4097, 4352,
)  # fmt: skip
LARGE = (16383, 16384, 16385, 33000, 40961)


def _pools(dtype: np.dtype[Any]) -> dict[str, Array]:
    """Numbers to cut arrays from: ordinary ones, and those at which arithmetic changes its ways."""
    rng = np.random.default_rng(dtype.num)
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    plain = rng.standard_normal(POOL) * 2.0 ** rng.integers(-8, 3, POOL)
    low, high = np.log2(float(info.smallest_subnormal)), np.log2(float(info.max)) - 1e-3
    every = rng.choice([-1.0, 1.0], POOL) * 2.0 ** rng.uniform(low, high, POOL)
    tiny = float(info.smallest_normal) * rng.uniform(-2, 2, POOL)
    huge = float(info.max) * rng.uniform(-1, 1, POOL)
    odd = np.tile(specials(dtype).astype(np.float64), POOL)[:POOL]
    mixed = np.where(rng.random(POOL) < 0.1, odd, plain)
    finite = np.where(np.isfinite(mixed), mixed, 0.0)
    found = {"plain": plain, "every": every, "tiny": tiny, "huge": huge, "mixed": mixed, "finite": finite}
    with np.errstate(all="ignore"):
        return {name: values.astype(dtype) for name, values in found.items()} | {"zero": np.zeros(POOL, dtype)}


POOLS = {dtype: _pools(dtype) for dtype in DTYPES}
FINITE = ("plain", "plain", "every", "tiny", "huge", "finite", "zero")


def array(rng: random.Random, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> Array:
    """Contiguous memory of its own that begins at any element of a cache line."""
    size = 1
    for length in shape:
        size *= length
    pool = POOLS[dtype][kind]
    gap = rng.randrange(17)
    start = rng.randrange(POOL - gap)
    taken = pool[start : start + gap + size].copy() if start + gap + size <= POOL else np.resize(pool, gap + size)
    return taken[gap:].reshape(shape)


def flat_shape(rng: random.Random, large: bool) -> tuple[int, ...]:
    size = rng.choice(LARGE) if large else rng.choice(SIZES)
    kind = rng.randrange(8)
    if kind == 0:
        return (1, size)
    if kind == 1:
        return (size, 1, 1)
    if kind == 2 and size % 3 == 0:
        return (3, size // 3)
    if kind == 3 and size == 1:
        return ()
    return (size,)


def option(rng: random.Random, name: str, default: Any) -> Any:
    """A value that a hyper-parameter may have."""
    if isinstance(default, bool):
        return rng.random() < 0.5
    if name == "betas":
        pair = rng.choice([(0.9, 0.999), (0.5, 0.25), (0.999999, 0.9999999), (rng.uniform(0.01, 0.99), rng.random())])
        return (*pair, *(rng.choice([0.99, rng.random()]) for _ in default[2:]))
    if name == "eps" and isinstance(default, tuple):
        return rng.choice([default, (1e-3, 0.1), (1e-30, 1e-3), (0.0, 0.0)])
    if name == "beta2_decay":
        return rng.choice([default, 0.0, -0.5, -3.0])
    if name == "blocks":
        return rng.choice([0, 0, 1])
    if name == "d":
        return rng.choice([default, 1.0, 2.0, 1e6])
    if name == "etas":
        return rng.choice([default, (0.25, 1.5), (0.9, 7.0)])
    if name == "step_sizes":
        return rng.choice([default, (1e-3, 2e-2), (0.0, 1e30)])
    if name == "ns_coefficients":
        return rng.choice([default, (2.0, -1.5, 0.5)])
    if name == "ns_steps":
        return rng.choice([1, 2, 5])
    if name == "adjust_lr_fn":
        return rng.choice([None, "original", "match_rms_adamw"])
    if name == "reshape":
        return rng.choice([None, "flatten", "batch"])
    if name == "warmup_steps":
        return rng.choice([0, 1, 3, 1000])
    if name == "growth_rate":
        return rng.choice([default, 1.0, 1.02, 3.0])
    if name in ("d0", "d_coef"):
        return rng.choice([default, 1e-3, 1.0, rng.uniform(0.01, 2.0)])
    if name in ("momentum", "beta", "alpha", "rho", "dampening"):
        return rng.choice([default, 0.5, 0.9, 0.999999, rng.uniform(0.01, 0.99)])
    if name in ("lr", "weight_decay", "lambd", "momentum_decay", "lr_decay", "trust_coefficient", "t0"):
        return rng.choice([default, 0.0, 0.1, rng.uniform(0, 2), 1e-9, 1e-45, 1e6])
    return rng.choice([default, 0.0, 1e-3, rng.random(), 1e-30, 1e-300])


def rule_options(rng: random.Random, rule: str) -> Options:
    """One of the rule's option sets, some of its options drawn anew; what belongs together stays."""
    chosen = dict(rng.choice(ROWS[rule].options)) if rule in ROWS else {}
    for name, default in RULES[rule].hypers.items():
        together = name in ("nesterov", "momentum", "dampening") and "nesterov" in RULES[rule].hypers
        if not together and rng.random() < 0.3:
            chosen[name] = option(rng, name, default)
    if rule == "muon":  # which divides by it
        chosen["eps"] = rng.choice([1e-7, 1e-30, 10.0])
    return chosen


def step_options(rng: random.Random, face: str) -> Options:
    """Some of the step options of groups and optimizers, from their table."""
    found: Options = {}
    for one in STEP_OPTIONS:
        if face in one.faces and one.per in ("group", "optimizer") and rng.random() < 0.25:
            found[one.name] = _step_option(rng, one.needs)
    return found


def _step_option(rng: random.Random, needs: Any) -> Any:
    if isinstance(needs, Interval):
        return rng.choice([x for x in (0.0, 1e-40, 0.01, 0.5, 0.999, 1.0, 1e9, float("inf")) if needs.holds(x)])
    return True if needs is bool else rng.choice([0, 3, 2**64 - 1])  # a seed


def storage(rng: random.Random, rule: str, dtype: np.dtype[Any]) -> Options:
    """How parameters of this dtype and their states are stored."""
    found: Options = {}
    states = RULES[rule].states
    if rng.random() < 0.6 and (not states or any(state.kind != "exact" for state in states)):
        found["state_format"] = rng.choice(["bfloat16", "8bit", "8bit"])
        found["min_quantized_size"] = rng.choice([0, 1, 256, 4096])
    if dtype in (FLOAT16, BFLOAT16):
        found["master"] = rng.choice([None, None, "float32", "split" if dtype == BFLOAT16 else None])
        found["rounding"] = rng.choice(["nearest", "stochastic"])
    return found


def gradient_dtypes(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], ...]:
    return DTYPES if dtype == FLOAT64 else (FLOAT32, FLOAT16, BFLOAT16)
