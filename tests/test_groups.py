"""Parameter groups, options as attributes, and the caller's containers: what is shown is what a step uses."""

from __future__ import annotations

import collections
import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import CLASSES, FLOAT32, ROWS, assert_same, copied, numbers, snapshot

import fusedstep
from fusedstep import _base, _core
from fusedstep.reference import RULES

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker


def zeros(*shape: int) -> Any:
    return np.zeros(shape)


def ones(*shape: int) -> Any:
    return np.ones(shape)


def two_groups(**options: Any) -> Any:
    return fs.SGD([{"params": zeros(2)}, {"params": zeros(3), "lr": 0.5}], lr=1.0, **options)


# ------------------------------------------------------------------------------------------------- groups by hand


def put_group(opt: Any, group: Any) -> None:
    opt.param_groups[0] = group


def put_groups(opt: Any, group: Any) -> None:
    opt.param_groups = [group]


def put_slice(opt: Any, group: Any) -> None:
    opt.param_groups[:] = [group]


@pytest.mark.parametrize("put", [put_group, put_groups, put_slice])
def test_group_that_is_replaced_is_used(put: Callable[[Any, Any], None]) -> None:
    w = zeros(2)
    opt = fs.SGD(w, lr=1.0)
    held = opt.param_groups[0]
    put(opt, {**opt.param_groups[0], "lr": 0.125})
    opt.step(ones(2))
    assert_same(w, np.full(2, -0.125))
    assert held["lr"] == opt.param_groups[0]["lr"] == opt.state_dict()["param_groups"][0]["lr"] == 0.125
    put(opt, {"params": w, "weight_decay": 0.5})  # options that it does not name come from the call, as for a new one
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["weight_decay"]) == (1.0, 0.5)
    before = snapshot(opt), dict(opt.param_groups[0])
    for wrong, error, text in (
        ({"params": w, "learning_rate": 0.1}, ValueError, r"^param_groups\[0\]: got an unknown option .*mean lr\?"),
        ({"params": w, "lr": -1.0}, ValueError, r'^param_groups\[0\]\["lr"\]: got .*, needs'),
        ({"params": w, "nesterov": True}, ValueError, r'^param_groups\[0\]\["nesterov"\]: got True.*, needs'),
        ({"params": w.copy()}, ValueError, r'^param_groups\[0\]\["params"\]: got other arrays'),
        ({"params": {"w": w}}, ValueError, r'^param_groups\[0\]\["params"\]: got other arrays'),
        ({"params": w, "state_format": "8bit"}, ValueError, r'^param_groups\[0\]\["state_format"\]: got .8bit., needs'),
        ({"lr": 0.5}, TypeError, r"^param_groups: got .*, needs a list of dicts"),
        (3, TypeError, r"^param_groups: got .*, needs a list of dicts"),
    ):
        with pytest.raises(error, match=text):
            put(opt, wrong)
    assert_same(snapshot(opt), before[0])
    assert dict(opt.param_groups[0]) == before[1]


def test_groups_that_are_appended_are_stepped() -> None:
    def by_append(opt: Any, group: Any) -> None:
        opt.param_groups.append(group)

    def by_extend(opt: Any, group: Any) -> None:
        opt.param_groups.extend([group])

    def by_plus(opt: Any, group: Any) -> None:
        opt.param_groups += [group]

    def by_setting(opt: Any, group: Any) -> None:
        opt.param_groups = [*opt.param_groups, group]

    for add in (by_append, by_extend, by_plus, by_setting):
        opt, w = two_groups(momentum=0.5), zeros(4)
        add(opt, {"params": w, "lr": 0.25})
        assert len(opt.param_groups) == 3
        opt.step([ones(2), ones(3), ones(4)])
        assert_same(w, np.full(4, -0.25))
        with pytest.raises((TypeError, ValueError)):
            add(opt, {"params": w})
        with pytest.raises((TypeError, ValueError)):
            add(opt, w)
        assert len(opt.param_groups) == 3 and opt.step([ones(2), ones(3), ones(4)])


