"""What torch's Adafactor and Adam-mini have in common, whose states have shapes of their own: each test is for both."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Options, assert_same, numbers

torch: Any = pytest.importorskip("torch")
from torch_training import array, parameters, step  # noqa: E402

import fusedstep as fs  # noqa: E402

ft: Any = pytest.importorskip("fusedstep.torch")


@dataclass(frozen=True)
class Case:
    name: str
    storage: tuple[tuple[Any, Options], ...]
    narrow: Options = field(default_factory=dict)
    """For what can have 8-bit states."""

    @property
    def cls(self) -> Any:
        return getattr(ft, self.name)


CASES = (
    Case(
        "Adafactor",
        storage=(
            (FLOAT32, {"ema_decay": 0.9, "max_grad_norm": 1.0, "weight_decay": 0.1}),
            (FLOAT64, {"eps": (1e-3, 0.1), "clip_value": 0.1}),
            (FLOAT16, {"master": "float32"}),
            (FLOAT16, {"rounding": "stochastic", "seed": 3}),
            (BFLOAT16, {"master": "split", "skip_nonfinite": True}),
            (
                BFLOAT16,
                {"relative_step": False, "scale_parameter": False, "like_transformers": True, "eps": (1e-30, 1e-3)},
            ),
        ),
    ),
    Case(
        "AdamMini",
        storage=(
            (FLOAT32, {"ema_decay": 0.9, "max_grad_norm": 1.0, "weight_decay": 0.1}),
            (FLOAT32, {"state_format": "8bit", "min_quantized_size": 0, "cautious": True}),
            (FLOAT64, {"eps": 1e-3, "clip_value": 0.1}),
            (FLOAT16, {"master": "float32", "state_format": "bfloat16", "min_quantized_size": 0}),
            (FLOAT16, {"rounding": "stochastic", "seed": 3}),
            (BFLOAT16, {"master": "split", "skip_nonfinite": True, "blocks": 1}),
        ),
        narrow={"state_format": "8bit", "min_quantized_size": 100},
    ),
)
both = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
STATES = ("row_var", "col_var", "variance", "exp_avg", "exp_avg_scales", "exp_avg_sq", "ema", "master", "remainder")


@pytest.mark.parametrize(
    ("case", "dtype", "options"),
    [pytest.param(c, *each, id=f"{c.name}-{each}") for c in CASES for each in c.storage],
)
def test_same_bytes_as_for_numpy(case: Case, dtype: Any, options: Options) -> None:
    params = parameters(dtype)
    arrays = [array(p).copy() for p in params]
    opt, other = case.cls(params, **options), getattr(fs, case.name)(arrays, **options)
    for t in range(3):
        grads = step(opt, params, 100 * t)
        other.step(grads)
    assert_same([array(p) for p in params], arrays)
    for p, view in zip(params, other.state, strict=True):
        for name in STATES:
            assert (name in view) == (name in opt.state[p])
            if name in view:
                assert_same(array(opt.state[p][name]), view[name])


@pytest.mark.parametrize("sizes", [(8, 6), (80, 60)])
@pytest.mark.parametrize("narrow", [False, True])
@both
def test_any_order_in_memory(case: Case, narrow: bool, sizes: tuple[int, int]) -> None:
    """Parameters and gradients of any strides have the bytes of contiguous ones."""
    images = torch.from_numpy(numbers((4, 3, 5, 5), FLOAT32, 1))
    wide = torch.from_numpy(numbers(sizes, FLOAT32, 2))
    odd = [images.to(memory_format=torch.channels_last), wide.clone().t(), wide.clone()[:, ::2], wide.clone().t()[1:5]]
    mine = [torch.nn.Parameter(o) for o in odd]
    plain = [torch.nn.Parameter(o.clone(memory_format=torch.contiguous_format)) for o in odd]
    assert not any(p.is_contiguous() for p in mine)
    options: Options = {"ema_decay": 0.5, **(case.narrow if narrow else {})}
    opt, other = case.cls(mine, **options), case.cls(plain, **options)
    for t in range(3):
        step(opt, mine, 10 * t)
        step(other, plain, 10 * t)
    for p, q in zip(mine, plain, strict=True):
        assert torch.equal(p, q) and all(
            torch.equal(opt.state[p][name], other.state[q][name]) for name in other.state[q]
        )
    again = case.cls(mine, **options)
    again.load_state_dict(opt.state_dict())
    step(again, mine, 50)
    step(other, plain, 50)
    assert all(torch.equal(p, q) for p, q in zip(mine, plain, strict=True))


@both
def test_resumed_training_has_the_same_bytes(case: Case, tmp_path: Any) -> None:
    params = parameters()
    options: Options = {"weight_decay": 0.1, **case.narrow}
    opt = case.cls(params, **options)
    for t in range(3):
        step(opt, params, 100 * t)
    opt.save(tmp_path / "run.npz")
    copied, pickled = copy.deepcopy((opt, params)), pickle.loads(pickle.dumps((opt, params)))
    fresh, anew = parameters(), parameters()
    other, loaded = case.cls(fresh, **options), case.cls(anew, **case.narrow)
    other.load(tmp_path / "run.npz")
    loaded.load_state_dict(opt.state_dict())
    with torch.no_grad():
        for those in (fresh, anew):
            for p, q in zip(those, params, strict=True):
                p.copy_(q)
    for one, those in [(opt, params), copied, pickled, (other, fresh), (loaded, anew)]:
        step(one, those, 77)
        assert_same([array(p) for p in those], [array(p) for p in params])


def shape_of(p: Any, shape: tuple[int, ...]) -> None:
    p.data, p.grad = torch.ones(shape), torch.ones(shape)


def memory_of(state: Any) -> Any:
    return state.untyped_storage()


def with_blocks(opt: Any, blocks: Any) -> None:
    opt.param_groups[0]["blocks"] = blocks


def freed(_: Any, p: Any) -> None:
    p.data = torch.ones(70, 30)
    p.untyped_storage().resize_(0)


def second_row(opt: Any, p: Any) -> None:
    opt.state[p]["col_var"] = opt.state[p]["row_var"][:30].view(1, 30)


def within_first(opt: Any, p: Any) -> None:
    opt.state[p]["exp_avg_sq"] = opt.state[p]["exp_avg"].view(-1)[:70]


Change = tuple[Any, type[Exception], str]
CHANGES: tuple[Change, ...] = (
    (lambda opt, p: p.grad.resize_(3), ValueError, r": got shape \(3,\), needs \(70, 30\)"),
    (freed, ValueError, "was freed or resized"),
    (
        lambda opt, p: setattr(p, "grad", p.grad.to_sparse()),
        TypeError,
        "got a sparse tensor .*, needs a dense one for RULE",
    ),
)
"""Of either."""

OWN_CHANGES: dict[str, tuple[Change, ...]] = {
    "Adafactor": (
        (lambda opt, p: opt.state[p].update(row_var=torch.zeros(70)), ValueError, r"row_var has shape \(70,\)"),
        (
            lambda opt, p: opt.state[p]["col_var"].t_(),
            ValueError,
            r"col_var has shape \(30, 1\).*needs shape \(1, 30\)",
        ),
        (lambda opt, p: opt.state[p]["row_var"].resize_(3), ValueError, r"row_var has shape \(3,\)"),
        (
            lambda opt, p: memory_of(opt.state[p]["col_var"]).resize_(0),
            ValueError,
            "col_var: got memory that was freed",
        ),
        (second_row, ValueError, "row_var: got memory that overlaps .* col_var"),
        (lambda _, p: shape_of(p, (30, 70)), ValueError, r"row_var has shape \(70, 1\).*needs shape \(30, 1\)"),
        (
            lambda _, p: shape_of(p, (2100,)),
            ValueError,
            r"row_var has shape \(70, 1\).*needs none.*del optimizer.state\[param\]",
        ),
    ),
    "AdamMini": (
        (lambda opt, p: opt.state[p].update(exp_avg_sq=torch.zeros(7, 10)), ValueError, r"_sq has shape \(7, 10\)"),
        (lambda opt, p: opt.state[p].update(exp_avg_sq=torch.zeros(0)), ValueError, r"exp_avg_sq has shape \(0,\)"),
        (lambda opt, p: opt.state[p]["exp_avg_sq"].resize_(35), ValueError, r"exp_avg_sq has shape \(35,\)"),
        (lambda opt, p: opt.state[p]["exp_avg"].t_(), ValueError, r"exp_avg has shape \(30, 70\)"),
        (lambda opt, p: memory_of(opt.state[p]["exp_avg_sq"]).resize_(0), ValueError, "memory that was freed"),
        (within_first, ValueError, "exp_avg: got memory that overlaps .* exp_avg_sq"),
        (lambda _, p: shape_of(p, (30, 70)), ValueError, r"exp_avg has shape \(70, 30\)"),
        (lambda opt, p: with_blocks(opt, 10), ValueError, r"exp_avg_sq has shape .*needs shape \(10,\)"),
        (lambda opt, p: with_blocks(opt, 11), ValueError, r"params\[0\]\[0\]: blocks: got 11"),
        (lambda opt, p: with_blocks(opt, 2.5), TypeError, r"blocks.*: got 2.5"),
    ),
}


@pytest.mark.parametrize(
    ("case", "change", "kind", "message"),
    [pytest.param(c, *change, id=f"{c.name}-{change[2]}") for c in CASES for change in CHANGES + OWN_CHANGES[c.name]],
)
def test_what_was_changed_since_is_refused(case: Case, change: Any, kind: type[Exception], message: str) -> None:
    """Parameters, states and gradients of other shapes or without memory: nothing is written."""
    params = parameters(shapes=[(70, 30), (10,), (20, 3)])
    opt = case.cls(params)
    step(opt, params, 0)
    step(opt, params, 10)
    change(opt, params[0])
    before = [copy.deepcopy((p.data, opt.state[p])) for p in params[1:]]
    with pytest.raises(kind, match=message.replace("RULE", case.cls.rule)):
        opt.step()
    for p, (data, state) in zip(params[1:], before, strict=True):
        assert torch.equal(p, data) and all(torch.equal(opt.state[p][name], state[name]) for name in state)


DISTRIBUTED = """
import os, sys
import torch, torch.distributed as dist
import fusedstep.torch as ft
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
param = torch.nn.Parameter(distribute_tensor(torch.ones(4, 3), init_device_mesh("cpu", (1,)), [Shard(0)]))
try:
    opt = getattr(ft, sys.argv[1])([param])
    param.grad = torch.ones_like(param)
    opt.step()
