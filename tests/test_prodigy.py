"""Prodigy against the loop of its authors: what it shares between parameters and groups, and its odd cases."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from cases import Array, Options, Twin, assert_same, copied, running, snapshot

import fusedstep as fs

SHAPES = [(3, 41), (7,), (2100,)]


class Authors:
    """The loop of prodigyopt 1.1.2 (github.com/konstmish/prodigy, ``Prodigy.step``), in NumPy.

    Options that it takes from its first group are those of all groups here. Its step count stands still in a step
    that it leaves out; the one here is the caller's. With a first beta of 0 it has another step: docs/conventions.md.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        defaults: Options = {
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "decoupled_weight_decay": True,
            "bias_correction": False,
            "safeguard_warmup": False,
            "d0": 1e-6,
            "d_coef": 1.0,
            "growth_rate": math.inf,
        }
        self.options = defaults | options
        self.groups = groups
        self.state: dict[int, dict[str, Array]] = {}
        self.d: float = self.options["d0"]
        self.d_max, self.numerator = self.d, 0.0

    def step(self, grads: list[Array | None], step: int) -> None:
        o = self.options
        (beta1, beta2), d, d0 = o["betas"], self.d, o["d0"]
        beta3, lr = math.sqrt(beta2), max(group.get("lr", 1.0) for group in self.groups)
        correction = math.sqrt(1 - beta2**step) / (1 - beta1**step) if o["bias_correction"] else 1.0
        dlr = d * lr * correction
        progress = path = 0.0
        flat = [(group, param) for group in self.groups for param in group["params"]]
        for number, ((group, p), grad) in enumerate(zip(flat, grads, strict=True)):
            if grad is None:
                continue
            own_lr = group.get("lr", 1.0)
            assert own_lr in (lr, 0.0)
            if not o["decoupled_weight_decay"]:
                grad = grad + o["weight_decay"] * p
            names = ("exp_avg", "exp_avg_sq", "s")
            mine = self.state.setdefault(number, {n: np.zeros_like(p) for n in names} | {"p0": p.copy()})
            if own_lr == 0.0:
                continue
            progress += d / d0 * dlr * np.dot(grad.ravel(), (mine["p0"] - p).ravel())
            mine["exp_avg"] = beta1 * mine["exp_avg"] + d * (1 - beta1) * grad
            mine["exp_avg_sq"] = beta2 * mine["exp_avg_sq"] + d * d * (1 - beta2) * grad * grad
            mine["s"] = beta3 * mine["s"] + d / d0 * (d if o["safeguard_warmup"] else dlr) * grad
            path += np.abs(mine["s"]).sum()
        if path == 0:
            return
        self.numerator = beta3 * self.numerator + progress
        d_hat = o["d_coef"] * self.numerator / path
        if d == d0:
            d = max(d, d_hat)
        self.d_max = max(self.d_max, d_hat)
        self.d = d = min(self.d_max, d * o["growth_rate"])
        for number, ((group, p), grad) in enumerate(zip(flat, grads, strict=True)):
            if grad is None or group.get("lr", 1.0) == 0.0:
                continue  # a group at rest: the authors still take the weight decay of the largest rate
            if o["decoupled_weight_decay"]:
                p -= o["weight_decay"] * dlr * p
            mine = self.state[number]
            p -= dlr * mine["exp_avg"] / (np.sqrt(mine["exp_avg_sq"]) + d * o["eps"])


def some_params(seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.uniform(1, 2, shape) * rng.choice([-1.0, 1.0], shape) for shape in SHAPES]


def noisy(params: list[Array], rng: np.random.Generator) -> list[Any]:
    """Gradients of half the squared distance from 3, with noise."""
    return [param - 3.0 + 0.1 * rng.standard_normal(param.shape) for param in params]


def agree(optimizer: Any, params: list[Array], theirs: Authors) -> None:
    """Some elements end near zero, so errors are relative to the largest."""
    for ours, other in zip(params, flat(theirs), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12, atol=1e-12 * np.abs(other).max())
    for view in optimizer.state:
        found = [float(view[name]) for name in ("d", "d_max", "d_numerator")]
        np.testing.assert_allclose(found, [theirs.d, theirs.d_max, theirs.numerator], rtol=1e-9)  # p0 - p is small