@pytest.mark.parametrize(
    "change",
    [
        lambda opt: opt.param_groups.pop(),
        lambda opt: opt.param_groups.remove(opt.param_groups[0]),
        lambda opt: opt.param_groups.clear(),
        lambda opt: opt.param_groups.reverse(),
        lambda opt: opt.param_groups.sort(key=len),
        lambda opt: opt.param_groups.insert(0, {"params": zeros(1)}),
        lambda opt: opt.param_groups.__delitem__(0),
        lambda opt: opt.param_groups.__imul__(2),
        lambda opt: opt.param_groups.__setitem__(slice(1, 2), []),
        lambda opt: setattr(opt, "param_groups", opt.param_groups[:1]),
        lambda opt: setattr(opt, "param_groups", opt.param_groups[::-1]),
        lambda opt: opt.param_groups[0].__setitem__("params", zeros(2)),
        lambda opt: opt.param_groups[0].__setitem__("master", "split"),
        lambda opt: opt.param_groups[0].__setitem__("rounding", "stochastic"),
        lambda opt: opt.param_groups[0].__setitem__("state_format", "8bit"),
        lambda opt: opt.param_groups[0].__setitem__("min_quantized_size", 0),
        lambda opt: opt.param_groups[0].__setitem__("learning_rate", 0.1),
        lambda opt: opt.param_groups[0].update(lr=0.25, learning_rate=0.1),
        lambda opt: opt.param_groups[0].setdefault("beta", 0.1),
        lambda opt: opt.param_groups[0].__ior__({"lr": 0.25, 3: 4}),
        lambda opt: opt.param_groups[0].pop("params"),
        lambda opt: opt.param_groups[0].popitem(),
        lambda opt: opt.param_groups[0].clear(),
        lambda opt: opt.param_groups[0].__delitem__("state_format"),
    ],
)
def test_what_would_be_shown_and_not_used_is_an_error(change: Callable[[Any], Any]) -> None:
    opt = two_groups()
    before = [dict(group) for group in opt.param_groups]
    with pytest.raises(ValueError, match=r"^(param_groups|params)"):
        change(opt)
    assert [dict(group) for group in opt.param_groups] == before
    opt.step([ones(2), ones(3)])
    assert_same(opt.param_groups[0]["params"], -ones(2))


def test_parameters_of_a_group_stay() -> None:
    opt = fs.SGD({"a": [zeros(2)], "b": (zeros(3),)})
    params = opt.param_groups[0]["params"]
    changes: list[Callable[[], Any]] = [
        lambda: params.update(c=zeros(2)),
        lambda: params.__setitem__("a", [zeros(2)]),
        lambda: params.pop("a"),
        lambda: params["a"].append(zeros(2)),
        lambda: params["a"].__setitem__(0, zeros(2)),
    ]
    for change in changes:
        with pytest.raises(ValueError, match=r"^params: an optimizer keeps the arrays"):
            change()
    params["a"][0] += 1
    params["b"][0][...] = 1
    assert_same(opt._slots[0].param, ones(2))
    opt.param_groups[0]["params"] = {"a": list(params["a"]), "b": params["b"]}  # the same arrays in the same places
    assert opt.step({"a": [ones(2)], "b": (ones(3),)})


def test_unknown_option_says_which_was_meant() -> None:
    opt = fs.Adam(zeros(2))
    for wrong, meant in (
        ("learning_rate", "lr"),
        ("beta", "betas"),
        ("epsilon", "eps"),
        ("weightdecay", "weight_decay"),
    ):
        with pytest.raises(
            ValueError, match=rf"^param_groups\[0\]: got an unknown option '{wrong}', did you mean {meant}"
        ):
            opt.param_groups[0][wrong] = 0.1
        with pytest.raises(
            ValueError, match=rf"^param_groups\[1\]: got an unknown option '{wrong}', did you mean {meant}"
        ):
            fs.Adam([{"params": zeros(2)}, {"params": zeros(2), wrong: 0.1}])
        with pytest.raises(TypeError, match=rf"unexpected keyword argument '{wrong}', did you mean {meant}\?$"):
            fs.Adam(zeros(2), **{wrong: 0.1})
        for where in (fs.functional, fs.reference):
            with pytest.raises(TypeError, match=rf"unexpected keyword argument '{wrong}', did you mean {meant}\?$"):
                where.adam(zeros(2), zeros(2), zeros(2), zeros(2), step=1, **{wrong: 0.1})
    wrongly: list[Callable[[], Any]] = [
        lambda: fs.Adam([{"params": zeros(2), "seed": 1}]),
        lambda: opt.param_groups[0].update(seed=1),
    ]
    for make in wrongly:
        with pytest.raises(
            ValueError, match=r"unknown option 'seed', which belongs to the whole optimizer: pass seed="
        ):
            make()
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'beta1', did you mean betas\?$"):
        fs.AdamW(zeros(2), beta1=0.9)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'xyzzy'$"):
        fs.AdamW(zeros(2), xyzzy=0.9)


