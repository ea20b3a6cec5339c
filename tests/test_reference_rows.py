"""Gradients of some rows of a table: the rows given change as torch's do, and nothing else does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusedstep import formats, reference
from fusedstep.sparse import SparseRows

Array = NDArray[Any]
ROWS, WIDTH = 50, 6
# rule, options, torch's optimizer and its options
CASES = [
    ("sgd", {"lr": 0.1}, "SGD", {"lr": 0.1}),
    ("adagrad", {"lr": 0.1, "lr_decay": 0.01}, "Adagrad", {"lr": 0.1, "lr_decay": 0.01}),
    ("sparse_adam", {"lr": 0.1, "betas": (0.8, 0.99)}, "SparseAdam", {"lr": 0.1, "betas": (0.8, 0.99)}),
]
RULES = [case[:2] for case in CASES]


def rows_of(rng: np.random.Generator, dtype: Any = np.float64) -> SparseRows:
    """Some rows, some of them several times."""
    return SparseRows(rng.integers(0, ROWS, 12), rng.standard_normal((12, WIDTH)).astype(dtype))


def begin(rule: str, dtype: Any = np.float64) -> list[Array]:
    table = np.random.default_rng(1).uniform(5, 10, (ROWS, WIDTH)).astype(dtype)
    facts = reference.RULES[rule]
    return [table, *(np.zeros_like(table) for _ in facts.used(facts.hypers))]


def step(rule: str, values: list[Any], grad: Any, **options: Any) -> None:
    getattr(reference, rule)(values[0], grad, *values[1:], **options)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled")
@pytest.mark.parametrize(("rule", "options", "name", "torch_options"), CASES)
@pytest.mark.parametrize("maximize", [False, True])
def test_against_torch(
    rule: str, options: dict[str, Any], name: str, torch_options: dict[str, Any], maximize: bool
) -> None:
    torch = pytest.importorskip("torch")
    values = begin(rule)
    parameter = torch.nn.Parameter(torch.from_numpy(values[0].copy()))
    optimizer = getattr(torch.optim, name)([parameter], maximize=maximize, **torch_options)
    rng = np.random.default_rng(0)
    for number in range(1, 101):
        grad = rows_of(rng)
        parameter.grad = torch.sparse_coo_tensor(
            torch.from_numpy(grad.indices)[None], torch.from_numpy(grad.values), (ROWS, WIDTH), check_invariants=True
        )
        optimizer.step()
        step(rule, values, grad, step=number, maximize=maximize, **options)
    np.testing.assert_allclose(values[0], parameter.detach().numpy(), rtol=1e-12)
    for state, state_facts in zip(values[1:], reference.RULES[rule].states, strict=False):
        np.testing.assert_allclose(state, optimizer.state[parameter][state_facts.name].numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("rule", "options"), RULES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rows_step_as_a_table_of_their_own(rule: str, options: dict[str, Any], dtype: Any) -> None:
    rng = np.random.default_rng(2)
    whole = [value + dtype(0.5) for value in begin(rule, dtype)]
    before = [value.copy() for value in whole]
    grad = rows_of(rng, dtype)
    rows, sums = grad.summed(np.dtype(dtype))
    part = [value[rows] for value in whole]
    extra = {"max_grad_norm": 0.5, "clip_value": 0.1, "grad_scale": 2.0}
    step(rule, whole, grad, step=7, **options, **extra)
    step(rule, part, sums, step=7, **options, **extra)
    others = np.setdiff1d(np.arange(ROWS), rows)
    for value, own, old in zip(whole, part, before, strict=True):
        assert value[rows].tobytes() == own.tobytes()
        assert value[others].tobytes() == old[others].tobytes()


@pytest.mark.parametrize("rule", ["sgd", "adagrad"])
def test_other_rows_would_not_have_changed_anyway(rule: str) -> None:
    sparse, dense = begin(rule, np.float32), begin(rule, np.float32)
    rng = np.random.default_rng(3)
    for number in range(1, 20):
        grad = rows_of(rng, np.float32)
        rows, sums = grad.summed(np.dtype(np.float32))
        full = np.zeros((ROWS, WIDTH), dtype=np.float32)
        full[rows] = sums
        step(rule, sparse, grad, step=number)
        step(rule, dense, full, step=number)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(sparse, dense, strict=True))


def test_repeated_rows_are_added_in_their_order() -> None:
    values = np.array([[1e8], [2.0], [1.0], [-1e8], [3.0]], dtype=np.float32)
    rows, sums = SparseRows(np.array([7, 2, 7, 7, 7], dtype=np.int32), values).summed(np.dtype(np.float32))
    np.testing.assert_array_equal(rows, [2, 7])
    np.testing.assert_array_equal(sums, [[2.0], [3.0]])  # (1e8 + 1) - 1e8 is 0 in float32
    _, zero = SparseRows(np.array([1]), np.array([-0.0])).summed(np.dtype(np.float64))
    assert np.signbit(zero[0])


@pytest.mark.parametrize(
    ("indices", "values", "error", "message"),
    [
        ([1], np.ones((1, 2)), TypeError, "indices: got list, needs a NumPy array"),
        (np.array([1]), [[1.0, 2.0]], TypeError, "values: got list, needs a NumPy array"),
        (np.array([1]), None, TypeError, "values: got NoneType"),
        (np.array([1.0]), np.ones((1, 2)), TypeError, "indices: got dtype float64, needs integers"),
        (np.array([True]), np.ones((1, 2)), TypeError, "indices: got dtype bool"),
        (np.array([1]), np.ones((1, 2), complex), TypeError, "values: got dtype complex128, needs real numbers"),
        (np.array([1]), np.ma.masked_array(np.ones((1, 2)), True), TypeError, "values: got MaskedArray"),
        (np.ma.masked_array([1], True), np.ones((1, 2)), TypeError, "indices: got MaskedArray"),
        (np.array([1]), np.ones((2, 2)), ValueError, "needs one axis of indices and a value for each"),
        (np.array(1), np.ones((1, 2)), ValueError, "needs one axis of indices"),
        (np.array([[1]]), np.ones((1, 2)), ValueError, "needs one axis of indices"),
        (np.array([1]), np.ones(()), ValueError, "needs one axis of indices"),
    ],
)
def test_sums_of_what_are_no_rows(indices: Any, values: Any, error: type[Exception], message: str) -> None:
    rows = SparseRows(indices, values)
    assert repr(rows).startswith("SparseRows(")
    with pytest.raises(error, match=message):
        rows.summed(np.dtype(np.float32))


def test_bfloat16_rows() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    table, moment, square = begin("sparse_adam", np.float32)
    table[:, 0] = np.nan  # a NaN of another pattern must survive where no gradient falls
    bits = formats.encode_bfloat16(table)
    bits[:, 0] = 0x7FFF
    param, grad = bits.view(bfloat16), rows_of(np.random.default_rng(5), bfloat16)
    exact = param.astype(np.float32)
    step("sparse_adam", [param, moment, square], grad, step=1)
    rows, sums = grad.summed(np.dtype(np.float32))
    part = [exact[rows], np.zeros_like(exact[rows]), np.zeros_like(exact[rows])]
    step("sparse_adam", part, sums, step=1)
    others = np.setdiff1d(np.arange(ROWS), rows)
    assert param.view(np.uint16)[rows].tobytes() == formats.encode_bfloat16(part[0]).tobytes()
    assert (param.view(np.uint16)[others, 0] == 0x7FFF).all()


def test_no_rows() -> None:
    values = begin("sparse_adam")
    before = [value.copy() for value in values]
    step("sparse_adam", values, SparseRows(np.zeros(0, dtype=int), np.zeros((0, WIDTH))), step=1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(values, before, strict=True))


def test_zeroed_and_skipped() -> None:
    values, grad = begin("sgd"), rows_of(np.random.default_rng(0))
    step("sgd", values, grad, step=1, zero_grads=True)
    assert not grad.values.any()
    grad.values[3, 2] = np.nan
    before = values[0].copy()
    step("sgd", values, grad, step=2, skip_nonfinite=True, zero_grads=True)
    assert values[0].tobytes() == before.tobytes()
    assert np.isnan(grad.values[3, 2])


@pytest.mark.parametrize(
    ("rule", "indices", "shape", "options", "error", "message"),
    [
        ("sgd", np.array([0, ROWS]), (2, WIDTH), {}, ValueError, r"grad.indices\[1\]: got 50, needs a row from 0 to"),
        ("sgd", np.array([-1]), (1, WIDTH), {}, ValueError, r"grad.indices\[0\]: got -1, needs a row from 0 to 49"),
        ("sgd", np.array([1.0]), (1, WIDTH), {}, TypeError, r"grad.indices: got float64, needs int32 or int64"),
        ("sgd", np.array([[1]]), (1, WIDTH), {}, ValueError, r"grad.indices: got .*, needs one axis"),
        ("sgd", [1], (1, WIDTH), {}, TypeError, r"grad.indices: got .*, needs a NumPy array"),
        ("sgd", np.array([1]), (2, WIDTH), {}, ValueError, r"grad.values: got shape \(2, 6\), needs \(1, 6\)"),
        (
            "sgd",
            np.array([1]),
            (1, WIDTH),
            {"weight_decay": 0.1},
            ValueError,
            r"got SparseRows with weight_decay=.*, needs weight_decay=0",
        ),
        ("adagrad", np.array([1]), (1, WIDTH), {"rounding": "stochastic"}, ValueError, r"needs rounding='nearest'"),
        (
            "adamax",
            np.array([1]),
            (1, WIDTH),
            {},
            TypeError,
            r"got SparseRows, needs an array for adamax; rules that take",
        ),
    ],
)
def test_errors(
    rule: str, indices: Any, shape: tuple[int, int], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    values = begin(rule)
    before = [value.copy() for value in values]
    with pytest.raises(error, match=message):
        step(rule, values, SparseRows(indices, np.zeros(shape)), step=1, **options)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(values, before, strict=True))


def test_momentum_would_change_every_row() -> None:
    grad = SparseRows(np.array([1]), np.zeros((1, WIDTH)))
    table = np.zeros((ROWS, WIDTH))
    with pytest.raises(
        ValueError, match=r"got SparseRows with momentum=0\.9, which would change every row, needs momentum=0"
    ):
        reference.sgd(table, grad, np.zeros_like(table), step=1, momentum=0.9)


def test_eight_bit_states_have_no_rows() -> None:
    table = np.zeros((ROWS, WIDTH), dtype=np.float32)
    state = [formats.encode_8bit(table, signed) for signed in (True, False)]
    grad = SparseRows(np.array([1]), np.zeros((1, WIDTH), dtype=np.float32))
    with pytest.raises(TypeError, match="got SparseRows, needs an array with states of 8 bits"):
        reference.sparse_adam(table, grad, *state, step=1)
