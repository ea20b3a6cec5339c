"""Options as trees: groups under the hood, with the gradients of the whole structure; and what `metrics` tells."""

from __future__ import annotations

import csv
import io
import pickle
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from cases import assert_same, snapshot

import fusedstep as fs


def ones(*shape: int) -> Any:
    return np.ones(shape, np.float32)


@dataclass
class Linear:
    W: Any
    b: Any = None


def model() -> Any:
    return {"enc": [Linear(ones(3, 2), ones(2)), Linear(ones(2), None)], "head": ones(4), "none": None}


def gradients(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    return {"enc": [Linear(normal(3, 2), normal(2)), Linear(normal(2), None)], "head": normal(4), "none": None}


def leaves(tree: Any) -> list[Any]:
    first, second = tree["enc"]
    return [first.W, first.b, second.W, tree["head"]]


PATHS = ['["enc"][0].W', '["enc"][0].b', '["enc"][1].W', '["head"]']

# Options as trees, and the same for each of the four parameters.
TREES: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "whole": ({"weight_decay": {"enc": 0.5, "head": 0.0}}, {"weight_decay": [0.5, 0.5, 0.5, 0.0]}),
    "leaves": (
        {"lr": {"enc": [{"W": 0.1, "b": 0.2}, {"W": 0.3}], "head": 0.4}},
        {"lr": [0.1, 0.2, 0.3, 0.4]},
    ),
    "dataclasses": (
        {"lr": {"enc": [Linear(0.1, 0.2), Linear(0.1, None)], "head": 0.1, "none": 7}},
        {"lr": [0.1, 0.2, 0.1, 0.1]},
    ),
    "mapping": ({"lr": MappingProxyType({"enc": (0.1, 0.2), "head": 0.1})}, {"lr": [0.1, 0.1, 0.2, 0.1]}),
    "pairs": (
        {"betas": {"enc": [(0.5, 0.9), {"W": [0.6, 0.9]}], "head": (0.5, 0.9)}},
        {"betas": [(0.5, 0.9), (0.5, 0.9), (0.6, 0.9), (0.5, 0.9)]},
    ),
    "two": (
        {"lr": {"enc": 0.1, "head": 0.2}, "clip_value": {"enc": [0.1, None], "head": 0.1}},
        {"lr": [0.1, 0.1, 0.1, 0.2], "clip_value": [0.1, 0.1, None, 0.1]},
    ),
    "storage": (
        {"state_format": {"enc": "bfloat16", "head": "8bit"}, "min_quantized_size": 0},
        {"state_format": ["bfloat16"] * 3 + ["8bit"], "min_quantized_size": [0] * 4},
    ),
    "flags": ({"maximize": {"enc": True, "head": False}}, {"maximize": [True, True, True, False]}),
    "averages": ({"ema_decay": {"enc": 0.5, "head": 0.9}}, {"ema_decay": [0.5, 0.5, 0.5, 0.9]}),
}


@pytest.mark.parametrize("name", TREES)
def test_same_as_a_group_for_every_parameter(name: str) -> None:
    trees, single = TREES[name]
    opt = fs.Adam(model(), max_grad_norm=1.0, **trees)
    groups = [
        {"params": leaf, **{option: values[i] for option, values in single.items()}}
        for i, leaf in enumerate(leaves(model()))
    ]
    twin = fs.Adam(groups, max_grad_norm=1.0)
    for seed in range(3):
        assert opt.step(gradients(seed))
        assert twin.step(leaves(gradients(seed)))
    assert_same(snapshot(opt), snapshot(twin))
    assert [slot.path for slot in opt._slots] == PATHS
    found = {tuple(map(repr, values)) for values in zip(*single.values(), strict=True)}
    assert len(opt.param_groups) == len(found)

    other = fs.Adam(model(), max_grad_norm=1.0, **trees)
    for slot, mine in zip(other._slots, opt._slots, strict=True):
        slot.param[...] = mine.param
    other.load_state_dict(opt.state_dict())
    for each in (opt, other, pickle.loads(pickle.dumps(opt))):
        each.step(gradients(4))
    assert_same(snapshot(other), snapshot(opt))
    if name == "averages":
        assert [average.shape for average in leaves(opt.ema_params())] == [(3, 2), (2,), (2,), (4,)]


def test_lists_schedules_and_bound_gradients() -> None:
    params, grads = [ones(2), ones(2)], [ones(2), ones(2)]
    opt = fs.SGD(params, lr=[lambda t: 0.5 / (t + 1), 0.25], grads=grads, cast_grads=True, accumulate_steps=1)  # type: ignore[arg-type]
    opt.step()
    opt.step()
    assert_same(params, [np.full(2, 0.25, np.float32), np.full(2, 0.5, np.float32)])
    opt.param_groups[1]["lr"] = 0.0
    opt.step()
    assert (params[1] == 0.5).all()