def test_groups_are_copied_as_plain_dicts() -> None:
    opt = fs.SGD({"a": [zeros(2)]}, lr=lambda t: 0.5)
    for other in (
        [dict(group) for group in opt.param_groups],
        copy.deepcopy(opt.param_groups),
        [opt.param_groups[0].copy()],
        [opt.param_groups[0] | {}],
    ):
        assert type(other) is list and type(other[0]) is dict and other[0].keys() == opt.param_groups[0].keys()
        other[0]["learning_rate"] = 1
    plain = fs.SGD({"a": [zeros(2)]})
    again = pickle.loads(pickle.dumps(plain.param_groups))
    assert type(again[0]) is dict and type(again[0]["params"]) is dict and type(again[0]["params"]["a"]) is list


# ---------------------------------------------------------------------------------------------- options as attributes


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_every_hyper_parameter_is_an_attribute(rule: str) -> None:
    opt = CLASSES[rule]([{"params": zeros(2)}, {"params": zeros(3)}], **ROWS[rule].options[-1])
    for name in (*RULES[rule].hypers, "maximize", "clip_value", "ema_decay", "state_format", "rounding", "master"):
        assert getattr(opt, name) == opt.param_groups[0][name], name
        setattr(opt, name, opt.param_groups[0][name])
        assert name in dir(opt)
    if rule == "rprop":  # whose first step sizes are made of it, and nothing else
        assert opt.lr == 0.01
        with pytest.raises(AttributeError, match=r"^lr: "):
            opt.lr = 0.25
        return
    opt.lr = 0.25
    assert [group["lr"] for group in opt.param_groups] == [0.25, 0.25] and opt.lr == 0.25
    by_hand = CLASSES[rule]([{"params": zeros(2)}, {"params": zeros(3)}], **(ROWS[rule].options[-1] | {"lr": 0.25}))
    for optimizer in (opt, by_hand):
        optimizer.step([ones(2), ones(3)])
    if rule != "asgd":  # whose first step goes by the rate it was made with
        assert_same([slot.param for slot in opt._slots], [slot.param for slot in by_hand._slots])


def test_attribute_that_the_groups_do_not_share() -> None:
    opt = two_groups()
    with pytest.raises(ValueError, match=r"^lr: got 1.0 in param_groups\[0\] and 0.5 in param_groups\[1\], needs one"):
        opt.lr  # noqa: B018
    opt.lr = 0.25
    assert opt.lr == 0.25
    opt.momentum = schedule = lambda t: 0.0
    assert opt.momentum is schedule
    opt.step([ones(2), ones(3)])
    assert_same([group["params"] for group in opt.param_groups], [np.full(2, -0.25), np.full(3, -0.25)])


def test_wrong_values_of_attributes_change_nothing() -> None:
    opt = two_groups()
    for name, value, text in (
        ("lr", -1.0, r"^lr: got .*, needs >= 0"),
        ("lr", "fast", r"^lr: got .*, needs a real number"),
        ("nesterov", 1, r"^nesterov: got .*, needs True or False"),
        ("state_format", "8bit", r'^param_groups\[0\]\["state_format"\]: got'),
    ):
        with pytest.raises((TypeError, ValueError), match=text):
            setattr(opt, name, value)
    assert [group["lr"] for group in opt.param_groups] == [1.0, 0.5]


