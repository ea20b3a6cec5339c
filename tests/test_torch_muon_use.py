"""Muon for torch in a training: the rest, groups, saving, offload, steps within the backward pass."""

from __future__ import annotations

import copy
import itertools
import pathlib
import pickle
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same  # noqa: E402
from torch_training import matrix_loss as loss  # noqa: E402
from torch_training import matrix_network as network  # noqa: E402
from torch_training import train_matrices as train  # noqa: E402


def assert_equal(one: Any, other: Any) -> None:
    assert_same(one, other, 0, 0)


def snapshot(optimizer: Any) -> Any:
    return copy.deepcopy([(p, optimizer.state[p]) for group in optimizer.param_groups for p in group["params"]])


def test_it_trains() -> None:
    net = network()
    values = train(net, ft.Muon(net.parameters(), lr=0.02, rest={"lr": 3e-3}), range(40))
    assert values[-1] < 0.8 * values[0]


# ---- the rest ----


@pytest.mark.parametrize(
    "options", [{}, {"max_grad_norm": 0.5, "skip_nonfinite": True}, {"state_format": "8bit"}], ids=str
)
@pytest.mark.parametrize(
    "rest",
    [{}, {"lr": 0.1, "betas": (0.8, 0.9), "amsgrad": True}, {"rule": "sgd", "momentum": 0.9}, {"rule": "nadam"}],
    ids=str,
)
def test_rest(rest: dict[str, Any], options: dict[str, Any]) -> None:
    """The rest is what its own optimizer makes of it: with one clip, and one skip, for all parameters."""
    kind = {"sgd": ft.SGD, "nadam": ft.NAdam}.get(rest.get("rule", ""), ft.AdamW)
    one, other = network(), network()
    given = {name: value for name, value in rest.items() if name != "rule"}
    mine = ft.Muon(one.parameters(), min_quantized_size=10, rest=rest, **options)
    others = dict(zip(one.parameters(), other.parameters(), strict=True))
    order = [others[p] for group in mine.param_groups for p in group["params"]]  # in which the norm is summed
    whole = kind(order, min_quantized_size=10, **given, **options)
    for seed in range(5):
        for net, optimizer in ((one, mine), (other, whole)):
            optimizer.zero_grad()
            loss(net, seed).backward()
        for p, q in others.items():
            q.grad = p.grad.clone()
        if seed == 2 and "skip_nonfinite" in options:
            for net in (one, other):
                net[2].weight.grad[3, 4] = torch.inf
        mine.step()
        whole.step()
        assert repr(mine.grad_norm) == repr(whole.grad_norm)  # which may be NaN
    assert mine.skipped_steps == whole.skipped_steps == ("skip_nonfinite" in options)
    assert [len(group["params"]) for group in mine.param_groups] == [4, 5]
    for p in mine.param_groups[1]["params"]:
        assert torch.equal(p, others[p])
        for name, value in whole.state[others[p]].items():
            assert torch.equal(mine.state[p][name], value), name


def test_complex_parameters_belong_to_the_rest() -> None:
    params = [torch.nn.Parameter(torch.ones(3, 4, dtype=torch.complex64)), torch.nn.Parameter(torch.ones(3, 4))]
    opt = ft.Muon(params)
    assert [g["rule"] for g in opt.param_groups] == ["muon", "adamw"]
    with pytest.raises(TypeError, match=r"params\[0\]\[0\]: got torch.complex64, needs a real matrix"):
        ft.Muon([{"params": params[:1], "rule": "muon"}])
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()


# ---- groups and options ----


def test_groups() -> None:
    net = network()
    embedding = torch.nn.Parameter(torch.randn(9, 4))
    opt = ft.Muon(
        [
            {"params": net[0].parameters(), "lr": 0.5, "ema_decay": 0.9, "name": "conv"},
            {"params": [embedding], "rule": "adamw", "lr": 0.25},
            {"params": net[2].weight, "rule": "muon"},
            {"params": [net.experts], "reshape": "batch"},
            {"params": []},
        ],
        rest={"lr": 3e-4},
    )
    found = [(g["rule"], g["lr"], g["ema_decay"], g.get("name"), len(g["params"])) for g in opt.param_groups]
    assert found == [
        ("muon", 0.5, 0.9, "conv", 1),
        ("adamw", 3e-4, 0.9, "conv", 1),
        ("adamw", 0.25, None, None, 1),
        ("muon", 1e-3, None, None, 1),
        ("muon", 1e-3, None, None, 1),
        ("muon", 1e-3, None, None, 0),
    ]
    assert "ns_steps" not in opt.param_groups[1] and "betas" not in opt.param_groups[0]
    with pytest.raises(ValueError, match=r"param_groups\[6\].*got matrices and others, needs one kind"):
        opt.add_param_group({"params": net[4].parameters()})
    assert len(opt.param_groups) == 6 and opt.defaults["lr"] == 1e-3
    opt.add_param_group({"params": net[4].weight})
    opt.add_param_group({"params": [net[4].bias], "lr": 0.125})
    assert [(g["rule"], g["lr"]) for g in opt.param_groups[6:]] == [("muon", 1e-3), ("adamw", 3e-4)]
    opt.momentum = 0.5  # of those that have it
    assert opt.momentum == 0.5
    assert [g.get("momentum") for g in opt.param_groups[:3]] == [0.5, None, None]
    opt.lr = 0.125  # of all groups
    assert {g["lr"] for g in opt.param_groups} == {0.125}
    train(net, opt, range(2))
    with pytest.raises(ValueError, match=r"param_groups\[2\]: has no averages"):
        opt.ema_params()