def test_beside_groups() -> None:
    params = {"W": ones(2, 2), "b": ones(2), "c": ones(3)}
    made = fs.groups(params, where=lambda path, p: p.ndim < 2, lr=0.5)
    opt = fs.SGD(made, lr=1.0, weight_decay={"W": 0.1, "b": 0.1, "c": 0.2})  # type: ignore[arg-type]
    assert [(g["lr"], g["weight_decay"]) for g in opt.param_groups] == [(1.0, 0.1), (0.5, 0.1), (0.5, 0.2)]
    assert opt.step({"W": ones(2, 2), "b": ones(2), "c": ones(3)})
    named = fs.SGD(made, lr={"W": 0.1, "b": 0.2, "c": 0.3})  # type: ignore[arg-type]
    assert [g["lr"] for g in named.param_groups] == [0.1, 0.5, 0.5]


def test_a_new_group_has_the_rules_own_default() -> None:
    opt = fs.SGD({"a": ones(2), "b": ones(2)}, lr={"a": 0.1, "b": 0.2})  # type: ignore[arg-type]
    opt.add_param_group({"params": ones(2)})
    assert opt.param_groups[-1]["lr"] == 1e-3
    assert opt.step([{"a": ones(2), "b": ones(2)}, ones(2)])


def test_keys_in_another_order_resume() -> None:
    """The groups that trees make come in the order of the keys; they are found by the names in them."""

    def make(order: str) -> tuple[Any, Any]:
        rates = {name: fs.schedules.reduce_on_plateau(0.1 * ord(name), patience=0) for name in order}
        decays: Any = {name: 0.01 * ord(name) for name in order}
        return rates, fs.AdamW({name: ones(3) for name in order}, lr=rates, weight_decay=decays)  # type: ignore[arg-type]

    rates, opt = make("xyz")
    opt.step({"x": ones(3), "y": 2 * ones(3), "z": 3 * ones(3)})
    for metric in (1.0, 2.0):
        rates["y"].update(metric)
    saved = opt.state_dict()
    for order in ("xzy", "zxy"):
        resumed_rates, resumed = make(order)
        resumed.load_state_dict(saved)
        assert {name: rate(1) for name, rate in resumed_rates.items()} == {
            name: rate(1) for name, rate in rates.items()
        }
        assert [group["weight_decay"] for group in resumed.param_groups] == [0.01 * ord(name) for name in order]
        for view, name in zip(resumed.state, order, strict=True):
            assert_same(dict(view), saved["state"]["xyz".index(name)])


BAD: list[tuple[dict[str, Any], str]] = [
    ({"lr": {"enc": 0.1}}, r'lr: got no entry \["head"\], needs the keys of params'),
    ({"lr": {"enc": 0.1, "head": 0.1, "tail": 1}}, r'lr: got an entry \["tail"\] that params does not have'),
    ({"lr": {"enc": [0.1], "head": 0.1}}, r'lr\["enc"\]: got no entry \[1\]'),
    ({"lr": {"enc": [0.1, {"W": -1}], "head": 0.1}}, r'lr\["enc"\]\[1\]\.W: got -1, needs >= 0'),
    ({"lr": {"enc": 0.1, "head": {"x": 1}}}, r'lr\["head"\]: got .* \(dict\), needs a real number'),
    ({"lr": {"enc": 0.1, "head": "x"}}, r'lr\["head"\]: got .x. \(str\), needs a real number'),
    ({"lr": [0.1, 0.2, 0.3]}, r"lr: got \[0.1, 0.2, 0.3\] \(list\), needs a real number"),
    ({"lr": {}}, r'lr: got no entry \["enc"\]'),
    ({"betas": {"enc": 0.9, "head": (0.9, 0.9)}}, r'betas\["enc"\]: got 0.9 \(float\), needs a pair'),
    ({"betas": {"enc": (0.9, 2.0), "head": (0.9, 0.9)}}, r'betas\["enc"\]\[1\]: got 2.0, needs'),
    ({"maximize": {"enc": 1, "head": True}}, r'maximize\["enc"\]: got 1 \(int\), needs True or False'),
    ({"state_format": {"enc": "4bit", "head": "8bit"}}, r'param_groups\[0\]\["state_format"\]: got .4bit.'),
    ({"max_grad_norm": {"enc": 1.0, "head": 1.0}}, r"max_grad_norm: got .*dict.*, needs a real number"),
]