def test_unknown_attributes() -> None:
    opt = fs.Adam(zeros(2))
    for wrong, meant in (
        ("learning_rate", "lr"),
        ("beta", "betas"),
        ("max_gradnorm", "max_grad_norm"),
        ("steps", "step"),
    ):
        with pytest.raises(AttributeError, match=rf"^Adam has no attribute '{wrong}', did you mean {meant}"):
            setattr(opt, wrong, 0.1)
        with pytest.raises(AttributeError, match=wrong):
            getattr(opt, wrong)
    with pytest.raises(AttributeError, match=r"^Adam has no attribute 'tree'; a subclass"):  # there is a _tree
        opt.tree = 3
    with pytest.raises(AttributeError, match="declares its own attributes"):
        opt.note = "mine"
    for name in ("state", "steps_taken", "grad_norm", "nonfinite_blocks"):
        with pytest.raises(AttributeError):
            setattr(opt, name, 3)
    opt._note = "mine"
    opt.step = lambda grads: "wrapped"
    assert opt.step(None) == "wrapped"


class Mine(fusedstep.Adam):
    """A user's subclass with attributes of its own."""

    epoch = 0
    best: float

    @property
    def half(self) -> float:
        return self.epoch / 2

    @half.setter
    def half(self, value: float) -> None:
        self.epoch = int(2 * value)


class MoreOfMine(Mine):
    label: str


def test_attributes_of_a_users_subclass() -> None:
    opt: Any = MoreOfMine(zeros(2), lr=0.5)
    opt.epoch, opt.best, opt.label, opt._hidden = 3, 0.5, "a", []
    opt.half = 2.0
    assert (opt.epoch, opt.best, opt.label, opt.half) == (4, 0.5, "a", 2.0)
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert (other.epoch, other.best, other.label, other.lr) == (4, 0.5, "a", 0.5)
    with pytest.raises(AttributeError, match=r"did you mean epoch"):
        opt.epochs = 3
    with pytest.raises(AttributeError):
        Mine(zeros(2)).label = "b"


def test_norm_that_was_not_computed_is_none() -> None:
    opt: Any = fs.SGD(zeros(2), lr=0.0)
    assert opt.grad_norm is None
    opt.step(ones(2))
    assert opt.grad_norm is None
    opt.max_grad_norm = np.inf
    assert opt.grad_norm is None
    opt.step(3 * ones(2), grad_scale=3.0)
    assert opt.grad_norm == np.sqrt(18.0) / 3.0
    opt.step(zeros(2))
    assert opt.grad_norm == 0.0
    opt.max_grad_norm = None
    opt.step(ones(2))
    assert opt.grad_norm is None
    opt.skip_nonfinite = True
    opt.step(np.array([np.nan, 1.0]))
    norm: Any = opt.grad_norm
    assert np.isnan(norm)


# ------------------------------------------------------------------------------------- schedules of what goes together


@pytest.mark.parametrize("rule", ["sgd", "lars"])
def test_nesterov_with_a_schedule_as_momentum(rule: str) -> None:
    def runs(**options: Any) -> Any:
        w = numbers(5, np.float64)
        opt = CLASSES[rule](w, lr=0.1, **options)
        for t in range(3):
            opt.step(numbers(5, np.float64, t))
        return w

    expected = runs(momentum=0.9, nesterov=True)
    assert_same(runs(momentum=lambda t: 0.9, nesterov=True), expected)
    assert_same(runs(momentum=0.9, nesterov=lambda t: True), expected)
    assert_same(runs(momentum=lambda t: 0.9, nesterov=lambda t: True), expected)
    grouped = [{"params": zeros(2), "momentum": lambda t: 0.5}]
    assert CLASSES[rule](grouped, momentum=0.9, nesterov=True).step([ones(2)])
    if rule == "sgd":
        assert_same(runs(momentum=lambda t: 0.9, dampening=lambda t: 0.0, nesterov=True), expected)
        with pytest.raises(
            ValueError, match=r"nesterov.*: got True with .*=0.5, needs a momentum above 0 and dampening of 0"
        ):
            fs.SGD(zeros(2), momentum=lambda t: 0.9, dampening=0.5, nesterov=True)
    with pytest.raises(
        ValueError, match=r'^param_groups\[0\]\["nesterov"\]: got True with .*, needs a momentum above 0'
    ):
        CLASSES[rule](zeros(2), momentum=lambda t: 0.0, nesterov=True)


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_every_hyper_parameter_may_be_a_schedule(rule: str) -> None:
    for options in ROWS[rule].options:
        plain, scheduled = numbers(7), numbers(7)
        one = CLASSES[rule](plain, **options)
        values = {name: one.param_groups[0][name] for name in RULES[rule].hypers}
        two = CLASSES[rule](scheduled, **{name: lambda t, value=value: value for name, value in values.items()})
        for t in range(3):
            one.step(numbers(7, FLOAT32, t))
            two.step(numbers(7, FLOAT32, t))
        assert_same(scheduled, plain, str(options))