@pytest.mark.parametrize("named", [True, False])
def test_groups_by_a_condition(named: bool) -> None:
    """Embeddings, heads: what the user gives another rule keeps it, and all else is divided."""
    net, other = network(), network()
    given = ft.groups(net, where=lambda name, p: name.startswith("5"), rule="adamw", lr=0.1)
    opt = ft.Muon(given, lr=0.02)
    assert [(g["rule"], len(g["params"])) for g in opt.param_groups] == [("muon", 3), ("adamw", 4), ("adamw", 2)]
    plain = ft.AdamW(other[5].parameters(), lr=0.1)
    for net_, optimizer in ((net, opt), (other, plain)):
        loss(net_, 0).backward()
        optimizer.step()
    assert_equal(net[5], other[5])
    opt = ft.Muon(net.named_parameters() if named else net.parameters())
    assert opt.param_groups[0].get("param_names") == (
        ["0.weight", "2.weight", "4.weight", "5.weight"] if named else None
    )


def test_schedulers_and_closures() -> None:
    """All groups follow torch's schedulers; a closure is called once."""
    net = network()
    opt = ft.Muon(net.parameters(), lr=torch.tensor(0.2), rest={"lr": 0.1})
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 2, 0.5)
    calls = itertools.count()
    for seed in range(4):

        def closure(seed: int = seed) -> Any:
            next(calls)
            opt.zero_grad()
            value = loss(net, seed)
            value.backward()
            return value

        assert opt.step(closure).item() > 0
        scheduler.step()
    assert next(calls) == 4
    assert [float(g["lr"]) for g in opt.param_groups] == pytest.approx([0.05, 0.025])
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=[0.1, 0.2], total_steps=10, cycle_momentum=False)
    train(net, opt, range(1))
    cycle.step()


def test_averages_scaler_and_frozen_parameters() -> None:
    net, plain = network(), network()
    for model in (net, plain):
        model[4].weight.requires_grad_(False)
    begun = copy.deepcopy(net)
    opt = ft.Muon(net.parameters(), lr=0.1, ema_decay=0.5, rest={"lr": 0.1})
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(loss(net, 0)).backward()
    scaler.step(opt)
    scaler.update()
    other = ft.Muon(plain.parameters(), lr=0.1, rest={"lr": 0.1})
    train(plain, other, [0])
    assert_same(net, plain)
    assert torch.equal(net[4].weight, begun[4].weight) and net[4].weight not in opt.state
    before = dict(zip(net.parameters(), begun.parameters(), strict=True))
    for group, averages in zip(opt.param_groups, opt.ema_params(), strict=True):
        for p, average in zip(group["params"], averages, strict=True):
            torch.testing.assert_close(average, 0.5 * p.detach() + 0.5 * before[p].detach())
    net[4].weight.requires_grad_(True)  # a matrix joins its equal
    train(net, opt, [1])
    assert not torch.equal(net[4].weight, begun[4].weight)


# ---- saving, loading, copies ----

FORMATS: list[dict[str, Any]] = [
    {},
    {"state_format": "8bit", "min_quantized_size": 50},
    {"state_format": "bfloat16", "ema_decay": 0.9},
    {"master": "split", "state_format": "8bit", "min_quantized_size": 50},
    {"master": "float32"},
    {"rounding": "stochastic", "rest": {"rule": "lion"}},
]


