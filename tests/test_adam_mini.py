"""Adam-mini: native passes against the reference, independent sources, partitions into blocks, saving, errors."""

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
from fusedstep import formats
from fusedstep.reference import RULES

SHAPES = (
    *((), (1,), (5,), (5000,), (0,), (0, 4), (3, 0)),
    *((1, 1), (1, 7), (7, 1), (70, 300), (3, 2048), (3, 2100), (4, 4097), (3000, 2), (2, 3, 4), (4, 2, 3, 3)),
)
"""No axis to four, sizes of 0 and 1, blocks that are shorter and longer than those that are summed on their own."""

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "betas": (0.5, 0.75), "eps": 1e-3, "lr": 0.1},
    {"betas": (0.0, 0.0), "eps": 0.0},
    {"weight_decay": 0.1, "cautious": True},
)


def states(params: list[Array], moments: str = "float32", blocks: int = 0) -> dict[str, Any]:
    """The arguments of the functions."""
    first, second = RULES["adam_mini"].states
    kept: dict[str, list[Any]] = {"exp_avg": [], "exp_avg_sq": []}
    for p in params:
        compute = FLOAT64 if p.dtype == FLOAT64 else FLOAT32
        zeros: Any = np.zeros(p.shape, BFLOAT16 if moments == "bfloat16" else compute)
        if moments == "8bit":
            codes, scales = formats.encode_8bit(np.zeros(p.size, np.float32), signed=True)
            zeros = codes.reshape(p.shape), scales
        shape = second.shape(p.shape, {"blocks": blocks})
        assert shape is not None and first.shape(p.shape, {}) == p.shape
        kept["exp_avg"].append(zeros)
        kept["exp_avg_sq"].append(np.zeros(shape, compute))
    return kept


# ------------------------------------------------------------------------------------------ native and reference


@pytest.mark.parametrize("isa", fs.available_isas())
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("moments", ["float32", "bfloat16", "8bit"])
def test_functions_are_equal(options: dict[str, Any], dtype: Any, isa: str, moments: str) -> None:
    left: list[Any] = []
    with running(isa, 2), np.errstate(all="ignore"):
        for module in (fs.functional, fs.reference):
            params = arrays(dtype, 0, SHAPES)
            kept = states(params, moments)
            for step in (1, 2, 3):
                grads = arrays(dtype, 100 * step, SHAPES)
                assert module.adam_mini(params, grads, **kept, step=step, max_grad_norm=3.0, **options)
            left.append([params, kept])
    assert_same(left[0], left[1])