# --------------------------------------------------------------------------------------------- the caller's containers


def with_all(opt: Any) -> list[Any]:
    """The optimizer, and what may be made of it."""
    return [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), opt]


def test_container_that_grows_shrinks_or_changes() -> None:
    def grow(params: Any) -> None:
        params["b"] = zeros(2)

    def replace(params: Any) -> None:
        params["a"] = zeros(3)

    def clear(params: Any) -> None:
        params.clear()

    for change in (grow, replace, clear):
        params = {"a": zeros(3)}
        opt = fs.SGD(params, lr=1.0, momentum=0.5, ema_decay=0.5)
        first = params["a"]
        opt.step({"a": ones(3)})
        saved = opt.state_dict()
        change(params)
        for other in with_all(opt):
            with pytest.raises(ValueError, match=r'^grads: got an entry \["b"\] that params does not have'):
                other.step({"a": ones(3), "b": ones(2)})
            other.load_state_dict(saved)
            assert list(other.ema_params()) == ["a"] and list(other.param_groups[0]["params"]) == ["a"]
            other.step({"a": ones(3)})
            assert_same(other.param_groups[0]["params"]["a"], np.full(3, -2.5))
            other.add_param_group({"params": {"c": zeros(2)}})
            other.step([{"a": ones(3)}, {"c": ones(2)}])
            assert_same(other.param_groups[1]["params"]["c"], np.full(2, -1.0))
        assert opt.param_groups[0]["params"]["a"] is first


def test_list_that_grows_before_a_state_is_added_by_loading() -> None:
    params = [zeros(3)]
    source = fs.SGD([zeros(3)], momentum=0.5)
    source.step([ones(3)])
    opt = fs.SGD(params)
    params.append(zeros(2))
    opt.load_state_dict(source.state_dict())
    with pytest.raises(ValueError, match=r"^grads: got list"):
        opt.step([ones(3), ones(2)])
    assert opt.step([ones(3)])
    assert_same(params[1], zeros(2))


class Layer(tuple[Any, ...]):
    """A tuple whose constructor takes other arguments than a tuple's."""

    def __new__(cls, weight: Any, bias: Any) -> Layer:
        return super().__new__(cls, (weight, bias))


class Stack(list[Any]):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__((first, second))


class Table(dict[str, Any]):
    def __init__(self, weight: Any, bias: Any) -> None:
        super().__init__(weight=weight, bias=bias)

    def items(self) -> Any:
        raise AssertionError("not the entries")


class Pair(NamedTuple):
    weight: Any
    bias: Any


