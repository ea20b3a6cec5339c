"""Adam-mini for torch: against `fusedstep.AdamMini`, layouts, saving, errors, offload and in backward."""

from __future__ import annotations

import copy
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


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (FLOAT32, {"ema_decay": 0.9, "max_grad_norm": 1.0, "weight_decay": 0.1}),
        (FLOAT32, {"state_format": "8bit", "min_quantized_size": 0, "cautious": True}),
        (FLOAT64, {"eps": 1e-3, "clip_value": 0.1}),
        (FLOAT16, {"master": "float32", "state_format": "bfloat16", "min_quantized_size": 0}),
        (FLOAT16, {"rounding": "stochastic", "seed": 3}),
        (BFLOAT16, {"master": "split", "skip_nonfinite": True, "blocks": 1}),
    ],
    ids=str,
)
def test_same_bytes_as_for_numpy(dtype: Any, options: dict[str, Any]) -> None:
    params = parameters(dtype)
    arrays = [array(p).copy() for p in params]
    opt, other = ft.AdamMini(params, **options), fs.AdamMini(arrays, **options)
    for t in range(3):
        grads = step(opt, params, 100 * t)
        other.step(grads)
    assert_same([array(p) for p in params], arrays)
    for p, view in zip(params, other.state, strict=True):
        for name in ("exp_avg", "exp_avg_scales", "exp_avg_sq", "ema", "master", "remainder"):
            assert (name in view) == (name in opt.state[p])
            if name in view:
                assert_same(array(opt.state[p][name]), view[name])


def test_groups_have_their_blocks() -> None:
    params = parameters(shapes=[(32, 8), (32, 8), (5,)])
    opt = ft.AdamMini([{"params": params[:1], "blocks": 4}, {"params": params[1:]}])
    step(opt, params, 0)
    assert [tuple(opt.state[p]["exp_avg_sq"].shape) for p in params] == [(4,), (32,), (1,)]
    assert {name: opt.param_groups[1][name] for name in RULES["adam_mini"].hypers} == RULES["adam_mini"].hypers


@pytest.mark.parametrize("state_format", ["float32", "8bit"])
def test_any_order_in_memory(state_format: str) -> None:
    """Parameters and gradients of any strides have the bytes of contiguous ones."""
    images = torch.from_numpy(numbers((4, 3, 5, 5), FLOAT32, 1))
    wide = torch.from_numpy(numbers((80, 60), FLOAT32, 2))
    odd = [images.to(memory_format=torch.channels_last), wide.clone().t(), wide.clone()[:, ::2], wide.clone().t()[1:5]]
    mine = [torch.nn.Parameter(o) for o in odd]
    plain = [torch.nn.Parameter(o.clone(memory_format=torch.contiguous_format)) for o in odd]
    assert not any(p.is_contiguous() for p in mine)
    options: dict[str, Any] = {"ema_decay": 0.5, "state_format": state_format, "min_quantized_size": 0}
    opt, other = ft.AdamMini(mine, **options), ft.AdamMini(plain, **options)
    for t in range(3):
        step(opt, mine, 10 * t)
        step(other, plain, 10 * t)
    for p, q in zip(mine, plain, strict=True):
        assert torch.equal(p, q) and all(
            torch.equal(opt.state[p][name], other.state[q][name]) for name in other.state[q]
        )
    again = ft.AdamMini(mine, **options)
    again.load_state_dict(opt.state_dict())
    step(again, mine, 50)
    step(other, plain, 50)
    assert all(torch.equal(p, q) for p, q in zip(mine, plain, strict=True))


def test_resumed_training_has_the_same_bytes(tmp_path: Any) -> None:
    options: dict[str, Any] = {"weight_decay": 0.1, "state_format": "8bit", "min_quantized_size": 100}
    params = parameters()
    opt = ft.AdamMini(params, **options)
    for t in range(3):
        step(opt, params, 100 * t)
    opt.save(tmp_path / "run.npz")
    copied, pickled = copy.deepcopy((opt, params)), pickle.loads(pickle.dumps((opt, params)))
    fresh, anew = parameters(), parameters()
    other, loaded = ft.AdamMini(fresh, **options), ft.AdamMini(anew, **options)
    other.load(tmp_path / "run.npz")
    loaded.load_state_dict(opt.state_dict())
    with torch.no_grad():
        for those in (fresh, anew):
            for p, q in zip(those, params, strict=True):
                p.copy_(q)
    for one, those in [(opt, params), copied, pickled, (other, fresh), (loaded, anew)]:
        step(one, those, 77)
        assert_same([array(p) for p in those], [array(p) for p in params])


def test_states_go_from_numpy_to_torch_and_back() -> None:
    params = parameters(shapes=[(6, 4), (5,)])
    arrays = [array(p).copy() for p in params]
    opt, other = ft.AdamMini(params, blocks=1), fs.AdamMini(arrays, blocks=1)
    step(opt, params, 0)
    other.step([numbers(a.shape, FLOAT32, 50 + i) for i, a in enumerate(arrays)])
    saved = opt.state_dict()
    opt.load_state_dict(other.state_dict())
    other.load_state_dict(saved)
    for p, view, i in zip(params, other.state, (0, 1), strict=True):
        assert_same(view["exp_avg_sq"], array(saved["state"][i]["exp_avg_sq"]))
        assert opt.state[p]["exp_avg_sq"].shape == (1,)


