"""Adafactor for torch: against torch.optim.Adafactor, against `fusedstep.Adafactor`, saving, layouts and errors."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, assert_same, numbers

torch: Any = pytest.importorskip("torch")
from torch_training import array, tensor  # noqa: E402

import fusedstep as fs  # noqa: E402
from fusedstep.reference import RULES  # noqa: E402

ft: Any = pytest.importorskip("fusedstep.torch")

SHAPES = ((), (5,), (0, 4), (1, 7), (7, 1), (70, 300), (2, 3, 4), (4, 2, 3, 3))
needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="torch 2.4 has no Adafactor")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "lr": 0.05, "beta2_decay": -0.5, "d": 2.0},
    {"eps": (1e-3, 0.1), "maximize": True},
)


def parameters(dtype: Any = FLOAT32, shapes: Any = SHAPES) -> list[Any]:
    return [torch.nn.Parameter(tensor(numbers(s, dtype, i, scale=0.1))) for i, s in enumerate(shapes)]


def step(optimizer: Any, params: list[Any], seed: int) -> list[Array]:
    """Steps with random gradients, and returns them."""
    dtypes = {torch.float64: FLOAT64, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
    grads = [numbers(tuple(p.shape), dtypes.get(p.dtype, FLOAT32), seed + i) for i, p in enumerate(params)]
    for p, g in zip(params, grads, strict=True):
        p.grad = tensor(g)
    optimizer.step()
    return grads


def trained(steps: int = 3, **options: Any) -> tuple[Any, list[Any]]:
    params = parameters()
    opt = ft.Adafactor(params, **options)
    for t in range(steps):
        step(opt, params, 100 * t)
    return opt, params


@needs_torchs
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_with_torch(options: dict[str, Any], dtype: Any) -> None:
    """100 steps: within 1e-13 of the largest element in float64, 2e-6 in float32; states have torch's shapes."""
    shapes = [s for s in SHAPES if s != (0, 4)]  # by which torch divides
    mine, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    opt, other = ft.Adafactor(mine, **options), torch.optim.Adafactor(theirs, **options)
    assert isinstance(opt, torch.optim.Adafactor)
    tolerance = 1e-13 if dtype == FLOAT64 else 2e-6
    for t in range(100):
        step(opt, mine, 100 * t)
        step(other, theirs, 100 * t)
    for p, q in zip(mine, theirs, strict=True):
        assert (p - q).abs().max() <= tolerance * q.abs().max()
        assert list(opt.state[p]) == list(other.state[q])
        for name, value in other.state[q].items():
            assert opt.state[p][name].shape == value.shape
            assert (opt.state[p][name] - value).abs().max() <= tolerance * value.abs().max()


@needs_torchs
def test_signature_is_torchs() -> None:
    given, theirs = inspect.signature(ft.Adafactor).parameters, inspect.signature(torch.optim.Adafactor).parameters
    assert [name for name in given if name != "options"] == list(theirs)
    group = ft.Adafactor(parameters()).param_groups[0]
    assert {name: group[name] for name in RULES["adafactor"].hypers} == RULES["adafactor"].hypers
    with pytest.raises(ValueError, match="Clipping threshold d should be >= 1"):
        ft.Adafactor(parameters(), d=0.5)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (FLOAT32, {"ema_decay": 0.9, "max_grad_norm": 1.0, "weight_decay": 0.1}),
        (FLOAT64, {"eps": (1e-3, 0.1), "clip_value": 0.1}),
        (FLOAT16, {"master": "float32"}),
        (FLOAT16, {"rounding": "stochastic", "seed": 3}),
        (BFLOAT16, {"master": "split", "skip_nonfinite": True}),
        (BFLOAT16, {"relative_step": False, "scale_parameter": False, "like_transformers": True, "eps": (1e-30, 1e-3)}),
    ],
    ids=str,
)
def test_same_bytes_as_for_numpy(dtype: Any, options: dict[str, Any]) -> None:
    params = parameters(dtype)
    arrays = [array(p).copy() for p in params]
    opt, other = ft.Adafactor(params, **options), fs.Adafactor(arrays, **options)
    for t in range(3):
        grads = step(opt, params, 100 * t)
        other.step(grads)
    assert_same([array(p) for p in params], arrays)
    for p, view in zip(params, other.state, strict=True):
        for name in ("row_var", "col_var", "variance", "ema", "master", "remainder"):
            assert (name in view) == (name in opt.state[p])
            if name in view:
                assert_same(array(opt.state[p][name]), view[name])


