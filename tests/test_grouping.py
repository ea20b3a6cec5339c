"""Groups by a condition: `fs.groups` and `fs.layer_decay`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from cases import CLASSES, ROWS, assert_same, label

import fusedstep as fs
from fusedstep.reference import RULES

HEAVY: dict[str, Any] = {"max_grad_norm": 0.5, "ema_decay": 0.9, "state_format": "8bit", "min_quantized_size": 0}


def network(seed: int = 0) -> dict[str, Any]:
    """Matrices and vectors in turn, so that groups interleave."""
    rng = np.random.default_rng(seed)
    return {
        f"layer{i}": {
            "W": rng.standard_normal((4, 5)).astype(np.float32),
            "b": rng.standard_normal(5).astype(np.float32),
        }
        for i in range(3)
    }


def flat(tree: Any) -> dict[str, Any]:
    return {f"{layer}.{name}": array for layer, entries in tree.items() for name, array in entries.items()}


def vector(path: str, array: Any) -> bool:
    return bool(array.ndim < 2)


@pytest.mark.parametrize("rule", [kind for kind in CLASSES.values() if not RULES[kind.rule].whole], ids=label)
@pytest.mark.parametrize("bound", [False, True])
def test_same_as_groups_by_hand(rule: Any, bound: bool) -> None:
    """Every array steps as in an optimizer of its own group; gradients come in the parameters' structure."""
    options = ROWS[rule.rule].options[-1]
    params, grads = network(), network(1)
    optimizer = rule(fs.groups(params, where=vector, lr=0.25), grads=grads if bound else None, **options)
    other = network()
    by_hand = {
        name: rule([array], **{**options, **({"lr": 0.25} if array.ndim < 2 else {})})
        for name, array in flat(other).items()
    }
    for _ in range(3):
        optimizer.step(*() if bound else (grads,))
        for name, single in by_hand.items():
            single.step([flat(grads)[name]])
    assert_same(params, other)


