"""Gradients of some rows: the native step leaves the reference's bytes, and no other row is touched."""

from __future__ import annotations

import sys
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
        (lambda p, g: fs.Adam(p).step(g), "got SparseRows, needs an array for adam"),
        (lambda p, g: fs.SGD(p, momentum=0.9).step(g), "got SparseRows with momentum=.*, needs momentum=0"),
        (lambda p, g: fs.SGD(p, weight_decay=0.1).step(g), "got SparseRows with weight_decay=.*, needs weight_decay=0"),
        (lambda p, g: fs.SGD(p, ema_decay=0.9).step(g), "got SparseRows with an average, .* needs ema_decay=None"),
        (lambda p, g: fs.SGD(p, grads=g), "SparseRows cannot be bound"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(np.array([-1]), g.values[:1])), r"grads\.indices\[0\]: got"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(np.array([10]), g.values[:1])), r"grads\.indices\[0\]: got"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices, g.values[:1])), r"grads\.values: got shape .*, needs"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices * 1.0, g.values)), r"grads\.indices: got .*, needs"),
        (lambda p, g: fs.SGD(p).step(fs.SparseRows(g.indices, p[:2])), "overlaps"),
        (
            lambda p, g: fs.SparseAdam(p, state_format="8bit", min_quantized_size=0).step(g),
            "got SparseRows, needs an array with states of 8 bits",
        ),
    ],
)
def test_errors_change_nothing(make: Any, message: str) -> None:
    param = np.ones((10, 4), np.float32)
    grad = fs.SparseRows(np.array([1, 3]), np.ones((2, 4), np.float32))
    with pytest.raises((TypeError, ValueError), match=message):
        make(param, grad)
    assert (param == 1).all()


# ------------------------------------------------------------------------------------------------ which rows, how often

PLACES: dict[str, Any] = {
    "none": lambda rng, rows: np.zeros(0, np.int64),
    "one": lambda rng, rows: np.array([rows - 1]),
    "ascending": lambda rng, rows: np.sort(rng.permutation(rows)[:60]),
    "neighbours": lambda rng, rows: np.arange(7, 90),
    "descending": lambda rng, rows: np.arange(70, 3, -2),
    "ascending with repetitions": lambda rng, rows: np.sort(rng.integers(0, 40, 100)),
    "any": lambda rng, rows: rng.integers(0, rows, 200),
    "one many times": lambda rng, rows: np.full(500, 5),
    "all, several times": lambda rng, rows: rng.permutation(np.tile(np.arange(rows), 3)),
}


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("place", PLACES)
def test_any_rows_in_any_order(place: str, index: Any) -> None:
    for shape in [(300, 9), (70_000, 2), (2**24 + 5,)]:
        if place.startswith("all") and shape[0] > 300:
            continue
        rng = np.random.default_rng(7)
        indices = PLACES[place](rng, shape[0]).astype(index)
        values = rng.normal(size=(len(indices), *shape[1:]))
        values *= 10.0 ** rng.integers(-3, 4, values.shape)  # so that the order of additions shows
        values = values.astype(np.float32)
        native, reference = np.ones(shape, np.float32), np.ones(shape, np.float32)
        for step, function in ((native, fs.functional.sgd), (reference, fs.reference.sgd)):
            function(step, fs.SparseRows(indices, values), None, step=1, lr=0.5, max_grad_norm=3.0)
        assert native.tobytes() == reference.tobytes()


# parameter, gradient, master, states
STORED = [
    ("float32", "float16", None, "float32"),
    ("float32", "bfloat16", None, "bfloat16"),
    ("float64", "float32", None, "float64"),
    ("float64", "bfloat16", None, "float64"),
    ("float16", "float16", None, "float32"),
    ("float16", "float32", "float32", "bfloat16"),
    ("bfloat16", "bfloat16", "float32", "float32"),
    ("bfloat16", "bfloat16", "int16", "float32"),
]


