"""A step that would make a float16 parameter infinite is an error, and nothing has changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedstep as fs


def everything(optimizer: fs.Optimizer, params: list[Any]) -> list[Any]:
    arrays = [a for view in optimizer.state for a in view.values() if isinstance(a, np.ndarray)]
    numbers = [a for view in optimizer.state for a in view.values() if not isinstance(a, np.ndarray)]
    return [a.tobytes() for a in [*params, *arrays]] + [numbers, optimizer.steps_taken]


@pytest.mark.parametrize("options", [{}, {"rounding": "stochastic"}, {"master": "float32"}])
@pytest.mark.parametrize("size", [1, 300, 5000, 70000])
@pytest.mark.parametrize(
    ("cls", "lr", "large"),
    [
        (fs.SGD, 1.0, 3e4),
        (fs.Adam, 1.0, 3e4),
        (fs.NAdam, 1.0, 3e4),
        (fs.LAMB, 0.01, 1.0),
        (fs.NovoGrad, 0.01, 1e6),
        (fs.Prodigy, 1.0, 1e12),
    ],
)
def test_overflow_changes_nothing(cls: Any, lr: float, large: float, size: int, options: dict[str, Any]) -> None:
    params = [np.ones(size, np.float32), np.full(size, 60000, np.float16)]
    optimizer = (
        cls(params, lr=lr, **options)
        if "master" not in options
        else cls([{"params": params[0]}, {"params": params[1], **options}], lr=lr)
    )
    fine: list[Any] = [np.ones(size, np.float32), np.ones(size, np.float16)]
    assert optimizer.step(fine)
    before = everything(optimizer, params)
    optimizer.param_groups[-1]["lr"] = large
    optimizer.param_groups[0]["lr"] = large
    wide: list[Any] = [np.ones(size, np.float32), np.zeros(size, np.float16)]
    wide[1][-1] = -5
    if cls is fs.LAMB:
        wide[1][:] = -5
    with pytest.raises(OverflowError, match=r"params\[1\].*65504.*nothing was changed"):
        optimizer.step(wide)
    assert everything(optimizer, params) == before
    for group in optimizer.param_groups:
        group["lr"] = lr
    assert optimizer.step(fine)
    assert optimizer.steps_taken == 2


def test_reference_and_function_agree() -> None:
    for function in (fs.reference.sgd, fs.functional.sgd):
        param = np.full(3000, 65000, np.float16)
        grad = np.zeros(3000, np.float16)
        grad[2999] = -600
        with pytest.raises(OverflowError, match=r"^param: .*65504"):
            function(param, grad, step=1, lr=1.0)
        assert (param == 65000).all()
        grad[2999] = -480  # 65480 rounds to 65472
        assert function(param, grad, step=1, lr=1.0)
        assert param[2999] == 65472


def test_infinite_gradients_are_no_overflow() -> None:
    param, grad = np.ones(4, np.float16), np.array([1, np.inf, -np.inf, np.nan], np.float16)
    other = param.copy()
    assert fs.functional.sgd(param, grad, step=1, lr=1.0)
    assert fs.reference.sgd(other, grad, step=1, lr=1.0)
    np.testing.assert_array_equal(param, [0, -np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(param, other)
