"""Gradients of some rows: the native step leaves the reference's bytes, and no other row is touched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedstep as fs

RULES: dict[str, tuple[type[fs.Optimizer], list[str]]] = {
    "sgd": (fs.SGD, []),
    "adagrad": (fs.Adagrad, ["sum"]),
    "sparse_adam": (fs.SparseAdam, ["exp_avg", "exp_avg_sq"]),
}
SHAPES = [(50, 7), (3000, 64), (100,), (20, 3, 5), (5, 5000)]


def gradient(rng: np.random.Generator, shape: tuple[int, ...], count: int, dtype: Any) -> fs.SparseRows:
    values = rng.normal(size=(count, *shape[1:])).astype(dtype)
    return fs.SparseRows(rng.integers(0, shape[0], count), values)


@pytest.mark.parametrize("isa", fs.available_isas())
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_native_equals_reference(isa: str, rule: str, dtype: str) -> None:
    stored: Any = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    compute = np.float64 if dtype == "float64" else np.float32
    make, names = RULES[rule]
    before = fs.isa()
    fs.set_isa(isa)
    try:
        for shape in SHAPES:
            rng = np.random.default_rng(len(shape))
            native = rng.normal(size=shape).astype(stored)
            reference, classy = native.copy(), native.copy()
            ours: list[Any] = [np.zeros(shape, compute) for _ in names]
            theirs: list[Any] = [state.copy() for state in ours]
            optimizer = make(classy, lr=0.01, max_grad_norm=0.7)  # type: ignore[call-arg]
            for step in range(1, 4):
                grad = gradient(rng, shape, int(rng.integers(0, 60)), compute)
                options = {"step": step, "lr": 0.01, "max_grad_norm": 0.7}
                getattr(fs.functional, rule)(native, grad, *ours, **options)
                getattr(fs.reference, rule)(reference, grad, *theirs, **options)
                optimizer.step(grad)
            assert native.tobytes() == reference.tobytes() == classy.tobytes()
            for name, a, b in zip(names, ours, theirs, strict=True):
                assert a.tobytes() == b.tobytes() == optimizer.state[0][name].tobytes()
    finally:
        fs.set_isa(before)


def test_rows_beside_dense_gradients() -> None:
    rng = np.random.default_rng(0)
    params = {"table": rng.normal(size=(40, 8)), "dense": rng.normal(size=5000)}
    kept = {name: value.copy() for name, value in params.items()}
    grads: dict[str, Any] = {"table": gradient(rng, (40, 8), 6, np.float64), "dense": rng.normal(size=5000)}
    optimizer = fs.Adagrad(params, lr=0.1, clip_value=0.5, zero_grads=True)
    values = grads["table"].values.copy()
    rows = grads["table"].indices.copy()
    assert optimizer.step(grads)
    sums = [np.zeros((40, 8)), np.zeros(5000)]
    fs.reference.adagrad(
        [kept["table"], kept["dense"]],
        [fs.SparseRows(rows, values), rng.normal(size=5000) * 0],
        sums,
        step=1,
        lr=0.1,
        clip_value=0.5,
    )
    assert params["table"].tobytes() == kept["table"].tobytes()
    assert not grads["table"].values.any()
    assert not grads["dense"].any()
    untouched = np.setdiff1d(np.arange(40), rows)
    assert not optimizer.state[0]["sum"][untouched].any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, g: fs.Adam(p).step(g), "adam has no form for SparseRows"),
        (lambda p, g: fs.SGD(p, momentum=0.9).step(g), "SparseRows need momentum=0"),
        (lambda p, g: fs.SGD(p, weight_decay=0.1).step(g), "SparseRows need weight_decay=0"),
        (lambda p, g: fs.SGD(p, ema_decay=0.9).step(g), "SparseRows need ema=None"),
        (lambda p, g: fs.SGD(p, grads=g), "SparseRows cannot be bound"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(np.array([-1]), g.values[:1])), r"grads\.indices\[0\] must be"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(np.array([10]), g.values[:1])), r"grads\.indices\[0\] must be"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices, g.values[:1])), r"grads\.values must have shape"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices * 1.0, g.values)), r"grads\.indices must be"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices, p[:2])), "overlaps"),
        (
            lambda p, g: fs.SparseAdam(p, state_format="8bit", min_quantized_size=0).step(g),
            "states of 8 bits have no form",
        ),
    ],
)
def test_errors_change_nothing(make: Any, message: str) -> None:
    param = np.ones((10, 4), np.float32)
    grad = fs.SparseRows(np.array([1, 3]), np.ones((2, 4), np.float32))
    with pytest.raises((TypeError, ValueError), match=message):
        make(param, grad)
    assert (param == 1).all()