class Tied(Pair):
    def __new__(cls, weight: Any) -> Tied:
        return tuple.__new__(cls, (weight, weight.copy()))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: Layer(zeros(2), zeros(2)), tuple),
        (lambda: Stack(zeros(2), zeros(2)), list),
        (lambda: Table(zeros(2), zeros(2)), dict),
        (lambda: Pair(zeros(2), zeros(2)), Pair),
        (lambda: Tied(zeros(2)), tuple),
        (lambda: collections.OrderedDict(weight=zeros(2), bias=zeros(2)), dict),
        (lambda: collections.defaultdict(list, weight=zeros(2), bias=zeros(2)), dict),
    ],
)
def test_containers_of_a_users_class(make: Callable[[], Any], kind: type) -> None:
    params = make()
    nested = fs.SGD([{"params": {"deep": make()}}], ema_decay=0.5)
    assert type(nested.ema_params()[0]["deep"]) is kind
    opt = fs.SGD(params, lr=1.0, ema_decay=0.5)
    for other in with_all(opt):
        other.step(copy.deepcopy(other.ema_params()))
        averages = other.ema_params()
        assert type(averages) is kind and len(averages) == 2
        assert_same(list(averages.values()) if kind is dict else list(averages), [zeros(2), zeros(2)])


def test_copies_ask_schedules_for_the_step_they_are_at() -> None:
    opt = fs.SGD(zeros(2), lr=0.5)
    opt.step(ones(2))
    opt.lr = Later()
    for other in with_all(opt):
        other.step(ones(2))
        assert_same(other.param_groups[0]["params"], np.full(2, -1.0))


class Later:
    """A schedule that has no value before the first step."""

    def __call__(self, t: int) -> float:
        return 0.5 / t


def test_structures_nested_in_themselves() -> None:
    loop: list[Any] = [zeros(2)]
    loop.append(loop)
    with pytest.raises(ValueError, match="nested more than 200 deep"):
        fs.SGD(loop)


def test_view_of_a_state_follows_the_optimizer() -> None:
    opt = fs.Adam(zeros(2))
    view = opt.state[0]
    opt.add_param_group({"params": zeros(2)})
    assert view["step"] == 0 and opt.state[1]["step"] == 0 and [v["step"] for v in opt.state[-2:]] == [0, 0]
    opt.step([ones(2), ones(2)])
    assert view["step"] == 1
    with pytest.raises(IndexError):
        opt.state[2]
    opt.add_param_group({"params": zeros(2)})
    del opt
    gc.collect()
    assert view["step"] == 1 and view["exp_avg"].any()


# ------------------------------------------------------------------------------------------------------- groups added


def test_groups_added_one_by_one_are_as_made_at_once() -> None:
    groups = [{"params": numbers(n + 1, FLOAT32, n), "lr": 0.1 * (n + 1)} for n in range(6)]
    at_once = fs.ScheduleFreeSGD(copied(groups), ema_decay=0.5)
    one_by_one = fs.ScheduleFreeSGD(copied(groups[:1]), ema_decay=0.5)
    for group in copied(groups[1:]):
        one_by_one.add_param_group(group)
        assert len(one_by_one.state) == len(one_by_one.param_groups)
    assert_same(snapshot(one_by_one), snapshot(at_once))
    for t in range(2):
        for opt in (at_once, one_by_one, copy.deepcopy(one_by_one)):
            opt.step([numbers(n + 1, FLOAT32, 10 * t + n) for n in range(6)])
    assert_same(snapshot(one_by_one), snapshot(at_once))
    assert_same(one_by_one.state_dict(), at_once.state_dict())
    assert one_by_one.steps_taken == 2


def test_group_that_cannot_be_added_leaves_all_as_it_was() -> None:
    base = np.zeros(20)
    opt = fs.SGD({"a": base[:5]}, momentum=0.5)
    opt.step({"a": ones(5)})
    opt.add_param_group({"params": base[10:15]})
    before = snapshot(opt)
    fixed = zeros(3)
    fixed.flags.writeable = False
    for params, text in (
        (base[4:8], r'^params\[0\]\["a"\]: got memory that overlaps params\[2\]'),
        (base[:5], r'^params\[0\]\["a"\]: got memory that overlaps params\[2\]'),
        ([zeros(2), base[8:11]], r"^params\[1\]: got memory that overlaps params\[2\]\[1\]"),
        ([base[5:8], base[7:10]], r"^params\[2\]\[0\]: got memory that overlaps params\[2\]\[1\]"),
        (fixed, r"^params\[2\]: got a read-only array"),
        (zeros(3, 4).T, r"^params\[2\]: got an array of shape"),
        ([], r'^params\[2\]\["params"\]: holds no arrays'),
    ):
        with pytest.raises(ValueError, match=text):
            opt.add_param_group({"params": params})
    with pytest.raises(ValueError, match=r'^param_groups\[2\]\["nesterov"\]: got True.*, needs'):
        opt.add_param_group({"params": zeros(2), "nesterov": True, "momentum": lambda t: 0.0})
    assert len(opt.param_groups) == len(opt.state) == 2
    assert_same(snapshot(opt), before)
    opt.add_param_group({"params": base[5:10]})
    assert opt.step([{"a": ones(5)}, ones(5), ones(5)])