def flat(theirs: Authors) -> list[Array]:
    return [param for group in theirs.groups for param in group["params"]]


OPTIONS: list[Options] = [
    {},
    {"bias_correction": True, "weight_decay": 0.02, "growth_rate": 1.02},
    {"safeguard_warmup": True, "d0": 1e-4, "d_coef": 2.0, "weight_decay": 0.02, "decoupled_weight_decay": False},
    {"bias_correction": True, "safeguard_warmup": True, "betas": (0.5, 0.9), "eps": 1e-3, "growth_rate": 2.0},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_authors_loop(options: Options) -> None:
    """100 steps over three parameters; without bias correction some lack a gradient, at first all have zeros."""
    params = some_params()
    optimizer, theirs = fs.Prodigy(params, **options), Authors([{"params": copied(params)}], **options)
    rng = np.random.default_rng(1)
    for t in range(100):
        grads = noisy(params, rng)
        if not options.get("bias_correction"):  # which counts the steps of a parameter here, and of all there
            if t == 0:
                grads = [0.0 * grad for grad in grads]
            if t % 7 == 3:
                grads[t % 3] = None
        optimizer.step(grads)
        theirs.step(grads, t + 1)
    agree(optimizer, params, theirs)
    assert theirs.d > theirs.options["d0"]


@pytest.mark.parametrize("cautious", [False, True])
def test_sums_where_the_estimate_stays(cautious: bool) -> None:
    """A parameter that lacks a gradient does not bring an old sum back, though it has taken more steps."""
    params = some_params()
    options: Options = {"d0": 1e-3, "d_coef": 1e-30, "weight_decay": 0.1}  # so d and d_max never change
    optimizer, theirs = (
        fs.Prodigy(params, cautious=cautious, **options),
        Authors([{"params": copied(params)}], **options),
    )
    twin, rng = Twin(optimizer), np.random.default_rng(9)
    sums: set[float] = set()
    for t in range(12):
        there = [t < 4 or t % 3 == 0, 4 <= t < 8 or t % 3 == 1, t % 3 == 2]
        grads = [grad if has else None for grad, has in zip(noisy(params, rng), there, strict=True)]
        assert twin.step(copied(grads)) is optimizer.step(grads)
        twin.check(f"step {t + 1}")
        theirs.step(grads, t + 1)
        sums.add(float(optimizer.state[2]["d_numerator"]))
    assert len(sums) == 12  # another one in every step
    if not cautious:
        agree(optimizer, params, theirs)


def test_zeros_change_nothing() -> None:
    """With no gradient yet there is no estimate; a decoupled decay waits, too, as in the authors' code."""
    params = some_params()
    optimizer = fs.Prodigy(params, weight_decay=0.1)
    before = copied(params)
    optimizer.step([np.zeros_like(param) for param in params])
    assert_same(params, before)
    assert [optimizer.state[i]["d"] for i in range(3)] == [1e-6] * 3
    optimizer.step([np.ones_like(param) for param in params])
    assert not any((param == other).any() for param, other in zip(params, before, strict=True))


@pytest.mark.parametrize("safeguard", [False, True])
def test_groups_at_rest(safeguard: bool) -> None:
    """A group of rate 0 has no part in the sums, and its states wait; schedules may start from 0."""
    params = some_params()
    options: Options = {"safeguard_warmup": safeguard, "d0": 1e-3}
    optimizer = fs.Prodigy([{"params": params[:1]}, {"params": params[1:], "lr": 0.0}], **options)
    theirs = Authors([{"params": copied(params[:1])}, {"params": copied(params[1:]), "lr": 0.0}], **options)
    rng = np.random.default_rng(2)
    for t in range(60):
        if t == 20:  # all at rest
            optimizer.param_groups[0]["lr"] = theirs.groups[0]["lr"] = 0.0
        if t in (25, 40):
            optimizer.param_groups[t == 25]["lr"] = theirs.groups[t == 25]["lr"] = 1.0
        grads = noisy(params, rng)
        optimizer.step([grads[:1], grads[1:]])
        theirs.step(grads, t + 1)
    agree(optimizer, params, theirs)
    assert theirs.d > 1e-3


def test_a_rate_of_zero_beside_an_estimate_whose_square_is_infinite() -> None:
    for where in (fs.reference, fs.functional):
        param, grad = np.ones(3), np.full(3, 2.0)
        states = [np.full(3, value) for value in (0.5, 0.25, 0.75, 1.0)]
        before = copied(states)
        where.prodigy(param, grad, *states, np.array(1e200), np.array(1e200), np.array(0.0), step=2, lr=0.0)
        assert_same(states, before)
        assert_same(param, np.ones(3))


def test_a_group_that_comes_later() -> None:
    """It begins with the estimate of the others, and its distance at its own first parameters."""
    params = some_params()
    optimizer, theirs = (
        fs.Prodigy([{"params": params[:2]}], d0=1e-3),
        Authors([{"params": copied(params[:2])}], d0=1e-3),
    )
    rng = np.random.default_rng(3)
    for t in range(40):
        if t == 20:
            optimizer.add_param_group({"params": params[2:]})
            theirs.groups.append({"params": copied(params[2:])})
        grads = noisy(params, rng)
        optimizer.step([grads[:2], grads[2:]] if t >= 20 else [grads[:2]])
        theirs.step(grads if t >= 20 else grads[:2], t + 1)
    agree(optimizer, params, theirs)


def test_rates_that_differ() -> None:
    """The authors refuse them; here each group has its own part, so that a rate of next to 0 is one of 0."""
    runs = []
    for lr in (0.0, 1e-30):
        params = some_params()
        optimizer = fs.Prodigy([{"params": params[:2]}, {"params": params[2:], "lr": lr}], d0=1e-3)
        rng = np.random.default_rng(4)
        for _ in range(10):
            grads = noisy(params, rng)
            optimizer.step([grads[:2], grads[2:]])
        runs.append([*params, optimizer.state[0]["d"]])
    for ours, other in zip(*runs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-12)
    params = some_params()
    optimizer = fs.Prodigy([{"params": params[:2]}, {"params": params[2:], "lr": 0.5, "d_coef": 4.0}], d0=1e-3)
    for _ in range(10):
        optimizer.step([noisy(params, rng)[:2], noisy(params, rng)[2:]])
    assert len({tuple(optimizer.state[i][name] for name in ("d", "d_max", "d_numerator")) for i in range(3)}) == 1


@pytest.mark.parametrize("kept", ["exact", "8bit"])
def test_saved_by_name_into_other_groups(kept: str) -> None:
    """A run that goes on in other groups leaves the same bits."""
    storage: Options = {"state_format": "8bit", "min_quantized_size": 0} if kept == "8bit" else {}
    params = dict(zip("abc", (param.astype(np.float32) for param in some_params()), strict=True))
    optimizer = fs.Prodigy(params, d0=1e-3, **storage)
    rng = np.random.default_rng(5)
    every = [{name: param - 3 + rng.standard_normal(param.shape).astype(np.float32) for name, param in params.items()}]
    for _ in range(11):
        every.append({name: grad * np.float32(0.9) for name, grad in every[-1].items()})
    for grads in every[:6]:
        optimizer.step(grads)
    saved, begun = optimizer.state_dict(), copied(params)
    other = fs.Prodigy([{"params": {n: begun[n]}} for n in "cab"], d0=1e-3, **storage)
    by_number = {0: 2, 1: 0, 2: 1}
    saved["state"] = {new: saved["state"][old] for new, old in by_number.items()}
    saved["param_groups"] = [saved["param_groups"][0] | {"params": [i]} for i in range(3)]
    saved.pop("fusedstep")
    other.load_state_dict(saved)
    assert [view["d"] for view in other.state] == [optimizer.state[0]["d"]] * 3
    for grads in every[6:]:
        optimizer.step(grads)
        other.step([{n: grads[n]} for n in "cab"])
    # the sums are added up in the order of the parameters, which is another one here
    for name in "abc":
        np.testing.assert_allclose(begun[name], params[name], rtol=1e-4 if kept == "exact" else 1e-2)
    assert other.state[0]["d"] == pytest.approx(optimizer.state[0]["d"], rel=1e-6 if kept == "exact" else 1e-2)


@pytest.mark.parametrize("read", [False, True])
def test_torch_parameters_that_lack_gradients(read: bool) -> None:
    """Those whose states are there have the estimate of all; whose state is made later begins with it."""
    torch = pytest.importorskip("torch")
    import fusedstep.torch as ft

    options: Options = {"d0": 1e-3, "weight_decay": 0.1}
    params = [param.astype(np.float32) for param in some_params()]
    theirs = [torch.nn.Parameter(torch.from_numpy(param.copy())) for param in params]
    alone, optimizer = fs.Prodigy(params, **options), ft.Prodigy(theirs, **options)
    rng = np.random.default_rng(8)
    for t in range(12):
        grads: list[Any] = [grad.astype(np.float32) for grad in noisy(params, rng)]
        if t < 4 or t == 9:
            grads[2] = None
        if t % 3 == 2:
            grads[0] = None
        for param, grad in zip(theirs, grads, strict=True):
            param.grad = None if grad is None else torch.from_numpy(grad)
        alone.step(grads)
        optimizer.step()
        if read:  # the tensors of the states are seen, and written in every step from then on
            shown = [{n: v.item() for n, v in optimizer.state[p].items() if v.numel() == 1} for p in theirs]
            for mine, other in zip(shown, alone.state, strict=True):
                assert mine == {name: other[name] for name in mine}, t
    saved = optimizer.state_dict()["state"]
    for i in range(3):
        assert_same(theirs[i].detach().numpy(), params[i])
        for name in ("step", "d", "d_max", "d_numerator"):
            assert saved[i][name].item() == alone.state[i][name]


def test_not_finite() -> None:
    """A step that is skipped changes no estimate; one that is not makes the sum NaN, so the estimate stays."""
    params = some_params()
    optimizer = fs.Prodigy(params, d0=1e-3, skip_nonfinite=True)
    rng = np.random.default_rng(6)
    for _ in range(5):
        optimizer.step(noisy(params, rng))
    before = snapshot(optimizer)
    assert float(optimizer.state[0]["d"]) > 1e-3
    bad = noisy(params, rng)
    bad[1][0] = np.nan
    assert not optimizer.step(bad)
    assert_same(snapshot(optimizer), before)
    optimizer = fs.Prodigy(params, d0=1e-3)
    optimizer.step(bad)
    optimizer.step(noisy(params, rng))
    assert optimizer.state[0]["d"] == 1e-3 and math.isnan(float(optimizer.state[0]["d_numerator"]))


def test_nothing_to_step() -> None:
    empty = fs.Prodigy([np.zeros(0, np.float32), np.zeros((2, 0))])
    empty.step([np.zeros(0, np.float32), np.zeros((2, 0))])
    assert empty.state[0]["d"] == 1e-6
    params = some_params()
    optimizer = fs.Prodigy(params)
    before = snapshot(optimizer)
    optimizer.step([None, None, None])
    assert_same(snapshot(optimizer), before)


def test_threads_and_instruction_sets() -> None:
    """A model large enough for several threads: the bytes of one, on every instruction set."""
    found = []
    for isa in fs.available_isas():
        for threads in (1, 2, 3):
            rng = np.random.default_rng(7)
            params = [rng.standard_normal(n).astype(np.float32) for n in (100_003, 17, 65_536)]
            optimizer = fs.Prodigy(params, d0=1e-3, weight_decay=0.1)
            with running(isa, threads):
                for _ in range(4):
                    optimizer.step([param + rng.standard_normal(param.shape).astype(np.float32) for param in params])
            found.append([*params, np.array([optimizer.state[1][name] for name in ("d", "d_max", "d_numerator")])])
    for other in found[1:]:
        assert_same(other, found[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d0": 0.0}, r"d0: got 0.0, needs > 0 and finite"),
        ({"d_coef": -1.0}, r"d_coef: got -1.0, needs > 0 and finite"),
        ({"growth_rate": 0.5}, r"growth_rate: got 0.5, needs >= 1"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\]: got 1.0, needs >= 0 and < 1"),
    ],
)
def test_refused(options: Options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fs.Prodigy(np.ones(3), **options)