def test_any_order_in_memory() -> None:
    """Parameters and gradients of any strides have the bytes of contiguous ones."""
    images = torch.from_numpy(numbers((4, 3, 5, 5), FLOAT32, 1))
    wide = torch.from_numpy(numbers((8, 6), FLOAT32, 2))
    odd = [images.to(memory_format=torch.channels_last), wide.clone().t(), wide.clone()[:, ::2], wide.clone().t()[1:5]]
    mine = [torch.nn.Parameter(o) for o in odd]
    plain = [torch.nn.Parameter(o.clone(memory_format=torch.contiguous_format)) for o in odd]
    assert not any(p.is_contiguous() for p in mine)
    opt, other = ft.Adafactor(mine, ema_decay=0.5), ft.Adafactor(plain, ema_decay=0.5)
    for t in range(3):
        step(opt, mine, 10 * t)
        step(other, plain, 10 * t)
    for p, q in zip(mine, plain, strict=True):
        assert torch.equal(p, q) and all(
            torch.equal(opt.state[p][name], other.state[q][name]) for name in other.state[q]
        )
    again = ft.Adafactor(mine, ema_decay=0.5)
    again.load_state_dict(opt.state_dict())
    step(again, mine, 50)
    step(other, plain, 50)
    assert all(torch.equal(p, q) for p, q in zip(mine, plain, strict=True))


@needs_torchs
def test_state_dicts_go_both_ways() -> None:
    shapes = [s for s in SHAPES if s != (0, 4)]
    mine, theirs = parameters(FLOAT64, shapes), parameters(FLOAT64, shapes)
    opt, other = ft.Adafactor(mine), torch.optim.Adafactor(theirs)
    step(opt, mine, 0)
    step(other, theirs, 0)
    saved = opt.state_dict()
    opt.load_state_dict(other.state_dict())
    other.load_state_dict(saved)
    step(opt, mine, 50)
    step(other, theirs, 50)
    for p, q in zip(mine, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-15)


def test_resumed_training_has_the_same_bytes(tmp_path: Any) -> None:
    opt, params = trained(weight_decay=0.1)
    opt.save(tmp_path / "run.npz")
    copied, pickled = (
        copy.deepcopy((opt, params)),
        pickle.loads(pickle.dumps((opt, params))),
    )
    fresh = parameters()
    other = ft.Adafactor(fresh, weight_decay=0.1)
    other.load(tmp_path / "run.npz")
    anew = parameters()
    loaded = ft.Adafactor(anew)
    loaded.load_state_dict(opt.state_dict())
    with torch.no_grad():
        for those in (fresh, anew):
            for p, q in zip(those, params, strict=True):
                p.copy_(q)
    pairs = [(opt, params), copied, pickled, (other, fresh), (loaded, anew)]
    for one, those in pairs:
        step(one, those, 77)
        assert_same([array(p) for p in those], [array(p) for p in params])


def test_wrong_states_are_refused() -> None:
    opt, _ = trained()
    saved = opt.state_dict()
    for name, value, message in (
        ("row_var", torch.zeros(70), r"\[\"row_var\"\]: got shape \(70,\), needs \(70, 1\)"),
        ("variance", torch.zeros(70, 300), r"\[\"variance\"\]: got a state for another shape, needs row_var, col_var"),
    ):
        wrong = copy.deepcopy(saved)
        wrong["state"][5][name] = value
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(wrong)
    after = opt.state_dict()["state"]
    for i, state in saved["state"].items():
        assert all(torch.equal(value, after[i][name]) for name, value in state.items())


def shape_of(p: Any, new: Any) -> None:
    p.data, p.grad = new, torch.ones_like(new)


def freed(_: Any, p: Any) -> None:
    p.data = torch.ones(70, 30)
    p.untyped_storage().resize_(0)