def test_adding_many_groups_takes_up_every_parameter_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A native model for every group added would take up 80,000."""
    taken_up = 0

    class Counting(_core.Model):
        def add(self, *args: Any, **kwargs: Any) -> None:
            nonlocal taken_up
            taken_up += 1
            super().add(*args, **kwargs)

    monkeypatch.setattr(_base, "Model", Counting)
    opt = fs.Adam(zeros(4))
    for _ in range(400):
        opt.add_param_group({"params": zeros(4)})
        assert opt.state[-1]["step"] == 0
    assert opt.steps_taken == 0 and len(opt.state_dict()["state"]) == 401
    opt.step([ones(4)] * 401)
    assert taken_up <= 3 * 401


def test_arrays_where_names_are_expected() -> None:
    """NumPy compares them by element: that is no answer to whether they are a name."""
    odd: Any = np.array(["a", "b"])
    opt, muon = fs.Adam(np.ones(2)), fs.Muon(np.ones((2, 2)))
    saved, of_muon = opt.state_dict(), muon.state_dict()
    saved["fusedstep"]["rule"] = of_muon["param_groups"][0]["rule"] = odd
    calls: list[Any] = [
        lambda: opt.param_groups[0].update(state_format=odd),
        lambda: opt.param_groups[0].update(min_quantized_size=odd),
        lambda: muon.param_groups[0].update(rule=odd),
        lambda: muon.add_param_group({"params": np.ones((2, 2)), "rule": odd}),
        lambda: opt.load_state_dict(saved),
        lambda: muon.load_state_dict(of_muon),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"(: got array\(|: got one of ).*, needs"):
            call()


def test_pairs_as_arrays_are_shown() -> None:
    opt = fs.Adam(np.ones(2), betas=np.array([0.5, 0.75]))
    assert "betas=array([0.5 , 0.75])" in repr(opt) and opt.step(np.ones(2))


def test_a_sequence_that_says_another_length_than_it_has() -> None:
    class Lying(list[float]):
        def __len__(self) -> int:
            return 2

    with pytest.raises(ValueError, match=r"^betas: got 1 numbers, needs a pair of real numbers"):
        fs.Adam(np.ones(2), betas=Lying([0.9]))


LOST: dict[str, Callable[[fs.AdamW], Any]] = {
    "step": lambda opt: opt.step(ones(2)),
    "metrics": lambda opt: opt.metrics(),
    "lr": lambda opt: opt.lr,
    "load": lambda opt: opt.load_state_dict(fs.AdamW(ones(2), lr=0.5).state_dict()),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("use", LOST.values(), ids=list(LOST))
def test_an_option_that_was_removed(use: Callable[[fs.AdamW], Any]) -> None:
    opt = fs.AdamW(ones(2), lr=0.1)
    value = opt.param_groups[0].pop("lr")
    before = snapshot(opt)
    with pytest.raises(ValueError, match=r'param_groups\[0\]: got no entry "lr", needs one'):
        use(opt)
    with pytest.raises(KeyError):  # as of any dict
        opt.param_groups[0]["lr"]
    assert_same(snapshot(opt), before)
    opt.param_groups[0]["lr"] = value
    use(opt)


def test_groups_of_no_groups() -> None:
    opt = fs.AdamW(ones(2))
    bad: Any
    for bad in (None, 3, {}, [None], [{}], "ab"):
        with pytest.raises(TypeError, match=rf"^param_groups: got {type(bad).__name__}, needs a list of dicts with an"):
            opt.param_groups = bad
    assert opt.step(ones(2))
