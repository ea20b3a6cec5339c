"""Muon for torch: what is refused, and what happens in the middle of a step."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same  # noqa: E402
from torch_training import matrix_loss as loss  # noqa: E402
from torch_training import matrix_network as network  # noqa: E402
from torch_training import train_matrices as train  # noqa: E402

from fusedstep.torch._directions import TensorDirections  # noqa: E402


def assert_equal(one: Any, other: Any) -> None:
    assert_same(one, other, 0, 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"momentum": 1.0}, ValueError, r"param_groups\[0\]\[\"momentum\"\]: got 1.0, needs >= 0 and < 1"),
        ({"lr": -0.1}, ValueError, r"param_groups\[0\]\[\"lr\"\]: got -0.1, needs"),
        ({"eps": 0.0}, ValueError, "got 0.0, needs > 0 and finite"),
        ({"ns_steps": 0}, ValueError, "got 0, needs >= 1 and <= 99"),
        ({"ns_coefficients": (1, 2)}, ValueError, "got 2 numbers, needs 3 real numbers"),
        ({"adjust_lr_fn": "rms"}, ValueError, "got 'rms', needs one of None, 'original'"),
        ({"reshape": "rows"}, ValueError, "got 'rows', needs one of None, 'flatten', 'batch'"),
        ({"ns_dtype": torch.float16}, ValueError, "ns_dtype: got torch.float16, needs one of None, torch.float32"),
        ({"rest": 3}, TypeError, "rest: got int, needs a dict"),
        ({"rest": {"lrr": 3}}, ValueError, "rest: got an unknown option 'lrr', did you mean lr"),
        ({"rest": {"lr": -1}}, ValueError, r"rest\[\"lr\"\]: got -1"),
        ({"rest": {"rule": "adagrad"}}, ValueError, r"rest\[\"rule\"\]: got 'adagrad', needs one of 'adabelief'"),
        ({"betas": (0.9, 0.99)}, TypeError, "unexpected keyword argument 'betas'"),
        ({"capturable": True}, ValueError, "capturable"),
        ({"state_format": "4bit"}, ValueError, "got '4bit', needs one of"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ft.Muon(network().parameters(), **options)


def parameter(*shape: int) -> Any:
    return torch.nn.Parameter(torch.ones(shape))


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ({"params": [parameter(3)], "rule": "muon"}, ValueError, r"params\[0\]\[0\]: got shape \(3,\), needs a matrix"),
        ({"params": [("b", parameter(3))], "rule": "muon"}, ValueError, r'params\["b"\]: got shape'),
        ({"params": [parameter(3, 2, 2)], "rule": "muon"}, ValueError, "reshape='batch' takes"),
        ({"params": [parameter(3)], "rule": "muons"}, ValueError, r"\[\"rule\"\]: got 'muons', needs one of 'muon', "),
        ({"params": [parameter(3)], "rule": ["muon"]}, ValueError, r"\[\"rule\"\]: got \['muon'\], needs one of"),
        ({"params": [parameter(3)], "lr": -1, "rule": "lion"}, ValueError, r"param_groups\[0\]\[\"lr\"\]"),
        ({"params": [3]}, TypeError, "Tensor"),
        ({"params": {parameter(3)}}, TypeError, "set"),
        ({"lr": 3}, KeyError, "params"),
        (
            {"params": [torch.nn.Parameter(torch.ones(5, 6, 7).permute(1, 2, 0))], "reshape": "batch"},
            ValueError,
            r"params\[0\]\[0\]: got strides \(7, 1, 42\), of which no matrix can be made",
        ),
    ],
    ids=str,
)
def test_wrong_groups(group: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ft.Muon([group])


def test_wrong_changes() -> None:
    """Options that are changed to what cannot be are errors of the next step, which changes nothing."""
    net = network()
    opt = ft.Muon(net.parameters())
    train(net, opt, range(1))
    opt.zero_grad()
    loss(net, 1).backward()
    before = copy.deepcopy(net)
    for number, name, value, message in (
        (0, "ns_steps", 100, r"param_groups\[0\]\[\"ns_steps\"\]: got 100, needs"),
        (0, "adjust_lr_fn", "x", r"param_groups\[0\]\[\"adjust_lr_fn\"\]: got 'x', needs"),
        (0, "momentum", 1.5, r"param_groups\[0\]\[\"momentum\"\]: got 1.5, needs"),
        (1, "betas", (1.0, 0.5), r"param_groups\[1\]\[\"betas\"\]\[0\]: got 1.0, needs"),
        (0, "rule", "adamw", r"\[\"rule\"\]: got 'adamw', needs the rule whose states .*momentum_buffer"),
        (1, "rule", "muon", r"\[\"rule\"\]: got 'muon', needs the rule whose states .*exp_avg"),
        (1, "rule", "none", r"\[\"rule\"\]: got 'none', needs one of"),
    ):
        group = opt.param_groups[number]
        kept = group[name]
        group[name] = value
        with pytest.raises(ValueError, match=message):
            opt.step()
        group[name] = kept
        assert_equal(net, before)
    net[2].weight.grad = net[2].weight.grad.to_sparse()
    with pytest.raises(TypeError, match="sparse"):
        opt.step()
    assert_equal(net, before)
    net[2].weight.grad = net[2].weight.grad.to_dense()
    opt.param_groups[0]["reshape"] = "batch"  # this one may change: the convolution as a batch of its 3x3 kernels
    opt.step()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_interrupted_product(error: type[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of a step leaves everything as it was, step counts included."""
    nets = [network() for _ in range(2)]
    opt, other = (ft.Muon(net.parameters(), max_grad_norm=1.0) for net in nets)
    for net, optimizer in zip(nets, (opt, other), strict=True):
        train(net, optimizer, [0])
        optimizer.zero_grad()
        loss(net, 1).backward()
    calls, own = itertools.count(), TensorDirections._iterate

    def fails(self: Any, *args: Any) -> None:
        if next(calls) == 1:
            raise error
        own(self, *args)

    with monkeypatch.context() as patched, pytest.raises(error):
        patched.setattr(TensorDirections, "_iterate", fails)
        opt.step()
    opt.step()
    other.step()
    assert_equal(*nets)
    assert opt.state[nets[0][0].bias]["step"] == 2