def shared(opt: Any, p: Any) -> None:
    opt.state[p]["col_var"] = opt.state[p]["row_var"][:30].view(1, 30)


CHANGES: tuple[tuple[Any, type[Exception], str], ...] = (
    (lambda opt, p: opt.state[p].update(row_var=torch.zeros(70)), ValueError, r"row_var has shape \(70,\)"),
    (lambda opt, p: opt.state[p]["col_var"].t_(), ValueError, r"col_var has shape \(30, 1\).*needs shape \(1, 30\)"),
    (lambda opt, p: opt.state[p]["row_var"].resize_(3), ValueError, r"row_var has shape \(3,\)"),
    (lambda opt, p: opt.state[p]["col_var"].untyped_storage().resize_(0), ValueError, "col_var: its memory was freed"),
    (shared, ValueError, "row_var and .* col_var overlap in memory"),
    (lambda opt, p: shape_of(p, torch.ones(30, 70)), ValueError, r"row_var has shape \(70, 1\).*needs shape \(30, 1\)"),
    (
        lambda opt, p: shape_of(p, torch.ones(2100)),
        ValueError,
        "row_var: got a state for another shape",
    ),
    (lambda opt, p: p.grad.resize_(3), ValueError, r"has shape \(3,\), needs \(70, 30\)"),
    (freed, ValueError, "was freed or resized"),
    (lambda opt, p: setattr(p, "grad", p.grad.to_sparse()), TypeError, "adafactor does not support sparse gradients"),
)


@pytest.mark.parametrize(("change", "kind", "message"), CHANGES)
def test_what_was_changed_since_is_refused(change: Any, kind: type[Exception], message: str) -> None:
    """Parameters, states and gradients of other shapes or without memory: nothing is written."""
    params = parameters(shapes=[(70, 30), (5,), (4, 3)])
    opt = ft.Adafactor(params)
    step(opt, params, 0)
    step(opt, params, 10)
    change(opt, params[0])
    before = [copy.deepcopy((p.data, opt.state[p])) for p in params[1:]]
    with pytest.raises(kind, match=message):
        opt.step()
    for p, (data, state) in zip(params[1:], before, strict=True):
        assert torch.equal(p, data) and all(torch.equal(opt.state[p][name], state[name]) for name in state)


DISTRIBUTED = """
import torch, torch.distributed as dist
import fusedstep.torch as ft
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
param = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
try:
    opt = ft.Adafactor([param])
    param.grad = torch.ones_like(param)
    opt.step()
except ValueError as error:
    assert str(error).startswith("params[0][0]: got a distributed tensor, needs whole matrices"), error
else:
    raise AssertionError("no error")
assert (param.full_tensor() == 1).all()
dist.destroy_process_group()
"""


def test_distributed_tensors_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_does_not_combine_is_refused() -> None:
    for options, message in (
        ({"state_format": "8bit"}, r"state_format.\]: got '8bit'"),
        ({"cautious": True}, r"cautious.\]: got True, needs False with adafactor"),
    ):
        with pytest.raises(ValueError, match=message):
            ft.Adafactor(parameters(), **options)
    complex_one = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    opt = ft.Adafactor([complex_one])
    complex_one.grad = torch.ones_like(complex_one)
    with pytest.raises(TypeError, match=r"params\[0\]\[0\]: got torch.complex64, needs a real dtype for adafactor"):
        opt.step()
    assert (complex_one == 1).all()


def test_offload_and_in_backward() -> None:
    """Both have the bytes of plain steps."""
    ends = []
    for way in ("plain", "offload", "backward"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(70, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))
        model[0].weight = torch.nn.Parameter(model[0].weight.detach().t().contiguous().t())
        if way == "backward":
            opt = ft.apply_in_backward(model.parameters(), ft.Adafactor, lr=0.05)
        elif way == "offload":
            opt = ft.CPUOffload(ft.Adafactor, model.parameters(), lr=0.05)
        else:
            opt = ft.Adafactor(model.parameters(), lr=0.05)
        for _ in range(3):
            model(torch.ones(8, 70)).square().sum().backward()
            if way != "backward":
                opt.step()
                opt.zero_grad()
        ends.append([array(p).copy() for p in model.parameters()])
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])