@pytest.mark.parametrize(("options", "text"), BAD, ids=[text for _, text in BAD])
def test_errors(options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match="^" + text):
        fs.Adam(model(), **options)


def test_trees_need_a_structure() -> None:
    with pytest.raises(TypeError, match=r"^lr: got dict, needs one value; or give each group its own"):
        fs.SGD([{"params": ones(2)}], lr={"params": 0.1})  # type: ignore[arg-type]
    for params in (ones(2), 3, None):
        with pytest.raises(TypeError, match=r"^(lr|params): got"):
            fs.SGD(params, lr={"params": 0.1})  # type: ignore[arg-type]


# ---- metrics ----


def test_metrics_of_one_group_and_of_several() -> None:
    opt = fs.Adam({"a": ones(2)}, lr=lambda t: 0.1 / (t + 1), max_grad_norm=2.0, ema_decay=0.5, accumulate_steps=2)
    expected = {
        "steps_taken": 0.0,
        "skipped_steps": 0.0,
        "nonfinite_blocks": 0.0,
        "accumulated": 0.0,
        "max_grad_norm": 2.0,
        "lr": 0.1,
        "betas[0]": 0.9,
        "betas[1]": 0.999,
        "eps": 1e-8,
        "eps_root": 0.0,
        "weight_decay": 0.0,
        "ema_decay": 0.5,
    }
    assert opt.metrics() == expected
    opt.step({"a": np.array([3, 4], np.float32)})
    assert opt.metrics() == expected | {"accumulated": 1.0}
    opt.step({"a": np.array([3, 4], np.float32)})
    assert opt.metrics() == expected | {"steps_taken": 1.0, "lr": 0.05, "grad_norm": 5.0}
    assert all(type(value) is float for value in opt.metrics().values())

    several = fs.SGD({"a": ones(2), "b": ones(2)}, lr={"a": 0.1, "b": 0.2}, clip_value={"a": None, "b": 1.0})  # type: ignore[arg-type]
    found = several.metrics()
    assert (found["lr/0"], found["lr/1"], found["clip_value/1"]) == (0.1, 0.2, 1.0)
    assert "clip_value/0" not in found and "lr" not in found


def test_metrics_count_skipped_steps_and_make_a_table() -> None:
    opt = fs.SGD(ones(2), skip_nonfinite=True)
    opt.step(np.array([np.inf, 1], np.float32))
    opt.step(ones(2))
    found = opt.metrics()
    assert found["skipped_steps"] == 1.0 and found["steps_taken"] == 1.0
    file = io.StringIO()
    writer = csv.DictWriter(file, found)
    writer.writeheader()
    writer.writerow(opt.metrics())
    assert file.getvalue().startswith("steps_taken,skipped_steps,")


@pytest.mark.parametrize("rule", ["ScheduleFreeAdamW", "Rprop", "LAMB", "Adagrad"])
def test_metrics_of_other_rules(rule: str) -> None:
    assert all(isinstance(value, float) for value in getattr(fs, rule)(ones(2)).metrics().values())


def test_values_that_cannot_be_compared() -> None:
    """Equal numbers make one group, whatever holds them; a schedule is equal to itself alone."""

    @dataclass
    class Constant:  # as a dataclass without a hash
        value: float

        def __call__(self, step: int) -> float:
            return self.value

    rates: Any = {"a": np.array(0.5), "b": np.float32(0.5), "c": 0.5}
    opt = fs.SGD({name: ones(2) for name in rates}, lr=rates)
    assert [group["lr"] for group in opt.param_groups] == [0.5]
    schedules: Any = {name: Constant(0.5) for name in rates}
    assert len(fs.SGD({name: ones(2) for name in rates}, lr=schedules).param_groups) == 3
    with pytest.raises(TypeError, match=r"^state_format\[\"a\"\]: got set, needs a value of state_format"):
        formats: Any = {"a": {"8bit"}, "b": "float32"}
        fs.Adam({"a": ones(2), "b": ones(2)}, state_format=formats)


def test_muon_takes_trees_for_the_rest_too() -> None:
    params = {"W": ones(2, 2), "b": ones(2)}
    options: Any = {"maximize": {"W": False, "b": True}, "state_format": {"W": "bfloat16", "b": "float32"}}
    opt = fs.Muon(params, **options)
    found = [(group["rule"], group["maximize"], group["state_format"]) for group in opt.param_groups]
    assert found == [("muon", False, "bfloat16"), ("adamw", True, "float32")]