except ValueError as error:
    assert str(error).startswith("params[0][0]: got a distributed tensor, needs whole matrices"), error
else:
    raise AssertionError("no error")
assert (param.full_tensor() == 1).all()
dist.destroy_process_group()
os._exit(0)  # gloo's threads may let go of tensors after the end of Python, which ends the process with an error
"""


@both
def test_distributed_tensors_are_refused(case: Case) -> None:
    command = [sys.executable, "-c", DISTRIBUTED, case.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@both
def test_complex_parameters_are_refused(case: Case) -> None:
    complex_one = torch.nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    opt = case.cls([complex_one])
    complex_one.grad = torch.ones_like(complex_one)
    message = rf"params\[0\]\[0\]: got torch.complex64, needs a real dtype for {case.cls.rule}"
    with pytest.raises(TypeError, match=message):
        opt.step()
    assert (complex_one == 1).all()


@both
def test_offload_and_in_backward(case: Case) -> None:
    """Both have the bytes of plain steps."""
    ends = []
    for way in ("plain", "offload", "backward"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(70, 30), torch.nn.Tanh(), torch.nn.Linear(30, 5))
        model[0].weight = torch.nn.Parameter(model[0].weight.detach().t().contiguous().t())
        options: Options = {"lr": 0.05, **case.narrow}
        if way == "backward":
            opt = ft.apply_in_backward(model.parameters(), case.cls, **options)
        elif way == "offload":
            opt = ft.CPUOffload(case.cls, model.parameters(), **options)
        else:
            opt = case.cls(model.parameters(), **options)
        for _ in range(3):
            model(torch.ones(8, 70)).square().sum().backward()
            if way != "backward":
                opt.step()
                opt.zero_grad()
        ends.append([array(p).copy() for p in model.parameters()])
    assert_same(ends[1], ends[0])
    assert_same(ends[2], ends[0])
