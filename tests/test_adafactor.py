"""Adafactor: native passes against the reference, the reference against torch and transformers, shapes of states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Array,
    Twin,
    arrays,
    assert_same,
    numbers,
    running,
    snapshot,
    trained,
)

import fusedstep as fs
from fusedstep.reference import RULES
from fusedstep.reference._arithmetic import squares_of_columns, squares_of_rows, sum_of_squares

SHAPES = (
    *((), (1,), (5,), (2500,), (0,), (0, 4), (3, 0)),
    *((1, 1), (1, 7), (7, 1), (4, 3), (70, 300), (3, 2100), (200, 2200), (5000, 2)),
    *((2, 3, 4), (3, 100, 40), (4, 2, 3, 3), (2, 0, 3), (1500, 2, 1, 1), (50, 30, 3, 3), (90, 7, 17), (130, 257)),
)
"""No axis to four, sizes of 0 and 1; matrices of one chunk of rows and of several, of one block of columns or more,
many in one block; rows that are stepped one by one."""

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "d": 2.0, "beta2_decay": -0.5, "lr": 0.5, "eps": (1e-3, 0.1)},
    {"relative_step": False, "scale_parameter": False, "lr": 1e-3, "beta2_decay": 0.0},
    {"like_transformers": True, "eps": (1e-30, 1e-3), "weight_decay": 0.1},
    {"like_transformers": True, "eps": (0.0, 0.0), "relative_step": False},
)


def states(params: list[Array], fill: float = 0.0) -> dict[str, Any]:
    """The arguments of the functions."""
    compute = FLOAT64 if params[0].dtype == FLOAT64 else FLOAT32
    return {
        state.name: [None if (s := state.shape(p.shape, {})) is None else np.full(s, fill, compute) for p in params]
        for state in RULES["adafactor"].states
    }


# ------------------------------------------------------------------------------------------ native and reference


@pytest.mark.parametrize("isa", fs.available_isas())
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_functions_are_equal(options: dict[str, Any], dtype: Any, isa: str) -> None:
    left: list[Any] = []
    with running(isa, 2):
        for module in (fs.functional, fs.reference):
            params = arrays(dtype, 0, SHAPES)
            kept = states(params)
            for step in (1, 2, 3):
                grads = arrays(dtype, 100 * step, SHAPES)
                assert module.adafactor(params, grads, **kept, step=step, max_grad_norm=3.0, **options)
            left.append([params, *([a for a in kept[name] if a is not None] for name in kept)])
    assert_same(left[0], left[1])


@pytest.mark.parametrize("special", [0.01, 1.0])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_any_numbers(dtype: Any, special: float) -> None:
    """Infinities, NaN, zeros and numbers at the ends of the range."""
    left: list[Any] = []
    for module in (fs.functional, fs.reference):
        params = arrays(dtype, 0, SHAPES)
        kept = states(params)
        with np.errstate(all="ignore"):
            for step in (1, 2):
                grads = [numbers(p.shape, dtype, step + i, special=special) for i, p in enumerate(params)]
                module.adafactor(params, grads, **kept, step=step)
        left.append([params, *([a for a in kept[name] if a is not None] for name in kept)])
    assert_same(left[0], left[1])


def test_sums_are_those_of_a_matrix() -> None:
    matrices = numbers((2, 130, 2100), FLOAT32, 3)
    rows, columns = squares_of_rows(matrices), squares_of_columns(matrices)
    assert [sum_of_squares(row) for row in matrices[1]] == list(rows[1])
    squares = matrices.astype(np.float64) ** 2
    np.testing.assert_allclose(rows, squares.sum(2), rtol=1e-13)
    np.testing.assert_allclose(columns, squares.sum(1), rtol=1e-13)


def test_schedules_and_groups() -> None:
    params = arrays(FLOAT32, 0, [(12, 20), (20,), (3, 4, 5)])
    groups = [{"params": params[:1], "lr": lambda t: 0.1 / (t + 1)}, {"params": params[1:], "eps": (1e-3, 1e-2)}]
    opt = fs.Adafactor(groups, weight_decay=lambda t: 0.1 * t)
    twin = Twin(opt)
    for step in range(4):
        grads = arrays(FLOAT32, 100 * step, [(12, 20), (20,), (3, 4, 5)])
        assert twin.step(grads) and opt.step([grads[:1], grads[1:]])  # type: ignore[arg-type]
        twin.check(f"step {step}")
    opt.add_param_group({"params": np.ones((2, 3))})
    assert opt.step([grads[:1], grads[1:], np.ones((2, 3))])
    assert opt.state[3]["row_var"].shape == (2, 1) and opt.param_groups[2]["eps"] == (None, 1e-3)


def test_a_tree_of_options() -> None:
    """A pair with None is one value; trees of pairs make groups."""
    params = {"a": np.ones((2, 2)), "b": np.ones((2, 2))}
    assert len(fs.Adafactor(params, eps=(None, 0.1)).param_groups) == 1
    opt = fs.Adafactor(params, eps={"a": (None, 1e-3), "b": (0.1, 1e-3)})  # type: ignore[arg-type]
    assert [group["eps"] for group in opt.param_groups] == [(None, 1e-3), (0.1, 1e-3)]


# --------------------------------------------------------------------------------------------- saving


def test_state_has_names_and_shapes() -> None:
    opt, _ = trained(fs.Adafactor)
    shapes = [{k: v.shape for k, v in view.items() if k != "step"} for view in opt.state]
    matrix = {"row_var": (70, 1), "col_var": (1, 30)}
    assert shapes == [matrix, {"variance": (30,)}, {"row_var": (4, 2, 3, 1), "col_var": (4, 2, 1, 3)}, {"variance": ()}]
    elements = 70 * 30 + 30 + 72 + 1
    assert opt.memory()["row_var"] == 4 * (70 + 24) / elements
    assert opt.memory()["col_var"] == 4 * (30 + 24) / elements


def test_wrong_states_are_refused() -> None:
    opt, _ = trained(fs.Adafactor)
    before = snapshot(opt)
    for number, name, value, message in (
        (0, "row_var", np.zeros((70,)), r'\["row_var"\]: got shape \(70,\), needs \(70, 1\)'),
        (0, "col_var", np.zeros((30, 1)), r'\["col_var"\]: got shape \(30, 1\), needs \(1, 30\)'),
        (0, "variance", np.zeros((70, 30)), r'\["variance"\]: got shape \(70, 30\), needs none'),
        (1, "row_var", np.zeros((30, 1)), r'\["row_var"\]: got shape \(30, 1\), needs none'),
    ):
        saved = opt.state_dict()
        saved["state"][number][name] = value
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(saved)
    saved = opt.state_dict()
    del saved["state"][0]["col_var"]
    with pytest.raises(ValueError, match='got no entry "col_var"'):
        opt.load_state_dict(saved)
    assert_same(snapshot(opt), before)


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("module", [fs.functional, fs.reference])
def test_functions_check_the_shapes_of_states(module: Any) -> None:
    p, g = np.ones((4, 3)), np.ones((4, 3))
    rows, columns = np.zeros((4, 1)), np.zeros((1, 3))
    for wrong, kind, message in (
        (
            {"row_var": rows},
            TypeError,
            r"col_var: got NoneType for a parameter of shape \(4, 3\), needs row_var and col",
        ),
        ({"variance": np.zeros((4, 3))}, TypeError, r"row_var: got NoneType for a parameter of shape \(4, 3\)"),
        ({"row_var": rows, "col_var": np.zeros((3, 1))}, ValueError, r"col_var: got shape \(3, 1\), needs \(1, 3\)"),
        ({"row_var": np.zeros(4), "col_var": columns}, ValueError, r"row_var: got shape \(4,\), needs \(4, 1\)"),
        (
            {"row_var": rows.astype(np.float32), "col_var": columns},
            TypeError,
            "row_var: got .*float32, needs float64",
        ),
        ({"row_var": (rows, rows), "col_var": columns}, TypeError, "row_var"),
        ({"row_var": rows, "col_var": p[:1]}, ValueError, "overlap"),
    ):
        with pytest.raises(kind, match=message):
            module.adafactor(p, g, **wrong, step=1)
    with pytest.raises(TypeError, match=r"row_var: got ndarray for a parameter of shape \(3,\), needs variance"):
        module.adafactor(p[0], g[0], rows, columns, np.zeros(3), step=1)
    assert (p == 1).all() and not rows.any() and not columns.any()


def test_what_does_not_combine_is_refused() -> None:
    W = np.ones((4, 3), np.float32)
    for options, kind, message in (
        (
            {"state_format": "8bit"},
            ValueError,
            "state_format: got '8bit', needs 'float32' for adafactor",
        ),
        ({"state_format": "bfloat16"}, ValueError, "state_format"),
        ({"cautious": True}, ValueError, "cautious: got True, needs False with adafactor"),
        ({"eps": (0.1, None)}, TypeError, r"eps\[1\]: got None"),
        ({"eps": 1e-3}, TypeError, "eps: got 0.001 .float., needs a pair of real numbers"),
        ({"eps": (-1.0, 1e-3)}, ValueError, r"eps\[0\]: got -1.0, needs >= 0"),
        ({"d": 0.5}, ValueError, "d: got 0.5, needs >= 1"),
        ({"beta2_decay": 0.1}, ValueError, "beta2_decay: got 0.1, needs <= 0 and finite"),
        ({"relative_step": 1}, TypeError, "relative_step: got 1"),
        ({"betas": (0.9, 0.99)}, TypeError, "betas"),
    ):
        with pytest.raises(kind, match=message):
            fs.Adafactor(W, **options)
    assert (W == 1).all()


# --------------------------------------------------------------------------------------------- independent sources


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1, "lr": 0.05, "beta2_decay": -0.5, "d": 2.0}, {"eps": (1e-3, 0.1), "maximize": True}],
    ids=str,
)
def test_agrees_with_torch(options: dict[str, Any], dtype: Any) -> None:
    """100 steps: within 1e-13 of the largest element in float64, 2e-6 in float32."""
    torch = pytest.importorskip("torch")
    if not hasattr(torch.optim, "Adafactor"):
        pytest.skip("torch.optim has no Adafactor before torch 2.5")
    shapes = [(), (5,), (1, 7), (7, 1), (70, 300), (2, 3, 4), (4, 2, 3, 3)]
    params = arrays(dtype, 0, shapes)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    other, kept = torch.optim.Adafactor(theirs, **options), states(params)
    for step in range(1, 101):
        grads = arrays(dtype, 100 * step, shapes)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g)
        other.step()
        fs.reference.adafactor(params, grads, **kept, step=step, **options)
    close(params, [p.detach().numpy() for p in theirs], 1e-13 if dtype == FLOAT64 else 2e-6)
    for name, values in kept.items():
        for p, value in zip(theirs, values, strict=True):
            if value is not None:
                close([value], [other.state[p][name].numpy()], 1e-13 if dtype == FLOAT64 else 2e-6)


@pytest.mark.parametrize("options", [{}, {"scale_parameter": False, "relative_step": False}], ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_agrees_with_transformers(options: dict[str, Any], decay: float) -> None:
    """100 steps in float32: within 2e-5 of the largest element."""
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("transformers.optimization")
    shapes = [(5,), (7, 1), (70, 300), (2, 3, 4), (4, 2, 3, 3)]
    params = arrays(FLOAT32, 0, shapes)
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    lr: dict[str, Any] = {} if not options else {"lr": 1e-3}
    other = module.Adafactor(theirs, weight_decay=decay, **options, **lr)
    opt = fs.Adafactor(params, weight_decay=decay, eps=(1e-30, 1e-3), like_transformers=True, **options, **lr)
    for step in range(1, 101):
        grads = arrays(FLOAT32, 100 * step, shapes)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g)
        other.step()
        opt.step(grads)
    close(params, [p.detach().numpy() for p in theirs], 2e-5)


def close(mine: list[Array], theirs: list[Array], tolerance: float) -> None:
    for a, b in zip(mine, theirs, strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max()