@pytest.mark.parametrize(("param", "grad", "master", "state"), STORED)
@pytest.mark.parametrize("zero_grads", [False, True])
def test_every_format(param: str, grad: str, master: str | None, state: str, zero_grads: bool) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    dtype = {name: np.dtype(name) for name in ("float16", "float32", "float64", "int16")} | {"bfloat16": bfloat16}
    rng = np.random.default_rng(3)
    table = rng.normal(size=(40, 3000)).astype(dtype[param])
    left = []
    for function in (fs.functional.sparse_adam, fs.reference.sparse_adam):
        rng = np.random.default_rng(4)
        own = table.copy()
        beside = None
        if master is not None:
            beside = own.astype(np.float32) if master == "float32" else np.zeros(own.shape, np.int16)
        moments = [np.zeros(own.shape, dtype[state]) for _ in range(2)]
        for step in range(1, 4):
            values = rng.normal(size=(70, 3000)).astype(dtype[grad])
            rows = fs.SparseRows(rng.integers(0, 40, 70), values)
            function(own, rows, *moments, step=step, lr=0.1, master=beside, clip_value=1.5, zero_grads=zero_grads)
            assert values.any() != zero_grads
        left.append([own, *moments, *([] if beside is None else [beside])])
    for ours, theirs in zip(*left, strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_large_sums_on_any_number_of_threads() -> None:
    rng = np.random.default_rng(5)
    indices, values = rng.integers(0, 3000, 5000), rng.normal(size=(5000, 100)).astype(np.float32)
    expected = np.ones((4000, 100), np.float32)
    fs.reference.sgd(expected, fs.SparseRows(indices, values), None, step=1, lr=0.5)
    before = fs.get_num_threads()
    try:
        for threads in (1, 2, 5):
            fs.set_num_threads(threads)
            table = np.ones((4000, 100), np.float32)
            fs.functional.sgd(table, fs.SparseRows(indices, values), None, step=1, lr=0.5)
            assert table.tobytes() == expected.tobytes()
    finally:
        fs.set_num_threads(before)


def test_memory_of_the_sums_is_used_again() -> None:
    """Steps with more and with fewer rows, of several tables, beside dense gradients and none."""
    rng = np.random.default_rng(6)
    native: list[Any] = [rng.normal(size=(90, 5)).astype(np.float32) for _ in range(3)]
    reference = [table.copy() for table in native]
    optimizer = fs.SGD(native, lr=0.1)
    for count in (50, 3, 0, 200, 20):
        grads: list[Any] = [gradient(rng, (90, 5), count, np.float32) for _ in range(3)]
        if count == 20:
            grads[1] = None
        if count == 200:
            grads[0] = rng.normal(size=(90, 5)).astype(np.float32)
        optimizer.step(grads)
        for table, grad in zip(reference, grads, strict=True):
            if grad is not None:
                fs.reference.sgd(table, grad, None, step=1, lr=0.1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(native, reference, strict=True))


def test_bound_gradients_after_rows() -> None:
    rng = np.random.default_rng(8)
    dense, rows = rng.normal(size=(90, 5)), gradient(rng, (90, 5), 20, np.float64)
    native, reference = (np.ones((90, 5)) for _ in range(2))
    optimizer = fs.SGD(native, grads=dense, lr=0.1)
    for grad in (None, rows, None):
        optimizer.step(grad)
        fs.reference.sgd(reference, dense if grad is None else grad, None, step=1, lr=0.1)
    assert native.tobytes() == reference.tobytes()


def test_gradients_are_let_go() -> None:
    grad = gradient(np.random.default_rng(0), (10, 4), 3, np.float32)
    before = sys.getrefcount(grad.values), sys.getrefcount(grad.indices)
    optimizer = fs.SGD(np.ones((10, 4), np.float32))
    optimizer.step(grad)
    assert (sys.getrefcount(grad.values), sys.getrefcount(grad.indices)) == before


# --------------------------------------------------------------------------------------------------------------- errors

TWO = np.ones((2, 4), np.float32)


@pytest.mark.parametrize(
    ("indices", "values", "options"),
    [
        (np.array([1, 10]), TWO, {}),
        (np.array([1, -1], np.int32), TWO, {}),
        (np.array([2**62, 1]), TWO, {}),
        (np.array([1, 2], np.int16), TWO, {}),
        (np.array([1, 2], np.uint64), TWO, {}),
        (np.array([1, 2], ">i8"), TWO, {}),
        (np.array([[1, 2]]), TWO, {}),
        (np.array(1), TWO, {}),
        (np.arange(4)[::2], TWO, {}),
        ([1, 2], TWO, {}),
        (np.array([1, 2, 3]), TWO, {}),
        (np.array([1, 2]), TWO[:, :3], {}),
        (np.array([1, 2]), np.ones((4, 4), np.float32)[::2], {}),
        (np.array([1, 2]), TWO.reshape(2, 2, 2), {}),
        (np.array([1, 2]), TWO.astype(np.float64), {}),
        (np.array([1, 2]), TWO.astype(">f4"), {}),
        (np.array([1, 2]), TWO.astype(np.int32), {}),
        (np.array([1, 2]), [1.0], {}),
        (np.array([1, 2]), np.ma.masked_array(TWO), {}),
        (np.array([1, 2]), np.frombuffer(TWO.tobytes(), np.float32).reshape(2, 4), {"zero_grads": True}),
        (np.array([1, 2]), TWO, {"weight_decay": 0.1}),
        (np.array([1, 2]), TWO, {"rounding": "stochastic"}),
    ],
)
def test_errors_are_the_definitions(indices: Any, values: Any, options: dict[str, Any]) -> None:
    param = np.ones((10, 4), np.float32)
    raised = []
    for function in (fs.functional.sgd, fs.reference.sgd):
        with pytest.raises((TypeError, ValueError)) as caught:
            function(param, fs.SparseRows(indices, values), None, step=1, **options)
        raised.append((caught.type, str(caught.value)))
    assert raised[0] == raised[1]
    assert (param == 1).all()


def test_rows_in_the_memory_of_another_parameter() -> None:
    params = {"table": np.ones((10, 4), np.float32), "other": np.ones((2, 4), np.float32)}
    optimizer = fs.SGD(params)
    with pytest.raises(ValueError, match=r'grads\["table"\]: got memory that overlaps params\["other"\]'):
        optimizer.step({"table": fs.SparseRows(np.array([1, 3]), params["other"]), "other": TWO})
    assert all((param == 1).all() for param in params.values())


def test_a_class_of_ones_own() -> None:
    class Rows(fs.SparseRows):
        pass

    tables = [np.ones((10, 4), np.float32) for _ in range(2)]
    for table, kind in zip(tables, (fs.SparseRows, Rows), strict=True):
        fs.SGD(table, lr=0.1).step(kind(np.array([1, 3]), TWO))
    assert tables[0].tobytes() == tables[1].tobytes()
    assert (tables[0] != 1).sum() == 8


def test_rows_of_anything_can_be_shown() -> None:
    class Odd:
        def __len__(self) -> int:
            raise ValueError("odd")

        def __repr__(self) -> str:
            return "Odd()"

    assert repr(fs.SparseRows(Odd(), 3.0)) == "SparseRows(Odd(), 3.0)"  # type: ignore[arg-type]