def test_everything_around_a_step() -> None:
    """With clipping by the global norm, averages and 8-bit states, as a list of groups steps."""
    params, listed = network(), network()
    optimizer = fs.AdamW(fs.groups(params, where=vector, weight_decay=0.0), lr=0.1, weight_decay=0.1, **HEAVY)
    matrices = [entry["W"] for entry in listed.values()]
    vectors = [entry["b"] for entry in listed.values()]
    other = fs.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], lr=0.1, weight_decay=0.1, **HEAVY
    )
    for seed in range(4):
        grads = network(seed + 10)
        optimizer.step(grads)
        other.step([[entry["W"] for entry in grads.values()], [entry["b"] for entry in grads.values()]])
    # The norm is summed in another order, so the last bits may differ.
    for mine, theirs in zip(flat(params).values(), flat(listed).values(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-7)
    assert optimizer.grad_norm == pytest.approx(other.grad_norm)
    assert list(optimizer.ema_params()) == list(params)
    assert optimizer.ema_params()["layer1"]["b"].shape == (5,)


def test_groups_in_groups() -> None:
    params = network()
    given = fs.groups(params, where=vector, weight_decay=0.0)
    given = fs.groups(given, where=lambda path, p: "layer2" in path, lr=0.5)
    optimizer = fs.AdamW(given, lr=0.1, weight_decay=0.3)
    shown = [(len(group["params"]), group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert shown == [(2, 0.1, 0.3), (2, 0.1, 0.0), (1, 0.5, 0.3), (1, 0.5, 0.0)]
    assert optimizer.param_groups[2]["params"][0] is params["layer2"]["W"]
    optimizer.param_groups[2]["lr"] = 0.0
    before = copy.deepcopy(params)
    optimizer.step(network(1))
    assert_same(params["layer2"]["W"], before["layer2"]["W"])
    assert all(not np.array_equal(flat(params)[k], flat(before)[k]) for k in flat(params) if k != "layer2.W")


@pytest.mark.parametrize("way", ["state_dict", "pickle", "deepcopy"])
def test_resumes(way: str) -> None:
    params = network()
    optimizer = fs.AdamW(fs.groups(params, where=vector, weight_decay=0.0), lr=0.1, **HEAVY)
    optimizer.step(network(1))
    if way == "state_dict":
        others = copy.deepcopy(params)
        other = fs.AdamW(fs.groups(others, where=vector, weight_decay=0.0), lr=0.1, **HEAVY)
        other.load_state_dict(optimizer.state_dict())
    else:
        other = pickle.loads(pickle.dumps(optimizer)) if way == "pickle" else copy.deepcopy(optimizer)
    optimizer.step(network(2))
    other.step(network(2))
    assert_same([dict(state) for state in other.state], [dict(state) for state in optimizer.state])
    assert_same(other.ema_params(), optimizer.ema_params())


def test_checkpoints_know_the_names() -> None:
    params = network()
    saved = fs.Adam(fs.groups(params, where=vector, lr=0.5))
    saved.step(network(1))
    state = saved.state_dict()
    assert state["param_groups"][1]["param_names"] == [f'["layer{i}"]["b"]' for i in range(3)]
    turned = {name: dict(reversed(entry.items())) for name, entry in reversed(network().items())}
    other = fs.Adam(fs.groups(turned, where=vector, lr=0.5))
    other.load_state_dict(state)
    other.step(network(2))
    saved.step(network(2))
    by_name = dict(zip(flat(params), saved.state, strict=True))
    for path, state_ in zip(flat(turned), other.state, strict=True):
        assert_same(dict(state_), dict(by_name[path]), path)


def test_another_group_later() -> None:
    params, head = network(), np.ones(3, np.float32)
    optimizer = fs.Adam(fs.groups(params, where=vector, lr=0.5))
    optimizer.step(network(1))
    optimizer.add_param_group({"params": head, "lr": 0.25})
    optimizer.step([network(2), np.ones(3, np.float32)])
    assert head[0] == pytest.approx(0.75)
    names = [group["param_names"] for group in optimizer.state_dict()["param_groups"]]
    assert [len(group) for group in names] == [3, 3, 1]
    assert names[1][0] == '["layer0"]["b"]'
    other = pickle.loads(pickle.dumps(optimizer))
    other.load_state_dict(optimizer.state_dict())
    assert_same([dict(state) for state in other.state], [dict(state) for state in optimizer.state])


def test_layer_decay() -> None:
    params = network()
    given = fs.layer_decay(
        fs.groups(params, where=vector, weight_decay=0.0), lr=1.0, decay=0.1, layer=lambda path, p: int(path[7])
    )
    shown = [(round(group["lr"], 12), group.get("weight_decay"), len(group["params"])) for group in given]
    assert shown == [(0.01, None, 1), (0.01, 0.0, 1), (0.1, None, 1), (0.1, 0.0, 1), (1.0, None, 1), (1.0, 0.0, 1)]
    assert fs.AdamW(given).step(network(1))


BAD: list[Any] = [2, lambda *_: 1.5]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: fs.groups(p, where=BAD[0], lr=1.0), TypeError, "where: got int, needs a function"),
        (lambda p: fs.groups(p, where=vector), ValueError, "groups: got no options, needs at least one"),
        (lambda p: fs.groups({}, where=vector, lr=1.0), ValueError, "params: holds no arrays, needs at least one"),
        (
            lambda p: fs.groups(p, where=lambda path, a: False, lr=1.0),
            ValueError,
            r'none of the 6 .*\["layer0"\]\["W"\]',
        ),
        (lambda p: fs.layer_decay(p, lr=1.0, decay=0.0, layer=lambda *_: 1), ValueError, "decay: got 0.0, needs"),
        (lambda p: fs.layer_decay(p, lr=-1.0, decay=0.5, layer=lambda *_: 1), ValueError, "lr: got -1.0, needs"),
        (lambda p: fs.layer_decay(p, lr=1.0, decay=0.5, layer=BAD[0]), TypeError, "layer: got int, needs a function"),
        (
            lambda p: fs.layer_decay(p, lr=1.0, decay=0.5, layer=BAD[1]),
            TypeError,
            r'layer\(\["layer0"\]\["W"\]\): got float, needs an integer',
        ),
        (lambda p: fs.Adam(fs.groups(p, where=vector, rate=1.0)), ValueError, "unknown option 'rate'"),
        (lambda p: fs.Adam(fs.groups(p, where=vector, lr=-1.0)), ValueError, r'param_groups\[1\]\["lr"\]: got -1.0'),
        (
            lambda p: fs.Adam(fs.groups({**p, "n": 3}, where=lambda path, a: "b" in path, lr=1.0)),
            TypeError,
            r'params\["n"\]: got int',
        ),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    params = network()
    with pytest.raises(error, match=message):
        call(params)
    assert_same(params, network())


@pytest.mark.parametrize(
    "change",
    [
        lambda groups: groups.reverse(),
        lambda groups: groups.pop(),
        lambda groups: groups.append({"params": np.ones(3, np.float32)}),
        lambda groups: groups[0]["params"].reverse(),
        lambda groups: groups[0]["params"].pop(),
        lambda groups: groups[0].pop("params"),
        lambda groups: groups[1].update(params=[np.ones(3, np.float32)]),
        lambda groups: groups.__setitem__(0, 3),
    ],
)
def test_groups_that_were_changed(change: Any) -> None:
    """Which gradient belongs to which array is known no longer."""
    groups = fs.groups(network(), where=vector, lr=0.1)
    change(groups)
    calls: tuple[Any, ...] = (fs.SGD, fs.Muon, lambda given: fs.groups(given, where=vector, lr=1.0))
    for call in calls:
        with pytest.raises(ValueError, match=r"^params: got groups that were changed since they were made, needs all"):
            call(groups)


def test_options_that_were_changed() -> None:
    """They count, also where the groups are split further."""
    groups = fs.groups(network(), where=vector, lr=0.1)
    groups[1]["lr"] = 0.3
    further = fs.groups(groups, where=lambda path, array: not vector(path, array), weight_decay=0.5)
    assert [group["lr"] for group in fs.SGD(groups, lr=1.0).param_groups] == [1.0, 0.3]
    assert [(g["lr"], g["weight_decay"]) for g in fs.SGD(further, lr=1.0).param_groups] == [(0.3, 0.0), (1.0, 0.5)]


def test_a_condition_that_changes_the_parameters() -> None:
    params = network()

    def where(path: str, array: Any) -> bool:
        params.clear()
        return True

    with pytest.raises(ValueError, match=r"^params: got 0 arrays, needs the \d+ that there were a moment ago"):
        fs.groups(params, where=where, lr=0.1)


def test_a_condition_that_answers_with_an_array() -> None:
    with pytest.raises(TypeError, match=r"^where\(.*\): got ndarray, needs True or False"):
        fs.groups(network(), where=lambda path, array: array > 0, lr=0.1)
