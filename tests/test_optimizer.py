"""An optimizer as its user meets it: structures, groups, bound gradients, state, memory, copies, repr."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import weakref
from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, ROWS, Array, Twin, assert_same, copied, numbers, snapshot

import fusedstep
from fusedstep._step_options import GROUP_OPTIONS
from fusedstep.reference import RULES

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker
F32 = np.float32
Pair = namedtuple("Pair", "left right")


def ones(*shape: int, dtype: Any = F32) -> Array:
    return np.ones(shape, dtype)


STRUCTURES: list[Any] = [
    lambda: ones(3),
    lambda: ones(),
    lambda: [ones(3), ones(2, 2)],
    lambda: (ones(3), (ones(1), [ones(2)])),
    lambda: {"W": ones(3), 7: {"b": ones(1), ("x", 1): [ones(4)]}, "empty": [], "none": {}},
    lambda: OrderedDict(b=ones(2), a=ones(3)),
    lambda: Pair(ones(2), {"deep": ones(1)}),
    lambda: [ones(0), ones(3, 0, 2), ones(1)],
]


@pytest.mark.parametrize("make", STRUCTURES)
def test_structures(make: Any) -> None:
    """Any nesting of dict, list and tuple; parameters stay where they are and change in place."""
    params, grads = make(), make()
    optimizer = fs.SGD(params, lr=0.5, ema_decay=0.5)
    assert optimizer.step(grads)
    leaves = [slot.param for slot in optimizer._slots]
    assert all(np.array_equal(leaf, np.full(leaf.shape, 0.5, F32)) for leaf in leaves)
    averages = optimizer.ema_params()
    assert type(averages) in (type(params), dict)
    assert_same(fs.SGD(averages)._tree.paths, fs.SGD(params)._tree.paths)
    assert all(np.array_equal(slot.ema, np.full(slot.param.shape, 0.75, F32)) for slot in optimizer._slots)
    bound = fs.SGD(params, grads=grads, lr=0.5)
    assert bound.step()
    assert all(np.array_equal(leaf, np.zeros(leaf.shape, F32)) for leaf in leaves)
    assert_same(grads, make())


def test_order_of_keys_does_not_matter() -> None:
    params = {"a": ones(2), "b": ones(3)}
    fs.SGD(params, lr=1.0).step({"b": np.full(3, 2, F32), "a": ones(2)})
    assert_same(params, {"a": np.zeros(2, F32), "b": np.full(3, -1, F32)})
    fs.SGD([ones(2), ones(1)]).step((ones(2), ones(1)))


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_missing_gradients(rule: str) -> None:
    """None for a parameter or a branch leaves it, its states and its count alone."""
    params = {"a": numbers(5), "b": [numbers(6), numbers(7)]}
    optimizer = CLASSES[rule](params, **ROWS[rule].options[-1])
    optimizer.step({"a": numbers(5), "b": [numbers(6), numbers(7)]})
    before = snapshot(optimizer)
    optimizer.step({"a": numbers(5), "b": None})
    assert_same(snapshot(optimizer)[1:], before[1:])
    assert [view["step"] for view in optimizer.state] == [2, 1, 1]
    optimizer.step({"a": None, "b": [None, numbers(7)]})
    assert [view["step"] for view in optimizer.state] == [2, 1, 2]
    before = snapshot(optimizer)
    optimizer.step({"a": None, "b": None})
    assert_same(snapshot(optimizer), before)
    assert optimizer.steps_taken == 4
    # alone or among others, a parameter goes the same way
    alone = copied(params["a"])
    single = CLASSES[rule](alone, **ROWS[rule].options[-1])
    single.load_state_dict(
        {
            "state": {0: dict(optimizer.state[0])},
            "param_groups": [optimizer.state_dict()["param_groups"][0] | {"params": [0]}],
        }
    )
    optimizer.step({"a": numbers(5, seed=9), "b": None})
    single.step(numbers(5, seed=9))
    assert_same(alone, params["a"])


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_missing_gradients_leave_the_noise_of_others(rule: str) -> None:
    """With sums over the model and some gradients missing, every tensor is rounded by its own number."""
    lengths = [300, 0, 7, 2048, 33]
    params = [numbers(n, BFLOAT16, seed=i) for i, n in enumerate(lengths)]
    optimizer = CLASSES[rule](params, rounding="stochastic", seed=5, max_grad_norm=1.0)
    twin = Twin(optimizer)
    for t, present in enumerate([(1, 0, 0, 1, 0), (0, 1, 1, 0, 1), (0, 0, 0, 0, 1), (0, 0, 0, 0, 0), (1, 1, 1, 1, 1)]):
        grads = [numbers(n, seed=10 * t + i) if present[i] else None for i, n in enumerate(lengths)]
        mine = copied(grads)
        assert optimizer.step(mine) is twin.step(grads)
        twin.check(f"step {t + 1}")


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_state(rule: str) -> None:
    optimizer = CLASSES[rule]([ones(5), ones(6)], **ROWS[rule].options[-1])
    used = {state.name for state in RULES[rule].used(optimizer.param_groups[0])} | {"step", *RULES[rule].scalars}
    assert len(optimizer.state) == 2
    view = optimizer.state[0]
    assert set(view) == used and len(view) == len(used) and view["step"] == 0 and "step" in view
    before = {name: view[name] for name in used}
    optimizer.step([ones(5), ones(6)])
    assert optimizer.state[0]["step"] == 1
    for name, value in before.items():
        if isinstance(value, np.ndarray):
            assert optimizer.state[0][name] is value, "arrays are the live ones"
    assert repr(dict(view)) == repr(view)
    with pytest.raises(TypeError):
        view["step"] = 3
    with pytest.raises(KeyError):
        view["velocity"]


def test_groups() -> None:
    a, b = ones(2), ones(3)
    optimizer = fs.Adam([{"params": a, "lr": 0.1}, {"params": {"b": b}}], lr=0.5, betas=(0.5, 0.5))
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.5) and optimizer.param_groups[0]["params"] is a
    optimizer.step([ones(2), {"b": ones(3)}])
    np.testing.assert_allclose(a, 0.9, rtol=1e-6)
    np.testing.assert_allclose(b, 0.5, rtol=1e-6)
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.step([ones(2), {"b": ones(3)}])
    np.testing.assert_allclose(b, 0.5, rtol=1e-6)
    c = ones(4)
    optimizer.add_param_group({"params": [c], "lr": 1.0})
    optimizer.step([ones(2), {"b": ones(3)}, [ones(4)]])
    assert [view["step"] for view in optimizer.state] == [3, 3, 1]
    assert optimizer.steps_taken == 3
    assert abs(c[0]) < 1e-6


def test_add_param_group_to_a_single_one() -> None:
    a = {"w": ones(2)}
    optimizer = fs.Adam(a, lr=0.5, ema_decay=0.9, state_format="bfloat16", min_quantized_size=0)
    optimizer.step({"w": ones(2)})
    before = snapshot(optimizer)
    optimizer.add_param_group({"params": ones(3), "lr": 0.25})
    assert_same(snapshot(optimizer)[:1], before)
    with pytest.raises(TypeError, match=r'^grads\[0\]\["w"\]: got dtype float64'):
        optimizer.step([{"w": np.ones(2)}, ones(3)])
    optimizer.step([{"w": ones(2)}, ones(3)])
    assert optimizer.state[1]["step"] == 1 and len(optimizer.ema_params()) == 2


def test_every_group_option() -> None:
    groups = [
        {"params": ones(5000), "state_format": "8bit"},
        {"params": ones(5000, dtype=BFLOAT16), "master": "split", "maximize": True},
        {"params": ones(5000, dtype=BFLOAT16), "rounding": "stochastic", "ema_decay": 0.5},
        {"params": ones(5000), "clip_value": 0.1, "min_quantized_size": 5000, "state_format": "bfloat16"},
    ]
    optimizer = fs.Adam(groups, lr=0.5)
    kinds = [{name: value.dtype.name for name, value in view.items() if name != "step"} for view in optimizer.state]
    assert kinds[0]["exp_avg"] == "uint8" and kinds[0]["exp_avg_scales"] == "float32"
    assert kinds[1]["remainder"] == "int16" and kinds[2]["ema"] == "float32" and kinds[3]["exp_avg"] == "bfloat16"
    optimizer.step([ones(5000), ones(5000, dtype=BFLOAT16), ones(5000, dtype=BFLOAT16), ones(5000)])
    values = [float(slot.param[0]) for slot in optimizer._slots]
    np.testing.assert_allclose(values, [0.5, 1.5, 0.5, 0.5], rtol=1e-2)


def test_bound_gradients() -> None:
    params = [ones(3), ones(4)]
    grads: list[Any] = [ones(3), None]
    optimizer = fs.SGD(params, grads=grads, lr=0.5)
    assert optimizer.step()
    assert_same(params, [np.full(3, 0.5, F32), ones(4)])
    grads[0][...] = -1
    assert optimizer.step()
    assert_same(params[0], ones(3))
    # others for one step, and back
    assert optimizer.step([np.full(3, 2, F32), ones(4)])
    assert_same(params, [np.zeros(3, F32), np.full(4, 0.5, F32)])
    with pytest.raises(ValueError):
        optimizer.step([ones(3)])
    assert optimizer.step()
    assert_same(params, [np.full(3, 0.5, F32), np.full(4, 0.5, F32)])
    # a list that is changed afterwards is not looked at again: the arrays were bound
    grads[0] = np.full(3, 1e9, F32)
    assert optimizer.step()
    assert_same(params[0], ones(3))


def test_bound_gradients_are_kept_alive() -> None:
    grads = [ones(1000)]
    optimizer = fs.SGD([ones(1000)], grads=grads, lr=0.5)
    alive = weakref.ref(grads[0])
    grads.clear()
    gc.collect()
    assert alive() is not None and optimizer.step()
    del optimizer
    gc.collect()
    assert alive() is None


def test_nothing_keeps_an_optimizer_alive() -> None:
    param = ones(10)
    optimizer = fs.Adam({"a": param}, lr=lambda t: 0.1, grads={"a": ones(10)})
    optimizer.step()
    alive = weakref.ref(optimizer)
    view = optimizer.state[0]
    del optimizer
    gc.collect()
    assert alive() is None
    assert view["exp_avg"].shape == (10,)


def test_zero_grads_and_grad_scale() -> None:
    param, grad = np.zeros(3), np.array([2.0, -4.0, np.nan])
    optimizer = fs.SGD(param, lr=1.0, zero_grads=True)
    optimizer.step(grad, grad_scale=2.0)
    assert_same([param, grad], [np.array([-1.0, 2.0, np.nan]), np.zeros(3)])
    fixed = np.array([4.0, 4.0, 4.0])
    fixed.flags.writeable = False
    optimizer.zero_grads = False
    optimizer.step(fixed, grad_scale=np.float32(4.0))
    assert param[0] == -2.0


def test_skipped_steps() -> None:
    param = ones(3)
    optimizer = fs.Adam(param, skip_nonfinite=True, ema_decay=0.5, zero_grads=True, lr=lambda t: 1.0 / (t + 1))
    before = snapshot(optimizer)
    for bad in (np.nan, np.inf, -np.inf):
        grad = np.array([1.0, bad, 1.0], F32)
        assert optimizer.step(grad) is False
        assert_same(grad, np.array([1.0, bad, 1.0], F32))
    assert_same(snapshot(optimizer), before)
    assert (optimizer.steps_taken, optimizer.skipped_steps) == (0, 3)
    assert optimizer.step(ones(3)) is True
    assert (optimizer.steps_taken, optimizer.skipped_steps) == (1, 3)
    # large numbers are finite, though their squares are not
    huge = fs.SGD(np.zeros(3), skip_nonfinite=True)
    assert huge.step(np.full(3, 1e300)) is True


def test_norms() -> None:
    params = [ones(3), ones(1)]
    optimizer = fs.SGD(params, lr=1.0, max_grad_norm=1.0)
    optimizer.step([np.array([3, 0, 0], F32), np.array([4], F32)], grad_scale=0.5)
    assert optimizer.grad_norm == 10.0
    np.testing.assert_allclose(params[0], [1 - 0.6, 1, 1], rtol=1e-6)
    optimizer.max_grad_norm = None
    optimizer.step([ones(3), ones(1)])
    np.testing.assert_allclose(params[0], [-0.6, 0, 0], rtol=1e-6)


def test_nonfinite_blocks_are_reported_and_confined() -> None:
    grad = ones(1024)
    grad[300] = np.nan
    optimizer = fs.Adam(ones(1024), state_format="8bit", min_quantized_size=0)
    with pytest.warns(
        RuntimeWarning, match=r"^2 block\(s\) of 256 8-bit state values hold an infinity or NaN"
    ) as caught:
        optimizer.step(grad)
    assert caught[0].filename == __file__
    assert optimizer.nonfinite_blocks == 2
    with pytest.warns(RuntimeWarning):
        optimizer.step(ones(1024))
    broken = np.isnan(optimizer.param_groups[0]["params"])
    assert broken[256:512].all() and broken.sum() == 256


def test_memory() -> None:
    for options, expected in (
        ({}, {"params": 4.0, "exp_avg": 4.0, "exp_avg_sq": 4.0, "total": 12.0}),
        ({"state_format": "8bit"}, {"params": 4.0, "exp_avg": 1.015625, "exp_avg_sq": 1.015625, "total": 6.03125}),
        (
            {"state_format": "bfloat16", "ema_decay": 0.9},
            {"params": 4.0, "exp_avg": 2.0, "exp_avg_sq": 2.0, "ema": 4.0, "total": 12.0},
        ),
    ):
        assert fs.Adam(ones(8192), **options).memory() == expected
    held = fs.AdamW(ones(8192, dtype=BFLOAT16), master="split", state_format="8bit").memory()
    assert held == {"params": 2.0, "remainder": 2.0, "exp_avg": 1.015625, "exp_avg_sq": 1.015625, "total": 6.03125}
    assert fs.SGD(ones(0)).memory()["total"] == 0.0
    with pytest.raises(ValueError, match=r"^params\[1\]: has no average"):
        fs.SGD([{"params": ones(1), "ema_decay": 0.5}, {"params": ones(1)}]).ema_params()


@pytest.mark.parametrize("option", sorted(GROUP_OPTIONS))
def test_pickles_of_versions_without_an_option(option: str) -> None:
    """What came later has its default, and gradients that were summed still are."""
    options = {"lr": 0.5, "accumulate_steps": 2}
    optimizer = fs.SGD(ones(3), **options)
    state = fs.SGD(ones(3), **options).__getstate__()
    state["defaults"].pop(option)
    for group in state["param_groups"]:
        group.pop(option)
    del state["_summed"]
    other = fs.SGD.__new__(fs.SGD)
    other.__setstate__(state | {"_accumulated": 0, "_received": frozenset()})
    for t in range(4):
        assert (optimizer.accumulated, other.accumulated) == (t % 2, t % 2)
        optimizer.step(ones(3))
        other.step(ones(3))
    assert_same(snapshot(other), snapshot(optimizer))
    assert getattr(other, option) == GROUP_OPTIONS[option] == other.defaults[option]
    other.add_param_group({"params": ones(2)})


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_copies_are_independent(rule: str) -> None:
    shared = ones(3)
    optimizer = CLASSES[rule](
        {"a": shared, "b": [ones(4)]}, **ROWS[rule].options[-1], grads={"a": ones(3), "b": [ones(4)]}
    )
    optimizer.step()
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert type(other) is type(optimizer) and repr(other) == repr(optimizer)
        before = snapshot(optimizer)
        assert_same(snapshot(other), before)
        assert other.param_groups[0]["params"]["a"] is other._slots[0].param
        other._grads["a"][...] = 5
        other.step()
        assert_same(snapshot(optimizer), before)
        assert other.steps_taken == 2 and optimizer.steps_taken == 1
        other.param_groups[0]["maximize"] = True
        assert optimizer.param_groups[0]["maximize"] is False
    with pytest.raises(TypeError, match="cannot share one set of states"):
        copy.copy(optimizer)


def test_copy_with_the_model_it_belongs_to() -> None:
    class Net:
        def __init__(self) -> None:
            self.weights = {"w": ones(3)}
            self.optimizer = fs.SGD(self.weights, lr=1.0)

    net = copy.deepcopy(Net())
    net.optimizer.step({"w": ones(3)})
    assert_same(net.weights["w"], np.zeros(3, F32))


def test_repr() -> None:
    text = repr(fs.Adam([{"params": ones(3)}, {"params": ones(2, 2), "lr": 0.5, "state_format": "8bit"}], lr=0.1))
    assert text.splitlines() == [
        "Adam(",
        "  3 parameters: lr=0.1, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, eps_root=0.0",
        "  4 parameters: lr=0.5, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False, eps_root=0.0, "
        "state_format='8bit'",
        ")",
    ]
    assert "<lambda>" in repr(fs.SGD(ones(1), lr=lambda t: 1.0)) or "function" in repr(
        fs.SGD(ones(1), lr=lambda t: 1.0)
    )


def test_hyper_parameters_may_be_any_number() -> None:
    for lr in (1, np.float32(1), np.float64(1), np.array(1.0), np.int64(1), lambda t: np.float32(1)):
        param = ones(2)
        fs.SGD(param, lr=lr).step(ones(2))
        assert_same(param, np.zeros(2, F32))
    mutable = np.array(1.0)
    param = ones(2)
    optimizer = fs.SGD(param, lr=mutable)
    optimizer.step(ones(2))
    mutable[...] = 0.5
    optimizer.step(ones(2))
    assert_same(param, np.full(2, -0.5, F32))
    betas = [0.5, 0.5]
    adam = fs.Adam(ones(2), lr=1.0, betas=betas)
    adam.step(ones(2))
    betas[1] = 2.0
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["betas"\]\[1\]: got .*, needs'):
        adam.step(ones(2))


def test_views_and_subclasses() -> None:
    class Mine(np.ndarray[Any, Any]):
        pass

    buffer = np.ones(30, F32)
    part = buffer[10:20].view(Mine)
    fs.SGD({"part": part}, lr=1.0).step({"part": np.ones(10, F32).view(Mine)})
    assert buffer[10:20].sum() == 0 and buffer.sum() == 20
    table = np.ones((4, 5), F32)
    rows = list(table)
    fs.SGD(rows, lr=1.0).step([np.full(5, i, F32) for i in range(4)])
    assert_same(table[:, 0], np.array([1, 0, -1, -2], F32))


def test_a_schedule_counts_from_zero() -> None:
    seen: list[int] = []

    def rate(t: int) -> float:
        seen.append(t)
        return 0.1

    optimizer = fs.SGD(ones(1), lr=rate, skip_nonfinite=True)
    seen.clear()
    optimizer.step(ones(1))
    optimizer.step(np.full(1, np.nan, F32))
    optimizer.step(ones(1))
    assert sorted(set(seen)) == [0, 1]
    schedule = fs.schedules.__dict__[fs.schedules.__all__[0]]
    assert callable(schedule)


def test_many_tensors() -> None:
    params = [np.zeros(i % 7, F32) for i in range(1000)]
    optimizer = fs.Adam(params, lr=1.0)
    for _ in range(2):
        optimizer.step([np.ones(i % 7, F32) for i in range(1000)])
    assert all(np.allclose(p, -2.0) for p in params)


def arrays_of(optimizer: Any, count: int) -> list[Array]:
    states = optimizer.state[:count]
    return [array for state in states for array in state.values() if isinstance(array, np.ndarray)]


@pytest.mark.parametrize("state_format", ["float32", "8bit"])
def test_small_states_lie_in_blocks(state_format: str) -> None:
    """Together they are worth huge pages; an array that a user holds stays the live one when a group is added."""
    params = [np.ones(40_000 + i, np.float32) for i in range(40)]
    optimizer = fs.Adam(params[:39], state_format=state_format, ema_decay=0.5)
    held = arrays_of(optimizer, 39)
    kinds = len(held) // 39
    assert len({id(array.base) for array in held}) == kinds
    assert all(array.ctypes.data % 64 == 0 for array in held)
    ends = sorted((array.ctypes.data, array.ctypes.data + array.nbytes) for array in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    optimizer.add_param_group({"params": params[39]})
    optimizer.step([[np.ones_like(p) for p in params[:39]], np.ones_like(params[39])])
    assert all(array.any() for array in held)
    assert all(one is other for one, other in zip(held, arrays_of(optimizer, 39), strict=True))
    assert len({id(array.base) for array in arrays_of(copy.deepcopy(optimizer), 40)}) == kinds
    for size in (1, 10, 2_000_000):
        one = fs.Adam(np.ones(size, np.float32), state_format=state_format, ema_decay=0.5)
        places = [array.ctypes.data % 4096 for array in arrays_of(one, 1)]
        assert len(set(places)) == len(places)
        assert all(place % 64 == 0 for place in places)
