"""The exponentially weighted average: its recursion, its weights, its correction."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fusedstep.averages import ExponentialAverage

betas = st.floats(0.0, 0.999)
numbers = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(betas, st.lists(numbers, min_size=1, max_size=30))
def test_it_is_the_recursion(beta: float, observations: list[float]) -> None:
    raw, corrected = ExponentialAverage(beta, bias_correction=False), ExponentialAverage(beta)
    v = 0.0
    for t, x in enumerate(observations, 1):
        v = beta * v + (1 - beta) * x
        assert raw.update(x) == raw.value == v
        assert corrected.update(x) == pytest.approx(v / (1 - beta**t), rel=1e-9, abs=1e-9)
    assert raw.count == len(observations)


@settings(deadline=None)
@given(betas, st.lists(numbers, min_size=1, max_size=30))
def test_it_is_the_weighted_mean(beta: float, observations: list[float]) -> None:
    average = ExponentialAverage(beta)
    for x in observations:
        value = average.update(x)
    weights = beta ** np.arange(len(observations))[::-1]
    assert value == pytest.approx(np.average(observations, weights=weights), rel=1e-9, abs=1e-6)
    assert min(observations) - 1e-6 <= value <= max(observations) + 1e-6


@settings(deadline=None)
@given(betas, numbers, st.integers(1, 200))
def test_a_constant_stays_itself_when_corrected(beta: float, x: float, count: int) -> None:
    average = ExponentialAverage(beta)
    for _ in range(count):
        value = average.update(x)
    # Each update rounds twice, in the average and in the weight that divides it, by half an ulp at the most.
    assert value == pytest.approx(x, rel=4 * (count + 1) * 2.0**-53)


def test_the_numbers_of_the_course() -> None:
    raw, corrected = ExponentialAverage(0.98, bias_correction=False), ExponentialAverage(0.98)
    x1, x2 = 40.0, 49.0
    for average in (raw, corrected):
        average.update(x1)
    assert raw.update(x2) == pytest.approx(0.0196 * x1 + 0.02 * x2, rel=1e-14)
    assert corrected.update(x2) == pytest.approx((0.0196 * x1 + 0.02 * x2) / 0.0396, rel=1e-14)


@pytest.mark.parametrize(("beta", "window"), [(0.5, 2), (0.9, 10), (0.98, 50)])
def test_the_window(beta: float, window: int) -> None:
    average = ExponentialAverage(beta)
    assert average.window == pytest.approx(window)
    # so many updates after a jump from 0 to 1, all but about 1/e of the way is done
    average.update(0.0)
    average = ExponentialAverage(beta, bias_correction=False)
    for _ in range(window):
        value = average.update(1.0)
    assert 1 - value == pytest.approx(beta**window) and abs(1 - value - 1 / math.e) < 0.12


@settings(deadline=None)
@given(hnp.arrays(np.float64, (5, 3, 2), elements=numbers), betas, st.booleans())
def test_arrays_are_averaged_by_element(data: Any, beta: float, correct: bool) -> None:
    whole = ExponentialAverage(beta, correct)
    parts = [ExponentialAverage(beta, correct) for _ in range(6)]
    for x in data:
        value = whole.update(x)
        assert value.shape == (3, 2)
        assert value.ravel().tolist() == [p.update(float(e)) for p, e in zip(parts, x.ravel(), strict=True)]


@pytest.mark.parametrize(("dtype", "expected"), [("f4", "f4"), ("f8", "f8"), ("f2", "f8"), ("i8", "f8"), ("u1", "f8")])
def test_types_of_arrays(dtype: str, expected: str) -> None:
    average = ExponentialAverage(0.9)
    for _ in range(3):
        assert average.update(np.ones(4, dtype)).dtype == expected


@pytest.mark.parametrize("x", [1, 1.0, np.float32(1.0), np.int8(1), np.array(1.0)])
def test_scalars_give_floats(x: Any) -> None:
    assert type(ExponentialAverage(0.9).update(x)) is float


@pytest.mark.parametrize("correct", [True, False])
def test_values_are_the_callers_own(correct: bool) -> None:
    average = ExponentialAverage(0.5, correct)
    x = np.ones(3)
    first = average.update(x)
    x[:] = first[:] = 7.0
    np.testing.assert_array_equal(average.value, np.full(3, 1.0 if correct else 0.5))


@pytest.mark.parametrize("x", [1e-310, np.full(3, 1e-310), np.full(3, 1e-42, np.float32)])
def test_floating_point_errors_are_not_reported(x: Any) -> None:
    with np.errstate(all="raise"):
        average = ExponentialAverage(0.9)
        for _ in range(3):
            value = average.update(x)
        again = average.value
    np.testing.assert_array_equal(again, value)
    np.testing.assert_allclose(value, x, rtol=0.05)


def test_bfloat16_is_averaged_in_float64() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    value = ExponentialAverage(0.5, False).update(np.array([1.0, 3.0], ml_dtypes.bfloat16))
    assert value.dtype == np.float64 and value.tolist() == [0.5, 1.5]


def test_it_can_be_pickled() -> None:
    average = ExponentialAverage(0.9)
    average.update(np.arange(3.0))
    again = pickle.loads(pickle.dumps(average))
    np.testing.assert_array_equal(again.update(np.ones(3)), average.update(np.ones(3)))
    assert repr(again) == "ExponentialAverage(0.9)"
    assert repr(ExponentialAverage(0.5, False)) == "ExponentialAverage(0.5, bias_correction=False)"


@pytest.mark.parametrize(
    ("beta", "error"),
    [(1.0, ValueError), (-0.1, ValueError), (math.nan, ValueError), ("0.9", TypeError), (10**400, ValueError)],
)
def test_bad_beta(beta: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"beta: got .*, needs"):
        ExponentialAverage(beta)


def test_bad_use() -> None:
    with pytest.raises(TypeError, match=r"bias_correction: got .*, needs a bool"):
        ExponentialAverage(0.9, 1)  # type: ignore[arg-type]
    average = ExponentialAverage(0.9)
    with pytest.raises(ValueError, match="no average before the first update"):
        _ = average.value
    value = average.update(np.ones(3))
    refused: list[tuple[Any, type[Exception]]] = [
        (np.ones(4), ValueError),
        (1.0, ValueError),
        ("a", TypeError),
        (True, TypeError),
        (np.ma.masked_array(np.ones(3), [False, False, True]), TypeError),
        (np.ma.masked, TypeError),
        (np.ones(3, complex), TypeError),
    ]
    for bad, error in refused:
        with pytest.raises(error, match=r"x: got .*, needs"):
            average.update(bad)
    np.testing.assert_array_equal(average.value, value)