@pytest.mark.parametrize("moments", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("blocks", [1, 2, 12, 60, 2100, 4200])
def test_numbers_of_blocks(blocks: int, moments: str) -> None:
    """From one block to one for every element, along rows and across them."""
    left: list[Any] = []
    for module in (fs.functional, fs.reference):
        params = arrays(FLOAT32, 0, [(4200,), (42, 100), (2, 2100), (0, 3)])
        kept = states(params, moments, blocks)
        for step in (1, 2, 3):
            module.adam_mini(
                params, arrays(FLOAT32, 100 * step, [p.shape for p in params]), **kept, step=step, blocks=blocks
            )
        left.append([params, kept])
        assert {v.shape for v in kept["exp_avg_sq"]} == {(blocks,)}
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
                module.adam_mini(params, grads, **kept, step=step)
        left.append([params, kept])
    assert_same(left[0], left[1])


def test_schedules_and_groups() -> None:
    shapes = [(12, 20), (20,), (3, 4, 5)]
    params = arrays(FLOAT32, 0, shapes)
    groups = [{"params": params[:1], "lr": lambda t: 0.1 / (t + 1), "blocks": 4}, {"params": params[1:], "eps": 1e-3}]
    opt = fs.AdamMini(groups, weight_decay=lambda t: 0.1 * t)
    assert [state["exp_avg_sq"].shape for state in opt.state] == [(4,), (1,), (3,)]
    twin = Twin(opt)
    for step in range(4):
        grads = arrays(FLOAT32, 100 * step, shapes)
        assert twin.step(grads) and opt.step([grads[:1], grads[1:]])  # type: ignore[arg-type]
        twin.check(f"step {step}")
    opt.add_param_group({"params": np.ones((2, 3)), "blocks": 6})
    assert opt.step([grads[:1], grads[1:], np.ones((2, 3))])
    assert opt.state[3]["exp_avg_sq"].shape == (6,)


def test_a_block_is_a_part_of_the_flattened_parameter() -> None:
    """Blocks of one number are Adam's elements; two halves of a parameter step as two parameters."""
    shapes = [(12, 10)]
    whole, halves, adam = arrays(FLOAT64, 0, shapes), arrays(FLOAT64, 0, shapes)[0], arrays(FLOAT64, 0, shapes)
    opts: list[Any] = [fs.AdamMini(whole, blocks=2), fs.AdamMini([halves[:6], halves[6:]], blocks=1)]
    element = arrays(FLOAT64, 0, shapes)
    opts += [fs.AdamMini(element, blocks=120), fs.AdamW(adam, weight_decay=0.0)]
    for step in range(20):
        g = arrays(FLOAT64, 100 * step, shapes)[0]
        for opt, grads in zip(opts, ([g], [g[:6], g[6:]], [g], [g]), strict=True):
            opt.step(grads)
    assert_same(whole[0], halves)
    np.testing.assert_allclose(element[0], adam[0], rtol=1e-13)


# --------------------------------------------------------------------------------------------- saving


def test_state_has_names_and_shapes() -> None:
    opt, params = trained(fs.AdamMini)
    shapes = [{k: v.shape for k, v in view.items() if k != "step"} for view in opt.state]
    rows = {"W": 70, "b": 1, "K": 4, "s": 1}
    assert shapes == [{"exp_avg": params[n].shape, "exp_avg_sq": (rows[n],)} for n in params]
    elements = 70 * 30 + 30 + 72 + 1
    assert opt.memory()["exp_avg_sq"] == 4 * sum(rows.values()) / elements and opt.memory()["exp_avg"] == 4


def test_saved_in_other_formats() -> None:
    opt, _ = trained(fs.AdamMini)
    for format_ in ("bfloat16", "8bit"):
        saved = opt.state_dict(state_format=format_)["state"]
        assert all(saved[i]["exp_avg_sq"].dtype == FLOAT32 for i in range(4))
        trained(fs.AdamMini, steps=0, state_format=format_)[0].load_state_dict(opt.state_dict(state_format=format_))


def test_wrong_states_are_refused() -> None:
    opt, _ = trained(fs.AdamMini)
    before = snapshot(opt)
    for number, name, value, message in (
        (0, "exp_avg_sq", np.zeros((70, 1)), r'\["exp_avg_sq"\]: got shape \(70, 1\), needs \(70,\)'),
        (1, "exp_avg_sq", np.zeros(30), r'\["exp_avg_sq"\]: got shape \(30,\), needs \(1,\)'),
        (0, "exp_avg", np.zeros(70), r'\["exp_avg"\]: got shape \(70,\), needs \(70, 30\)'),
    ):
        saved = opt.state_dict()
        saved["state"][number][name] = value
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(saved)
    saved = opt.state_dict()
    del saved["state"][0]["exp_avg_sq"]
    with pytest.raises(ValueError, match='got no entry "exp_avg_sq"'):
        opt.load_state_dict(saved)
    other, _ = trained(fs.AdamMini, blocks={"W": 10, "b": 1, "K": 1, "s": 1})
    with pytest.raises(ValueError, match=r"got shape \(10,\), needs \(70,\)"):
        trained(fs.AdamMini)[0].load_state_dict(
            {**other.state_dict(), "param_groups": opt.state_dict()["param_groups"]}
        )
    assert_same(snapshot(opt), before)


# --------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("module", [fs.functional, fs.reference])
def test_functions_check_the_shapes_of_states(module: Any) -> None:
    p, g = np.ones((4, 3)), np.ones((4, 3))
    m, v = np.zeros((4, 3)), np.zeros(4)
    for first, second, options, kind, message in (
        (m, None, {}, TypeError, r"exp_avg_sq: got NoneType for a parameter of shape \(4, 3\), needs exp_avg and exp"),
        (m, np.zeros((4, 1)), {}, ValueError, r"exp_avg_sq: got shape \(4, 1\), needs \(4,\)"),
        (m, np.zeros(0), {}, ValueError, r"exp_avg_sq: got shape \(0,\), needs \(4,\)"),
        (m, v, {"blocks": 2}, ValueError, r"exp_avg_sq: got shape \(4,\), needs \(2,\)"),
        (m, v, {"blocks": 5}, ValueError, r"blocks: got 5 for a parameter of shape \(4, 3\), needs 0 or a divisor"),
        (m, v, {"blocks": -1}, ValueError, "blocks: got -1, needs >= 0"),
        (m, v, {"blocks": 2.0}, TypeError, "blocks: got 2.0 .float., needs an integer"),
        (m, v.astype(np.float32), {}, TypeError, "exp_avg_sq: got .*float32, needs float64"),
        (m, (v, v), {}, TypeError, "exp_avg_sq"),
        (m, p[:, 0], {}, ValueError, "exp_avg_sq"),
        (m, m[0], {"blocks": 3}, ValueError, "overlap"),
        (v, v.copy(), {}, ValueError, "exp_avg"),
    ):
        with pytest.raises(kind, match=message):
            module.adam_mini(p, g, first, second, step=1, **options)
    with pytest.raises(TypeError, match="got SparseRows, needs an array for adam_mini"):
        module.adam_mini(p, fs.SparseRows(np.array([0]), np.ones((1, 3))), m, v, step=1)
    assert (p == 1).all() and not m.any() and not v.any()


def test_what_does_not_combine_is_refused() -> None:
    W = np.ones((4, 3), np.float32)
    for options, kind, message in (
        ({"blocks": 5}, ValueError, r"blocks: got 5 for a parameter of shape \(4, 3\), needs 0 or a divisor of its 12"),
        ({"blocks": lambda t: 4}, TypeError, "blocks"),
        ({"blocks": True}, TypeError, "blocks.*: got True"),
        ({"eps": -1.0}, ValueError, "eps.*: got -1.0, needs >= 0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas.*\[1\]: got 1.0"),
        ({"amsgrad": True}, TypeError, "amsgrad"),
    ):
        with pytest.raises(kind, match=message):
            fs.AdamMini(W, **options)
    with pytest.raises(ValueError, match=r"^params\[\"b\"\]: blocks: got 5 for a parameter of shape \(4,\)"):
        fs.AdamMini({"a": np.ones(5), "b": np.ones(4)}, blocks=5)
    opt = fs.AdamMini(W)
    for change in (4, lambda t: 4):
        with pytest.raises(ValueError, match=r'\["blocks"\]: got .*, needs 0 as the optimizer was made with'):
            opt.param_groups[0]["blocks"] = change
    assert (W == 1).all()


# --------------------------------------------------------------------------------------------- independent sources


def test_agrees_with_a_loop() -> None:
    """100 steps of the paper's algorithm 1, element by element in Python: within 1e-12."""
    shapes = [(), (5,), (4, 3), (2, 3, 2)]
    params = arrays(FLOAT64, 0, shapes)
    opt = fs.AdamMini(params, lr=0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)
    blocks: list[Any] = []
    for p in params:
        rows = [p[i].reshape(-1).tolist() for i in range(len(p))] if p.ndim > 1 else [p.reshape(-1).tolist()]
        blocks.append([{"p": row, "m": [0.0] * len(row), "v": 0.0} for row in rows])
    for t in range(1, 101):
        grads = arrays(FLOAT64, 100 * t, shapes)
        opt.step(grads)
        for parts, grad in zip(blocks, grads, strict=True):
            flat = grad.reshape(len(parts), -1).tolist()
            for b, g in zip(parts, flat, strict=True):
                b["v"] = 0.9 * b["v"] + 0.1 * sum(x * x for x in g) / len(g)
                root = (b["v"] / (1 - 0.9**t)) ** 0.5 + 1e-4
                for i, x in enumerate(g):
                    b["m"][i] = 0.8 * b["m"][i] + 0.2 * x
                    b["p"][i] = b["p"][i] * (1 - 0.01 * 0.1) - 0.01 * b["m"][i] / (1 - 0.8**t) / root
    for p, parts in zip(params, blocks, strict=True):
        np.testing.assert_allclose(p.reshape(-1), [x for b in parts for x in b["p"]], rtol=1e-12)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_agrees_with_pytorch_optimizer(dtype: Any) -> None:
    """100 steps with heads for the queries, and one block for all else: within 2e-6 of the largest element.

    Its states are float32 for any parameter. Embeddings have Adam's there, a block for every element here.
    """
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("pytorch_optimizer")
    shapes, blocks = [(8, 8), (5, 6), (10, 4), (5,)], [2, 1, 40, 1]
    names = ["q_proj", "mlp", "embed", "mlp"]
    params = arrays(dtype, 0, shapes)

    class Holder(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, array: Array, name: str) -> None:
            super().__init__()
            self.register_module(name, torch.nn.Module())
            getattr(self, name).weight = torch.nn.Parameter(torch.from_numpy(array.copy()))

    model = torch.nn.Sequential(*(Holder(p, name) for p, name in zip(params, names, strict=True)))
    theirs = list(model.parameters())
    other = module.AdamMini(model, lr=0.01, weight_decay=0.1, num_embeds=8, num_heads=2)
    groups = [{"params": p, "blocks": n} for p, n in zip(params, blocks, strict=True)]
    opt = fs.AdamMini(groups, lr=0.01, weight_decay=0.1)
    for step in range(1, 101):
        grads = arrays(dtype, 100 * step, shapes)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(g)
        other.step()
        opt.step(grads)
    for a, b in zip(params, theirs, strict=True):
        assert np.abs(a - b.detach().numpy()).max() <= 2e-6 * np.abs(a).max()


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_agrees_with_the_authors_code(dtype: Any) -> None:
    """100 steps of the package adam-mini: within 1e-13 of the largest element in float64, 2e-6 in float32.

    Rows for embeddings, values, projections and MLPs, heads for queries and keys, Adam for biases.
    """
    torch = pytest.importorskip("torch")
    module = pytest.importorskip("adam_mini")
    shapes: dict[str, tuple[int, ...]] = {
        **{"embed": (10, 8), "wq": (8, 8), "wv": (8, 8), "wo": (8, 8), "mlp.weight": (16, 8)},
        **{"mlp.bias": (16,), "kernel.mlp": (4, 2), "output": (10, 8)},
    }
    blocks = {"wq": 2, "mlp.bias": 16}
    params = dict(zip(shapes, arrays(dtype, 0, shapes.values()), strict=True))
    theirs = {name: torch.nn.Parameter(torch.from_numpy(p.copy())) for name, p in params.items()}
    given: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    other = module.Adam_mini(list(theirs.items()), **given, dim=8, n_heads=2, verbose=False)
    groups = [
        {"params": p, "blocks": blocks.get(name, 0), "weight_decay": 0.1 * ("bias" not in name)}
        for name, p in params.items()
    ]
    opt = fs.AdamMini(groups, **given)
    for step in range(1, 101):
        grads = arrays(dtype, 100 * step, shapes.values())
        for p, g in zip(theirs.values(), grads, strict=True):
            p.grad = torch.from_numpy(g)
        other.step()
        opt.step(grads)
    for name, p in params.items():
        difference = np.abs(p - theirs[name].detach().numpy()).max()
        assert difference <= (1e-13 if dtype == FLOAT64 else 2e-6) * np.abs(p).max(), name