@pytest.mark.parametrize("options", FORMATS, ids=str)
@pytest.mark.parametrize("way", ["state_dict", "torch.save", "pickle", "deepcopy", "run.npz", "run.safetensors"])
def test_resume(way: str, options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    """A run that is saved and resumed goes on with the same bits."""
    dtype = torch.bfloat16 if "master" in options or "rounding" in options else torch.float32
    net = network(dtype)
    options = {"reshape": "batch", "ns_dtype": torch.float32, **options}
    opt = ft.Muon(net.named_parameters(), lr=0.1, max_grad_norm=1.0, **options)
    train(net, opt, range(3))
    if way in ("pickle", "deepcopy"):
        pair = (net, opt)
        again, other = pickle.loads(pickle.dumps(pair)) if way == "pickle" else copy.deepcopy(pair)
        assert other.ns_dtype is torch.float32
    else:
        again = copy.deepcopy(net)
        other = ft.Muon(again.named_parameters(), lr=0.5, **options)
        if way == "state_dict":
            other.load_state_dict(opt.state_dict())
        elif way == "torch.save":
            torch.save(opt.state_dict(), tmp_path / "run.pt")
            other.load_state_dict(torch.load(tmp_path / "run.pt", weights_only=False))
        else:
            opt.save(tmp_path / way)
            other.load(tmp_path / way)
    assert train(net, opt, range(3, 6)) == train(again, other, range(3, 6))
    assert_equal(net, again)
    assert [dict(g, params=0) for g in other.param_groups] == [dict(g, params=0) for g in opt.param_groups]
    other.add_param_group({"params": [("more", torch.nn.Parameter(torch.ones(3, dtype=dtype)))]})
    assert other.param_groups[-1]["rule"] == options.get("rest", {}).get("rule", "adamw")


def test_loading_errors() -> None:
    net = network()
    opt, other = ft.Muon(net.parameters()), ft.Muon(network().parameters(), rest={"rule": "lion"})
    train(net, opt, range(2))
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r"\[1\]\[\"rule\"\]: got 'lion', needs 'adamw'"):
        opt.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="number of parameter groups"):
        opt.load_state_dict(torch.optim.AdamW(network().parameters()).state_dict())
    only = ft.Muon([net[2].weight])
    for kind in (torch.optim.AdamW, ft.AdamW):
        with pytest.raises(ValueError, match=r"got no entry \"momentum\"|got 'adamw', needs 'muon'"):
            only.load_state_dict(kind([net[2].weight]).state_dict())
    for (p, state), (q, then) in zip(snapshot(opt), before, strict=True):
        assert torch.equal(p, q) and state.keys() == then.keys()
        assert all(torch.equal(value, then[name]) for name, value in state.items())


# ---- offload, and steps within the backward pass ----


@pytest.mark.parametrize("free", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [{}, {"state_format": "8bit", "min_quantized_size": 0}], ids=str)
def test_offload(free: bool, dtype: Any, options: dict[str, Any]) -> None:
    """Matrices stay matrices: the step is that on parameters of the host."""
    options = {"lr": 0.02, "reshape": "batch", "max_grad_norm": 0.5, "ns_dtype": torch.float32, **options}
    one, other = network(dtype), network(dtype)
    offload = ft.CPUOffload(ft.Muon, one.parameters(), free_gradients=free, **options)
    direct = ft.Muon(other.parameters(), master=None if dtype == torch.float32 else "float32", **options)
    assert isinstance(offload, ft.Muon)
    assert train(one, offload, range(4)) == train(other, direct, range(4))
    saved = copy.deepcopy(offload.state_dict())
    again = pickle.loads(pickle.dumps(offload))
    assert again.ns_dtype is torch.float32
    offload.load_state_dict(saved)
    assert train(one, offload, range(4, 6)) == train(other, direct, range(4, 6))
    assert_equal(one, other)


@pytest.mark.parametrize("options", [{}, {"state_format": "8bit", "min_quantized_size": 0}], ids=str)
def test_in_backward(options: dict[str, Any]) -> None:
    options = {"lr": 0.02, "reshape": "batch", "ns_dtype": torch.float32, "rest": {"lr": 0.01}, **options}
    one, other = network(), network()
    eager = ft.apply_in_backward(one, ft.Muon, **options)
    direct = ft.Muon(other.parameters(), **options)
    assert train(one, eager, range(5)) == pytest.approx(train(other, direct, range(5)), rel=1e-4)
    assert_same(one, other, 1e-3, 1e-4)  # equal matrices are multiplied one by one
    with pytest.raises(ValueError, match=r"^max_grad_norm: got 1\.0, needs to be left out"):
        ft.apply_in_backward(network(), ft.Muon, max_grad_norm=1.0)
    with pytest.raises(ValueError, match=r"""^rest\["rule"\]: got 'prodigy', needs one of"""):
        ft.apply_in_backward(network(), ft.Muon, rest={"rule": "prodigy"})
    late = {"params": [torch.nn.Parameter(torch.ones(3))], "rule": "prodigy"}
    with pytest.raises(ValueError, match=r"""^param_groups\[2\]\["rule"\]: got 'prodigy', needs one of"""):
        eager.add_param_group(late)
