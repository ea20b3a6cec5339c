"""Sums, powers and comparisons whose bits everything else relies on."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusedstep.reference._arithmetic import clamp, det_pow, flush, larger, power, sign, sum_of_squares

Array = NDArray[Any]


def exact_power(base: float, exponent: float) -> float:
    with localcontext() as context:
        context.prec = 60
        return float(Decimal(base) ** Decimal(exponent))


@pytest.mark.parametrize("base", [0.9, 0.999, 0.96, 0.5, 1.0, 1.0001, 3.7, 1e-3])
@pytest.mark.parametrize("exponent", [0.0, 0.004, 0.1, 0.5, 0.75, 1.0, 1.5, 2.0, 3.999999, 10.0])
def test_det_pow(base: float, exponent: float) -> None:
    assert det_pow(base, exponent) == pytest.approx(exact_power(base, exponent), rel=1e-14)
    assert det_pow(base, -exponent) == pytest.approx(exact_power(base, -exponent), rel=1e-14)


@pytest.mark.parametrize("exponent", [100.25, 999.9, 4000.004])
def test_det_pow_of_large_exponents(exponent: float) -> None:
    assert det_pow(0.96, exponent) == pytest.approx(exact_power(0.96, exponent), rel=1e-12)


def test_det_pow_at_the_edges() -> None:
    assert det_pow(0.0, 0.0) == 1.0
    assert det_pow(0.0, 2.5) == 0.0
    assert det_pow(0.0, -1.0) == math.inf
    assert det_pow(math.inf, 0.5) == math.inf
    assert det_pow(0.5, 1e300) == 0.0
    assert det_pow(1.0, 1e300) == 1.0
    assert det_pow(2.0, 1e300) == math.inf


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 7, 100, 1000, 123456])
def test_power(exponent: int) -> None:
    assert power(0.5, exponent) == math.ldexp(1.0, -exponent)
    assert power(0.999, exponent) == pytest.approx(exact_power(0.999, exponent), rel=1e-16 * (exponent + 8), abs=0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 2047, 2048, 2049, 5000])
def test_sum_of_squares_in_its_order(size: int, dtype: Any) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(dtype)
    total = 0.0
    for start in range(0, size, 2048):
        lanes = [0.0] * 16
        for i, value in enumerate(values[start : start + 2048].tolist()):
            lanes[i % 16] += value * value
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [low + high for low, high in zip(lanes[:half], lanes[half:], strict=True)]
        total += lanes[0]
    assert sum_of_squares(values) == total
    assert total == pytest.approx(math.fsum(value * value for value in values.tolist()), rel=1e-14)


def test_sums_do_not_overflow_in_single_precision() -> None:
    assert sum_of_squares(np.full(4, 3e38, dtype=np.float32)) == pytest.approx(4 * 9e76, rel=1e-6)
    assert math.isnan(sum_of_squares(np.array([1.0, np.nan])))
    assert sum_of_squares(np.array([1.0, -np.inf])) == math.inf


def bits(values: Array) -> list[int]:
    return [int(word) for word in values.astype(np.float32).view(np.uint32)]


def test_larger_keeps_nan_and_the_first_of_equals() -> None:
    a = np.array([1, np.nan, 2, 0.0, -0.0, np.nan], dtype=np.float32)
    b = np.array([2, 1, np.nan, -0.0, 0.0, np.nan], dtype=np.float32)
    result = larger(a, b)
    assert np.isnan(result[[1, 2, 5]]).all()
    assert bits(result[[0, 3, 4]]) == bits(np.array([2, 0.0, -0.0]))


def test_clamp_keeps_nan() -> None:
    values = np.array([-3, -1, 0.5, 7, np.nan, np.inf, -np.inf])
    np.testing.assert_array_equal(clamp(values, -1.0, 2.0), [-1, -1, 0.5, 2, np.nan, 2, -1])


def test_sign_keeps_zeros_and_nan() -> None:
    result = sign(np.array([3, -3, 0.0, -0.0, np.nan, 1e-45, -np.inf], dtype=np.float32))
    assert bits(result[[0, 1, 2, 3, 5, 6]]) == bits(np.array([1, -1, 0.0, -0.0, 1, -1]))
    assert np.isnan(result[4])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_flush(dtype: Any) -> None:
    tiny = np.finfo(dtype).tiny
    values = np.array([tiny, -tiny, tiny / 2, -tiny / 2, -0.0, 1, np.nan, -np.inf], dtype=dtype)
    flush(values)
    np.testing.assert_array_equal(values, np.array([tiny, -tiny, 0, 0, 0, 1, np.nan, -np.inf], dtype=dtype))
    assert not np.signbit(values[2:5]).any()