def test_wrong_states_are_refused() -> None:
    params = parameters()
    opt = ft.AdamMini(params)
    step(opt, params, 0)
    saved = opt.state_dict()
    wrong = copy.deepcopy(saved)
    wrong["state"][5]["exp_avg_sq"] = torch.zeros(70, 1)
    with pytest.raises(ValueError, match=r"\[\"exp_avg_sq\"\]: got shape \(70, 1\), needs \(70,\)"):
        opt.load_state_dict(wrong)
    wrong = copy.deepcopy(saved)
    wrong["param_groups"][0]["blocks"] = 11
    with pytest.raises(ValueError, match="blocks: got 11 for a parameter of shape"):
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
    opt.state[p]["exp_avg_sq"] = opt.state[p]["exp_avg"].view(-1)[:70]


CHANGES: tuple[tuple[Any, type[Exception], str], ...] = (
    (lambda opt, p: opt.state[p].update(exp_avg_sq=torch.zeros(7, 10)), ValueError, r"exp_avg_sq has shape \(7, 10\)"),
    (lambda opt, p: opt.state[p].update(exp_avg_sq=torch.zeros(0)), ValueError, r"exp_avg_sq has shape \(0,\)"),
    (lambda opt, p: opt.state[p]["exp_avg_sq"].resize_(35), ValueError, r"exp_avg_sq has shape \(35,\)"),
    (lambda opt, p: opt.state[p]["exp_avg"].t_(), ValueError, r"exp_avg has shape \(30, 70\)"),
    (lambda opt, p: opt.state[p]["exp_avg_sq"].untyped_storage().resize_(0), ValueError, "memory was freed"),
    (shared, ValueError, "exp_avg and .* exp_avg_sq overlap in memory"),
    (lambda opt, p: shape_of(p, torch.ones(30, 70)), ValueError, r"exp_avg has shape \(70, 30\)"),
    (lambda opt, p: p.grad.resize_(3), ValueError, r"has shape \(3,\), needs \(70, 30\)"),
    (freed, ValueError, "was freed or resized"),
    (lambda opt, p: setattr(p, "grad", p.grad.to_sparse()), TypeError, "adam_mini does not support sparse gradients"),
    (lambda opt, p: opt.param_groups[0].update(blocks=10), ValueError, r"exp_avg_sq has shape .*needs shape \(10,\)"),
    (lambda opt, p: opt.param_groups[0].update(blocks=11), ValueError, "blocks: got 11"),
    (lambda opt, p: opt.param_groups[0].update(blocks=2.5), TypeError, r"blocks.*: got 2.5"),
)


@pytest.mark.parametrize(("change", "kind", "message"), CHANGES)
def test_what_was_changed_since_is_refused(change: Any, kind: type[Exception], message: str) -> None:
    """Parameters, states and gradients of other shapes or without memory: nothing is written."""
    params = parameters(shapes=[(70, 30), (10,), (20, 3)])
    opt = ft.AdamMini(params)
    step(opt, params, 0)
    step(opt, params, 10)
    change(opt, params[0])
    before = [copy.deepcopy((p.data, opt.state[p])) for p in params[1:]]
    with pytest.raises(kind, match=message):
        opt.step()
    for p, (data, state) in zip(params[1:], before, strict=True):
        assert torch.equal(p, data) and all(torch.equal(opt.state[p][name], state[name]) for name in state)


def test_states_that_are_taken_out_begin_anew() -> None:
    params = parameters(shapes=[(70, 30), (5,)])
    opt = ft.AdamMini(params)
    step(opt, params, 0)
    for name in ("exp_avg", "exp_avg_sq"):
        del opt.state[params[0]][name]
        step(opt, params, 10)
        assert opt.state[params[0]][name].abs().sum() > 0


DISTRIBUTED = """
import torch, torch.distributed as dist
import fusedstep.torch as ft
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
param = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
try:
    opt = ft.AdamMini([param])
    param.grad = torch.ones_like(param)
    opt.step()
except ValueError as error:
    assert "got a distributed tensor, needs" in str(error), error
else:
    raise AssertionError("no error")
assert (param.full_tensor() == 1).all()
dist.destroy_process_group()
"""


def test_distributed_tensors_are_refused() -> None:
    done = subprocess.run([sys.executable, "-c", DISTRIBUTED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_does_not_combine_is_refused() -> None:
    with pytest.raises(ValueError, match="eps"):
        ft.AdamMini(parameters(), eps=-1.0)
    with pytest.raises(TypeError, match="blocks"):
        ft.AdamMini(parameters(), blocks="heads")
    complex_one = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    opt = ft.AdamMini([complex_one])
    complex_one.grad = torch.ones_like(complex_one)
    with pytest.raises(TypeError, match=r"params\[0\]\[0\]: got torch.complex64, needs a real dtype for adam_mini"):
        opt.step()
    assert (complex_one == 1).all()


def test_offload_and_in_backward() -> None:
    """Both have the bytes of plain steps."""
    ends = []
    for way in ("plain", "offload", "backward"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(70, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))
        model[0].weight = torch.nn.Parameter(model[0].weight.detach().t().contiguous().t())
        options: dict[str, Any] = {"lr": 0.05, "state_format": "8bit", "min_quantized_size": 100}
        if way == "backward":
            opt = ft.apply_in_backward(model.parameters(), ft.AdamMini, **options)
        elif way == "offload":
            opt = ft.CPUOffload(ft.AdamMini, model.parameters(), **options)
        else:
            opt = ft.AdamMini(model.parameters(), **options)
        for _ in range(3):
            model(torch.ones(8, 70)).square().sum().backward()
            if way != "backward":
                opt.step()
                opt.zero_grad()
        ends.append([array(p).copy() for p in model.parameters()])
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])
