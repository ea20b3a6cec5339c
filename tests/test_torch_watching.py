"""`watch` and `metrics` of the optimizers for torch: the figures are those of the optimizers for NumPy."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")

import fusedstep.torch as ft  # noqa: E402

SIZES = {"W": (30, 100), "b": (7,), "table": (50, 51)}


def arrays(seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SIZES.items()}


def parameters(values: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, torch.nn.Parameter(torch.from_numpy(value.copy()))) for name, value in values.items()]


def set_grads(named: Any, grads: dict[str, Any]) -> None:
    for name, param in named:
        param.grad = None if grads[name] is None else torch.from_numpy(grads[name].copy())


CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("Adam", {"state_format": "8bit"}),
    ("AdamW", {"max_grad_norm": 1.0, "ema_decay": 0.9}),
    ("Adam", {"amsgrad": True, "clip_value": 0.5}),
    ("RMSprop", {"lr": 0.01}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_figures_are_those_of_numpy(name: str, options: dict[str, Any]) -> None:
    values, named = arrays(1), parameters(arrays(1))
    torchs, numpys = getattr(ft, name)(named, **options), getattr(fs, name)(values, **options)
    mine, native = torchs.watch(every=2), numpys.watch(every=2)
    for t in range(5):
        grads = arrays(2 + t)
        if t == 3:
            grads["b"] = None
        set_grads(named, grads)
        torchs.step()
        numpys.step(grads)
        assert mine.last.step == native.last.step
        assert dict(mine.last) == dict(native.last)
        assert mine.last.model == native.last.model
        for parameter in SIZES:
            one, other = mine.last.rates(parameter), native.last.rates(parameter)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                np.testing.assert_array_equal(one.counts, other.counts)
                np.testing.assert_array_equal(one.edges, other.edges)
    assert [seen.step for seen in mine.history] == [1, 3, 5]
    common = {k: v for k, v in numpys.metrics().items() if k not in ("steps_taken", "nonfinite_blocks")}
    assert torchs.metrics().keys() <= common.keys() | {"foreach"}
    assert {k: torchs.metrics()[k] for k in ("lr", "watch/ratio", "watch/step")} == {
        k: common[k] for k in ("lr", "watch/ratio", "watch/step")
    }


def test_models_that_are_made_anew() -> None:
    """Loading, exposing states and adding groups keep the count of steps to the next watched one."""
    named = parameters(arrays(1))
    opt = ft.Adam(named)
    watch = opt.watch(every=3)
    assert not watch.last
    for t in range(10):
        set_grads(named, arrays(t))
        if t == 2:
            opt.load_state_dict(opt.state_dict())
        if t == 4:
            opt.add_param_group({"params": [("V", torch.nn.Parameter(torch.ones(3)))]})
            opt.param_groups[-1]["params"][0].grad = torch.ones(3)
        if t == 7:
            opt.state[named[0][1]]["exp_avg"] = torch.zeros(SIZES["W"])
        opt.step()
    assert [seen.step for seen in watch.history] == [1, 4, 7, 10]
    assert list(watch.history[1]) == list(SIZES)
    assert list(watch.last) == [*SIZES, "V"]
    watch.close()
    opt.step()
    assert len(watch.history) == 4
    opt.watch().close()


def test_without_names() -> None:
    opt = ft.SGD(
        [{"params": [torch.nn.Parameter(torch.ones(3))]}, {"params": [torch.nn.Parameter(torch.ones(2))]}], lr=0.5
    )
    for group in opt.param_groups:
        group["params"][0].grad = torch.full_like(group["params"][0], 2.0)
    watch = opt.watch()
    opt.step()
    assert list(watch.last) == ["0.0", "1.0"]
    assert watch.last["1.0"].grad_norm == math.sqrt(8)


def test_skipped_steps_and_mistakes() -> None:
    named = parameters(arrays(1))
    opt = ft.Adam(named, skip_nonfinite=True)
    watch = opt.watch()
    grads = arrays(2)
    grads["W"][0, 0] = np.inf
    set_grads(named, grads)
    opt.step()
    assert not watch.last.taken
    assert watch.last["W"].nonfinite == 1 / 3000
    assert watch.last["b"].nonfinite == 0
    assert opt.metrics()["skipped_steps"] == 1
    with pytest.raises(ValueError, match="watch: got an optimizer that is watched"):
        opt.watch()
    with pytest.raises(TypeError, match="every: got"):
        ft.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1).watch(1.5)  # type: ignore[arg-type]
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        other.watch()


@pytest.mark.parametrize("free_gradients", [False, True])
def test_offloaded(free_gradients: bool) -> None:
    values = arrays(1)
    named = parameters(values)
    opt = ft.CPUOffload(ft.AdamW, named, free_gradients=free_gradients)
    numpys = fs.AdamW(values)
    mine, native = opt.watch(every=2), numpys.watch(every=2)
    for t in range(4):
        grads = arrays(2 + t)
        sum((param * torch.from_numpy(grads[name])).sum() for name, param in named).backward()
        opt.step()
        opt.zero_grad()
        numpys.step(grads)
        assert dict(mine.last) == dict(native.last)
    assert [seen.step for seen in mine.history] == [1, 3]


def test_in_backward() -> None:
    """Parameters that are stepped one by one make one record together."""
    values = arrays(1)
    named = parameters(values)
    opt = ft.apply_in_backward(named, ft.AdamW)
    numpys = fs.AdamW(values)
    mine, native = opt.watch(every=2), numpys.watch(every=2)
    for t in range(4):
        grads = arrays(2 + t)
        sum((param * torch.from_numpy(grads[name])).sum() for name, param in named).backward()
        numpys.step(grads)
        assert dict(mine.last) == dict(native.last)
        assert mine.last.step == native.last.step
    assert [seen.step for seen in mine.history] == [1, 3]
    total = mine.last.model
    assert total.ratio == pytest.approx(native.last.model.ratio, rel=1e-12)
    one, other = mine.last.rates("W"), native.last.rates("W")
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.counts, other.counts)


def test_records_in_backward_that_nobody_looks_at_are_dropped() -> None:
    """There is one of each parameter: memory is held for those of `keep` steps."""
    named = parameters(arrays(1))
    watch = ft.apply_in_backward(named, ft.AdamW).watch(every=1, keep=2)
    for t in range(5):
        grads = arrays(2 + t)
        sum((param * torch.from_numpy(grads[name])).sum() for name, param in named).backward()
    assert len(watch._records) == 2 * len(named)
    assert [seen.step for seen in watch.history] == [4, 5]


def test_records_in_backward_without_a_limit() -> None:
    named = parameters(arrays(1))
    watch = ft.apply_in_backward(named, ft.AdamW).watch(every=1, keep=2**64 // len(named) + 1)
    for _ in range(2):
        sum(param.sum() for _, param in named).backward()
    assert [seen.step for seen in watch.history] == [1, 2]
    assert len(watch.last) == len(named)


def test_bfloat16_loses_updates() -> None:
    param = torch.nn.Parameter(torch.ones(3000, dtype=torch.bfloat16))
    opt = ft.SGD([param], lr=1e-4)
    watch = opt.watch()
    param.grad = torch.ones_like(param)
    opt.step()
    assert watch.last["0.0"].ratio == 0


def test_accumulation_as_torch_does_it() -> None:
    """Gradients of several backward passes add up in ``grad``; ``step`` is called after every fourth."""
    values = arrays(1)
    named = parameters(values)
    opt, numpys = ft.AdamW(named, lr=0.01), fs.AdamW(values, lr=0.01, accumulate_steps=4)
    mine, native = opt.watch(every=1), numpys.watch(every=1)
    for t in range(8):
        grads = arrays(2 + t)
        loss = sum((param * torch.from_numpy(grads[name])).sum() for name, param in named)
        (loss / 4).backward()
        numpys.step(grads)
        if (t + 1) % 4 == 0:
            opt.step()
            opt.zero_grad()
    assert len(mine.history) == len(native.history) == 2
    for name, param in named:
        np.testing.assert_allclose(param.detach().numpy(), values[name], rtol=1e-5, atol=1e-7)
        assert mine.last[name].grad_norm == pytest.approx(native.last[name].grad_norm, rel=1e-6)


def test_muon_and_the_rule_beside_it() -> None:
    named = parameters(arrays(1))
    opt = ft.Muon(named, lr=0.01)
    watch = opt.watch(every=1)
    for t in range(2):
        before = {name: param.detach().clone() for name, param in named}
        set_grads(named, arrays(2 + t))
        opt.step()
        for name, param in named:
            figures = watch.last[name]
            assert figures.update_norm == pytest.approx(float((param.detach() - before[name]).norm()), rel=1e-5)
            assert figures.param_norm == pytest.approx(float(param.detach().norm()), rel=1e-5)
    assert [seen.step for seen in watch.history] == [1, 2]
    rules = {name: opt._rule_of(group) for group in opt.param_groups for name in group["param_names"]}
    assert {name: watch.last.rates(name) is not None for name in SIZES} == {n: r != "muon" for n, r in rules.items()}
    assert opt.metrics()["watch/step"] == 2
