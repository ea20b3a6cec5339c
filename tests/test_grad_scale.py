"""Gradients that are finite until they are divided by `grad_scale`, and scales that nothing can be divided by."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fusedstep as fs

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LARGEST = np.finfo(np.float32).max


def both(params: list[Any], grads: list[Any], scale: float, **options: Any) -> tuple[bool, list[Any]]:
    """One SGD step by every face; they must agree to the byte."""
    results = []
    for face in ("class", "functional", "reference"):
        mine = [param.copy() for param in params]
        if face == "class":
            optimizer = fs.SGD(mine, lr=1.0, **options)
            taken = optimizer.step(grads, grad_scale=scale)
            assert optimizer.skipped_steps == (not taken) and optimizer.state[0]["step"] == int(taken)
        else:
            function = getattr(fs, face).sgd
            taken = function(mine, grads, None, step=1, lr=1.0, grad_scale=scale, **options)
        results.append((taken, [param.tobytes() for param in mine]))
    assert results[0] == results[1] == results[2]
    return taken, mine


@pytest.mark.parametrize("dtype", [np.float32, np.float16, BFLOAT16])
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_whose_unscaled_gradients_overflow_is_skipped(dtype: Any, maximize: bool) -> None:
    grad = np.array([0, 30000], dtype)
    params = [np.ones(2, dtype)]
    taken, (left,) = both(params, [grad], 1e-36, skip_nonfinite=True, maximize=maximize)
    assert not taken and left.tolist() == [1.0, 1.0]


def test_without_skipping_the_step_is_taken() -> None:
    taken, (left,) = both([np.zeros(2, np.float32)], [np.array([0, 1e20], np.float32)], 1e-20)
    assert taken and left.tolist() == [0.0, -np.inf]


@pytest.mark.parametrize("size", [1, 5, 2048, 70_000])
@pytest.mark.parametrize("where", [0, -1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_number_is_the_limit_of_every_element(size: int, where: int, dtype: Any) -> None:
    half = np.finfo(dtype).max / dtype(2)
    grads = [np.ones(3, dtype), np.full(size, 1.0, dtype), np.ones(3, np.float32)]
    params = [np.ones(3, dtype), np.ones(size, dtype), np.ones(3, np.float32)]
    grads[1][where] = half
    assert both(params, grads, 0.5, skip_nonfinite=True)[0]
    grads[1][where] = np.nextafter(half, dtype(np.inf))
    assert not both(params, grads, 0.5, skip_nonfinite=True)[0]


def test_any_number_of_threads_decides_alike() -> None:
    grad = np.full(400_000, LARGEST / 2, np.float32)
    for bad in (None, 399_999, 123_456):
        if bad is not None:
            grad[bad] = np.nextafter(LARGEST / 2, np.float32(np.inf))
        for threads in (1, 2, 5):
            before = fs.get_num_threads()
            fs.set_num_threads(threads)
            try:
                optimizer = fs.SGD(np.ones(400_000, np.float32), skip_nonfinite=True)
                assert optimizer.step(grad, grad_scale=0.5) is (bad is None)
            finally:
                fs.set_num_threads(before)


def test_squares_beyond_the_largest_double_do_not_skip() -> None:
    taken, (left,) = both([np.ones(3)], [np.full(3, 1e200)], 1e-50, skip_nonfinite=True)
    assert taken and left.tolist() == pytest.approx([-1e250] * 3, rel=1e-15)
    assert not both([np.ones(3)], [np.full(3, 1e200)], 1e-150, skip_nonfinite=True)[0]


def test_clipping_by_norm_comes_before_the_decision() -> None:
    taken, (left,) = both(
        [np.zeros(2, np.float32)], [np.array([0, 1e20], np.float32)], 1e-20, skip_nonfinite=True, max_grad_norm=1.0
    )
    assert taken
    np.testing.assert_allclose(left, [0.0, -1.0], rtol=1e-6)


@pytest.mark.parametrize("face", ["class", "functional", "reference"])
def test_rows_that_overflow_are_skipped(face: str) -> None:
    table = np.ones((4, 2), np.float32)
    rows = fs.SparseRows(np.array([2, 2]), np.full((2, 2), 1e38, np.float32))
    if face == "class":
        taken = fs.SGD(table, lr=1.0, skip_nonfinite=True).step(rows, grad_scale=0.25)
    else:
        function = getattr(fs, face).sgd
        taken = function(table, rows, None, step=1, lr=1.0, grad_scale=0.25, skip_nonfinite=True)
    assert not taken and (table == 1.0).all()


@pytest.mark.parametrize("seed", range(40))
def test_faces_agree_on_random_scales(seed: int) -> None:
    rng = np.random.default_rng(seed)
    params, grads = [], []
    for dtype in rng.permutation([np.float32, np.float64, np.float16, BFLOAT16])[: rng.integers(1, 4)]:
        size = int(rng.integers(1, 3000))
        top = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        grad = rng.standard_normal(size) * min(top, 1e300) ** rng.uniform(-1, 1)
        params.append(np.zeros(size, dtype))
        with np.errstate(over="ignore"):
            grads.append(np.clip(grad, -top, top).astype(dtype))
    scale = 10.0 ** float(rng.uniform(-38, 38))
    options: dict[str, Any] = {"skip_nonfinite": True, "max_grad_norm": 1.0 if rng.random() < 0.3 else None}
    if any(param.dtype == np.float16 for param in params):
        options["clip_value"] = 1.0  # a step beyond the largest float16 is an error
    both(params, grads, scale, **options)


# ---- scales that nothing can be divided by ----


@pytest.mark.parametrize("face", ["class", "functional", "reference"])
@pytest.mark.parametrize(
    ("dtype", "scale", "kind"),
    [(np.float32, 1e-40, "float32"), (BFLOAT16, 2.9e-39, "float32"), (np.float64, 5e-324, "float64")],
)
def test_a_scale_without_a_finite_inverse_is_an_error(face: str, dtype: Any, scale: float, kind: str) -> None:
    param, grad = np.ones(2, dtype), np.zeros(2, dtype)
    message = rf"grad_scale: got {scale}, needs a number whose inverse is finite in {kind}"
    with pytest.raises(ValueError, match=message):
        if face == "class":
            fs.SGD(param).step(grad, grad_scale=scale)
        else:
            getattr(fs, face).sgd(param, grad, None, step=1, grad_scale=scale)
    assert param.tolist() == [1.0, 1.0]


def test_the_narrowest_compute_type_counts() -> None:
    params = [np.ones(2), np.ones(2, np.float32)]
    with pytest.raises(ValueError, match="finite in float32"):
        fs.SGD(params).step([np.zeros(2), np.zeros(2, np.float32)], grad_scale=1e-40)
    assert both([np.ones(2)], [np.full(2, 1e-42)], 1e-40)[1][0].tolist() == pytest.approx([0.99, 0.99])


def test_the_smallest_scale_divides() -> None:
    taken, (left,) = both([np.ones(3, np.float32)], [np.array([0, 1e-40, -1e-40], np.float32)], 2.95e-39)
    assert taken
    np.testing.assert_allclose(left, [1.0, 1 - 1e-40 / 2.95e-39, 1 + 1e-40 / 2.95e-39], rtol=1e-4)