@pytest.mark.parametrize("what", ["parameter", "gradient", "state", "a step"])
def test_changed_within_a_step(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that runs in the middle of a step cannot take the memory away that is read and written next."""
    net = network()
    opt = ft.Muon(net.parameters())
    train(net, opt, [0])
    loss(net, 1).backward()
    weight = net[0].bias if what == "state" else net[2].weight
    tensor = {"parameter": weight.data, "gradient": weight.grad, "state": opt.state[weight].get("exp_avg")}.get(what)

    def changes(self: Any, *args: Any) -> None:
        opt.step() if tensor is None else tensor.untyped_storage().resize_(0)

    message = "during a step" if what == "a step" else "was moved while a step was taken"
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match=message):
        patched.setattr(TensorDirections, "_iterate", changes)
        opt.step()


DISTRIBUTED = """
import os, torch, torch.distributed as dist
import fusedstep.torch as ft
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
part = lambda *shape: torch.nn.Parameter(distribute_tensor(torch.ones(shape), mesh, [Shard(0)]))
vector, matrix, alone = part(4), part(4, 3), torch.nn.Parameter(torch.ones(4, 3))
opt = ft.Muon([vector, matrix, alone], max_grad_norm=1.0)
for p in (vector, matrix, alone):
    p.grad = torch.ones_like(p)
opt.step()
assert (vector.full_tensor() != 1).all() and (alone != 1).all() and torch.equal(matrix.full_tensor(), alone)
dist.destroy_process_group()
os._exit(0)  # gloo's threads may let go of tensors after the end of Python, which ends the process with an error
"""

BEFORE_TORCH_2_9 = """
import torch
if hasattr(torch.optim, "Muon"):
    del torch.optim.Muon
import fusedstep.torch as ft

net = torch.nn.Linear(3, 2)
opt = ft.Muon(net.parameters())
net(torch.ones(4, 3)).sum().backward()
opt.step()
opt.load_state_dict(opt.state_dict())
assert [g["rule"] for g in opt.param_groups] == ["muon", "adamw"] and "step" not in opt.state[net.weight]
"""


@pytest.mark.parametrize("program", [DISTRIBUTED, BEFORE_TORCH_2_9], ids=["distributed tensors", "before torch 2.9"])
def test_in_a_process_of_its_own(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
