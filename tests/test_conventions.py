"""Options for the places where libraries disagree: each against its formula written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fusedstep as fs

Array = NDArray[Any]


def problem(dtype: str, steps: int = 6) -> tuple[Array, list[Array]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=257).astype(dtype), [rng.normal(size=257).astype(dtype) for _ in range(steps)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_lr_in_momentum(dtype: str, nesterov: bool) -> None:
    start, grads = problem(dtype)
    options: dict[str, Any] = {"momentum": 0.9, "nesterov": nesterov, "lr_in_momentum": True}
    native, velocity = start.copy(), np.zeros_like(start)
    reference, same = start.copy(), np.zeros_like(start)
    w, v = start.astype(np.float64), np.zeros(start.shape)
    for t, grad in enumerate(grads, 1):
        lr = 0.0 if t == 3 else 0.1 / t
        fs.functional.sgd(native, grad, velocity, step=t, lr=lr, **options)
        fs.reference.sgd(reference, grad, same, step=t, lr=lr, **options)
        v = 0.9 * v - lr * grad
        w = w + (0.9 * v - lr * grad if nesterov else v)
    assert native.tobytes() == reference.tobytes()
    assert velocity.tobytes() == same.tobytes()
    np.testing.assert_allclose(native, w, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)
    np.testing.assert_allclose(velocity, v, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_lr_in_momentum(dtype: str, centered: bool) -> None:
    start, grads = problem(dtype)
    options: dict[str, Any] = {"alpha": 0.9, "momentum": 0.9, "centered": centered, "eps": 0.0, "eps_root": 1e-7}
    options["lr_in_momentum"] = True
    native, states = start.copy(), [np.zeros_like(start) for _ in range(3)]
    reference, same = start.copy(), [np.zeros_like(start) for _ in range(3)]
    w, s, v, m = start.astype(np.float64), *np.zeros((3, *start.shape))
    for t, grad in enumerate(grads, 1):
        fs.functional.rmsprop(native, grad, *states, step=t, lr=0.1 / t, **options)
        fs.reference.rmsprop(reference, grad, *same, step=t, lr=0.1 / t, **options)
        s = 0.9 * s + 0.1 * np.square(grad, dtype=np.float64)
        m = 0.9 * m + 0.1 * grad
        v = 0.9 * v + 0.1 / t * grad / np.sqrt(s - m * m * centered + 1e-7)
        w = w - v
    assert native.tobytes() == reference.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(states, same, strict=True))
    np.testing.assert_allclose(native, w, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)
    np.testing.assert_allclose(states[1], v, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("make", [fs.SGD, fs.RMSprop])
def test_lr_in_momentum_matters_only_when_the_rate_changes(make: Any) -> None:
    for rates, same in (([0.1] * 6, True), ([0.1, 0.1, 0.1, 0.01, 0.01, 0.01], False)):
        ends = []
        for flag in (False, True):
            w, grads = problem("float64")
            opt = make(w, lr=0.1, momentum=0.9, lr_in_momentum=flag)
            for lr, grad in zip(rates, grads, strict=True):
                opt.param_groups[0]["lr"] = lr
                opt.step(grad)
            ends.append(w)
        assert np.allclose(ends[0], ends[1], rtol=0, atol=1e-13) is same


def test_lr_in_momentum_without_momentum_is_nothing() -> None:
    ends = []
    for flag in (False, True):
        w, grads = problem("float32")
        opt = fs.SGD(w, lr=0.1, lr_in_momentum=flag)
        for grad in grads:
            opt.step(grad)
        ends.append(w.tobytes())
    assert ends[0] == ends[1]


def test_lr_in_momentum_must_be_a_flag() -> None:
    with pytest.raises(TypeError, match=r"lr_in_momentum: got .*, needs True or False"):
        fs.SGD(np.zeros(3), lr_in_momentum=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adagrad_eps_root(dtype: str) -> None:
    start, grads = problem(dtype)
    native, s = start.copy(), np.full_like(start, 0.1)
    reference, same = start.copy(), np.full_like(start, 0.1)
    w, total = start.astype(np.float64), np.full(start.shape, 0.1)
    for t, grad in enumerate(grads, 1):
        fs.functional.adagrad(native, grad, s, step=t, lr=0.1, eps=0.0, eps_root=0.3)
        fs.reference.adagrad(reference, grad, same, step=t, lr=0.1, eps=0.0, eps_root=0.3)
        total = total + np.square(grad, dtype=np.float64)
        w = w - 0.1 * grad / np.sqrt(total + 0.3)
    assert native.tobytes() == reference.tobytes()
    assert s.tobytes() == same.tobytes()
    np.testing.assert_allclose(native, w, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adamax_eps_norm(dtype: str) -> None:
    start, grads = problem(dtype)
    native, states = start.copy(), [np.zeros_like(start) for _ in range(2)]
    reference, same = start.copy(), [np.zeros_like(start) for _ in range(2)]
    w, m, u = start.astype(np.float64), *np.zeros((2, *start.shape))
    for t, grad in enumerate(grads, 1):
        fs.functional.adamax(native, grad, *states, step=t, lr=0.1, eps=0.0, eps_norm=0.3)
        fs.reference.adamax(reference, grad, *same, step=t, lr=0.1, eps=0.0, eps_norm=0.3)
        m = 0.9 * m + 0.1 * grad
        u = np.maximum(0.999 * u, np.abs(grad))
        w = w - 0.1 * m / ((1 - 0.9**t) * (u + 0.3))
    assert native.tobytes() == reference.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(states, same, strict=True))
    np.testing.assert_allclose(native, w, rtol=0, atol=1e-6 if dtype == "float32" else 1e-14)
