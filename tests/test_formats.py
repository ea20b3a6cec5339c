"""Properties of the storage formats: what decoding gives back, what rounding may do, what stays confined."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusedstep import formats

SUBNORMAL = np.float32(2.0**-126)
floats = hnp.arrays(np.float32, st.integers(0, 600), elements=st.floats(width=32))
finite = hnp.arrays(
    np.float32, st.integers(1, 600), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
)
moments = hnp.arrays(np.float32, st.integers(1, 600), elements=st.floats(0, 2.0**126, width=32, exclude_max=True))
signs = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
CODECS: dict[str, tuple[Any, Any, Any]] = {
    "float16": (formats.encode_float16, formats.decode_float16, np.float16),
    "bfloat16": (formats.encode_bfloat16, formats.decode_bfloat16, ml_dtypes.bfloat16),
}
halves = pytest.mark.parametrize("name", CODECS)


def bits(x: Any) -> Any:
    return np.ascontiguousarray(x).view(f"u{x.dtype.itemsize}")


# ------------------------------------------------------------------------------------------------ 16-bit floats


@halves
def test_every_pattern_survives(name: str) -> None:
    encode, decode, _ = CODECS[name]
    every = np.arange(1 << 16, dtype=np.uint16)
    values = decode(every)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(encode(values)[number], every[number])
    assert np.unique(encode(values)[~number]).size == 1
    assert np.isnan(decode(encode(values)[~number])).all()


@halves
@given(values=floats)
def test_nearest_equals_numpy(name: str, values: Any) -> None:
    encode, _, dtype = CODECS[name]
    with np.errstate(over="ignore", under="ignore"):
        expected = values.astype(dtype)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(encode(values)[number], bits(expected)[number])


@halves
@given(values=floats, data=st.data())
def test_stochastic_gives_a_neighbour(name: str, values: Any, data: st.DataObject) -> None:
    encode, decode, _ = CODECS[name]
    noise = data.draw(hnp.arrays(np.uint16, values.size))
    rounded = decode(encode(values, noise))
    toward_zero = decode(encode(values, np.zeros_like(noise)))
    away = decode(encode(values, np.full_like(noise, 0xFFFF)))
    number = ~np.isnan(values)
    assert ((rounded == toward_zero) | (rounded == away))[number].all()
    below = number & (np.abs(values) < (65536 if name == "float16" else np.inf))  # from there on always infinite
    assert (np.abs(toward_zero) <= np.abs(values))[below].all()
    assert np.isnan(rounded[~number]).all()
    exact = decode(encode(values)) == values
    np.testing.assert_array_equal(rounded[exact], values[exact])


@halves
@pytest.mark.parametrize("value", [1.2345, -3.21e-3, 3.3e-6, 777.7, 2.0**-24 / 3])
def test_stochastic_is_unbiased(name: str, value: float) -> None:
    encode, decode, _ = CODECS[name]
    values = np.full(1 << 20, value, np.float32)
    rounded = decode(encode(values, formats.noise(formats.noise_key(1, 2, 3), values.size))).astype(np.float64)
    spacing = rounded.max() - rounded.min()
    error = rounded.mean() - float(values[0])
    # Five standard errors, and the 13 bits that decide for normal float16 numbers.
    assert abs(error) < 5 * spacing / 2 / 1024 + spacing / 2**14
    assert spacing > 0


def test_overflow_is_infinite() -> None:
    assert formats.encode_float16(np.array([65519.9, 65520, -1e5], np.float32))[:].tolist() == [0x7BFF, 0x7C00, 0xFC00]
    noise = np.full(2, 0xFFFF, np.uint16)
    assert formats.encode_float16(np.array([65504, 65505], np.float32), noise).tolist() == [0x7BFF, 0x7C00]
    largest = np.array([0x7F7FFFFF, 0x7F7F0000], np.uint32).view(np.float32)
    assert formats.encode_bfloat16(largest).tolist() == [0x7F80, 0x7F7F]
    assert formats.encode_bfloat16(largest, noise).tolist() == [0x7F80, 0x7F7F]


# ----------------------------------------------------------------------------------------------------- split


@given(values=floats)
def test_split_restores_every_bit(values: Any) -> None:
    parameter, remainder = formats.split(values)
    restored = formats.join(parameter, remainder)
    number = ~np.isnan(values)
    np.testing.assert_array_equal(bits(restored)[number], bits(values)[number])
    assert (bits(restored)[~number] == 0x7FC00000).all()
    assert (parameter[~number] == 0x7FC0).all()
    seen = formats.decode_bfloat16(parameter).astype(np.float64)
    near = number & np.isfinite(seen)
    ulp = np.spacing(np.abs(values[near]).astype(np.float64).astype(np.float32)) * 2.0**16
    assert (np.abs(seen[near] - values[near]) <= ulp / 2).all()


def test_split_rounds_ties_away() -> None:
    tie = np.array([0x3F808000, 0xBF808000, 0x3F818000], np.uint32).view(np.float32)
    parameter, remainder = formats.split(tie)
    assert parameter.tolist() == [0x3F81, 0xBF81, 0x3F82]
    assert remainder.tolist() == [-0x8000] * 3


# ----------------------------------------------------------------------------------------------------- noise


def test_noise_depends_on_the_position_alone() -> None:
    key = formats.noise_key(7, 1, 2)
    whole = formats.noise(key, 9000)
    for start, stop in ((0, 1), (2048, 4096), (512, 9000), (4096, 8191)):
        np.testing.assert_array_equal(formats.noise(key, stop - start, start), whole[start:stop])
    keys = {formats.noise_key(a, b, c) for a in range(9) for b in range(9) for c in range(9)}
    assert len(keys) == 9**3


def test_noise_is_uniform_and_uncorrelated() -> None:
    rows = np.stack([formats.noise(formats.noise_key(0, p, s), 1 << 15) for p in range(4) for s in range(16)])
    centred = (rows.astype(np.float64) + 0.5) / 65536 - 0.5
    n = centred.size
    sigma = np.sqrt(1 / 12)
    assert abs(centred.mean()) < 4 * sigma / np.sqrt(n)
    assert abs(centred.var() * 12 - 1) < 4 * np.sqrt(0.8 / n)
    for half in (rows[:, ::2], rows[:, 1::2]):
        for shift in (0, 8):
            counts = np.bincount((half.ravel() >> shift) & 255, minlength=256)
            chi = ((counts - half.size / 256) ** 2).sum() / (half.size / 256)
            assert chi < 255 + 5 * np.sqrt(2 * 255)
    lags = [(centred[:, d:] * centred[:, :-d]).mean() for d in (1, 2, 3, 4, 8, 16, 256, 512, 1024, 2048)]
    across = [(centred[d:] * centred[:-d]).mean() for d in (1, 2, 16)]  # steps, and parameters
    assert np.abs(lags + across).max() < 5 * sigma**2 / np.sqrt(n)


# ------------------------------------------------------------------------------------------------- 8-bit blocks


@signs
@settings(deadline=None)
@given(data=st.data())
def test_8bit_round_trip(signed: bool, data: st.DataObject) -> None:
    values = data.draw(finite if signed else moments)
    codes, scales = formats.encode_8bit(values, signed)
    back = formats.decode_8bit(codes, scales, signed)
    assert codes.dtype == np.uint8
    assert codes.shape == back.shape == values.shape
    for first in range(0, values.size, 256):
        block, got = values[first : first + 256], back[first : first + 256]
        largest = np.abs(block).max()
        if largest < (2.0**-100 if signed else SUBNORMAL):
            assert not got.any()
            continue
        least = 0 if signed else 2.0**-100
        whole = max(largest, least)
        # The largest decodes to itself, but for the last bit of a few unsigned ones.
        assert largest < least or abs(np.abs(got).max() - largest) <= (0 if signed else np.spacing(largest))
        # Neighbouring levels are at most 1/40 (signed) or 1/67 of the largest apart near the top.
        assert (np.abs(got - block) <= whole / (76 if signed else 126)).all()
        order = np.argsort(block, kind="stable")
        assert (np.diff(got[order]) >= 0).all()
    again = formats.encode_8bit(back, signed)
    np.testing.assert_array_equal(again[0], codes)
    np.testing.assert_array_equal(again[1], scales)


@settings(deadline=None)
@given(values=moments)
def test_a_second_moment_never_becomes_zero(values: Any) -> None:
    codes, scales = formats.encode_8bit(values, signed=False)
    normal = values >= SUBNORMAL
    assert (codes[normal] > 0).all()
    assert not codes[~normal].any()
    assert (formats.decode_8bit(codes, scales, signed=False)[normal] > 0).all()


@signs
@settings(deadline=None)
@given(data=st.data())
def test_zeros_stay_zero_and_signs_stay(signed: bool, data: st.DataObject) -> None:
    values = data.draw(finite if signed else moments)
    values[:: data.draw(st.integers(1, 5))] = 0
    codes, scales = formats.encode_8bit(values, signed)
    back = formats.decode_8bit(codes, scales, signed)
    assert not back[values == 0].any()
    assert (np.sign(back) * np.sign(values) >= 0).all()


@signs
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_a_bad_number_stays_in_its_block(signed: bool, bad: float) -> None:
    rng = np.random.default_rng(0)
    values = np.abs(rng.standard_normal(1000)).astype(np.float32)
    clean = formats.decode_8bit(*formats.encode_8bit(values, signed), signed)
    values[300] = bad
    codes, scales = formats.encode_8bit(values, signed)
    back = formats.decode_8bit(codes, scales, signed)
    assert np.isnan(scales).tolist() == [False, True, False, False]
    assert np.isnan(back[256:512]).all()
    assert not codes[256:512].any()
    outside = np.r_[0:256, 512:1000]
    np.testing.assert_array_equal(back[outside], clean[outside])


@pytest.mark.parametrize("bad", [-1, 2.0**126])
def test_a_negative_second_moment_or_a_huge_one_is_as_bad(bad: float) -> None:
    scales = formats.encode_8bit(np.array([1, bad], np.float32), signed=False)[1]
    assert np.isnan(scales).all()


@signs
def test_states_need_no_flushing(signed: bool) -> None:
    """What a step flushes (numbers below the smallest normal) has the code of zero anyway."""
    rng = np.random.default_rng(0)
    for top in 2.0 ** np.arange(-130.0, -80.0):
        values = (rng.random(256) * 2.0 ** rng.uniform(-30, 0, 256) * top).astype(np.float32)
        if signed:
            values *= rng.choice(np.array([-1, 1], np.float32), 256)
        flushed = np.where(np.abs(values) < SUBNORMAL, np.float32(0), values)
        codes, scales = formats.encode_8bit(values, signed)
        flushed_codes, flushed_scales = formats.encode_8bit(flushed, signed)
        assert codes.tobytes() == flushed_codes.tobytes()
        assert scales.tobytes() == flushed_scales.tobytes()


@signs
def test_double_goes_through_single(signed: bool) -> None:
    values = np.abs(np.random.default_rng(0).standard_normal((3, 100)))
    for one, two in zip(
        formats.encode_8bit(values, signed), formats.encode_8bit(values.astype(np.float32), signed), strict=True
    ):
        np.testing.assert_array_equal(one, two)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="values: got dtype int64, needs float32 or float64"):
        formats.encode_bfloat16(np.arange(3))


def test_bfloat16_says_what_it_needs() -> None:
    program = """
import sys
sys.modules["ml_dtypes"] = None
from fusedstep import formats
try:
    formats.bfloat16()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pip install fusedstep[bfloat16]" in done.stdout
    assert formats.is_bfloat16(formats.bfloat16())
    assert not formats.is_bfloat16(np.float16)
