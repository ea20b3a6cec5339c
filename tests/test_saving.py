"""A run that is saved, loaded and continued leaves the bytes of one that was not; and torch's state dicts are ours."""

from __future__ import annotations

import copy
import io
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CLASSES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ROWS,
    Array,
    Options,
    assert_same,
    copied,
    label,
    numbers,
    snapshot,
)

import fusedstep
from fusedstep import formats
from fusedstep._converting import stored_values
from fusedstep.reference import RULES

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker
SHAPES: list[Any] = [(), (5,), (3, 700), (70, 60)]
FORMATS: list[tuple[Any, Options]] = [
    (FLOAT64, {}),
    (FLOAT32, {"state_format": "8bit"}),
    (FLOAT32, {"state_format": "bfloat16", "min_quantized_size": 0, "ema_decay": 0.9}),
    (BFLOAT16, {"rounding": "stochastic", "seed": 3, "state_format": "8bit", "min_quantized_size": 0}),
    (BFLOAT16, {"master": "split", "ema_decay": 0.5}),
    (FLOAT16, {"master": "float32", "state_format": "8bit"}),
]


def fits(rule: str, options: Options) -> Options:
    """The options without a state format where the rule has none but the compute type."""
    exact = {state.kind for state in RULES[rule].states} == {"exact"}
    return {k: v for k, v in options.items() if not (exact and k == "state_format")}


def params(dtype: Any) -> list[Array]:
    return [numbers(shape, dtype, i) for i, shape in enumerate(SHAPES)]


def grads(dtype: Any, t: int) -> list[Array | None]:
    found: list[Array | None] = [numbers(shape, dtype, 10 * t + i) for i, shape in enumerate(SHAPES)]
    if t == 1:
        found[1] = None  # its step count stays behind
    return found


@pytest.mark.parametrize(("dtype", "options"), FORMATS, ids=label)
@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_continued_is_uninterrupted(rule: str, dtype: Any, options: Options) -> None:
    kind, options = CLASSES[rule], fits(rule, options) | ROWS[rule].options[-1]
    whole = kind(params(dtype), **options)
    for t in range(3):
        whole.step(grads(dtype, t))
    saved = pickle.loads(pickle.dumps([whole.state_dict(), [slot.param for slot in whole._slots]]))
    resumed = kind(saved[1], **(options | {"seed": 0}))
    resumed.load_state_dict(saved[0])
    assert_same(snapshot(resumed), snapshot(whole))
    pickled = pickle.loads(pickle.dumps(whole))
    deep = copy.deepcopy(whole)
    for t in range(3, 6):
        for optimizer in (whole, resumed, pickled, deep):
            optimizer.step(grads(dtype, t))
    for optimizer in (resumed, pickled, deep):
        assert_same(snapshot(optimizer), snapshot(whole))
        assert optimizer.steps_taken == 6
        assert_same(optimizer.state_dict(), whole.state_dict())


def test_state_dict_is_a_copy() -> None:
    optimizer = fs.Adam(params(FLOAT32), state_format="8bit")
    optimizer.step(grads(FLOAT32, 0))
    saved = optimizer.state_dict()
    before = copied(saved)
    optimizer.step(grads(FLOAT32, 1))
    assert_same(saved, before)
    for entry in saved["state"].values():
        for value in entry.values():
            if isinstance(value, np.ndarray):
                value[...] = 1
    after = snapshot(optimizer)
    optimizer.load_state_dict(before)
    assert optimizer.steps_taken == 1
    before["state"][3]["exp_avg"][...] = 0
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(after) == 4


def test_numbers_that_are_changed_in_place_are_saved_as_they_were() -> None:
    rate, pair, scheduled = np.array(0.5), [0.5, 0.5], np.array(0.25)
    optimizer = fs.Adam(params(FLOAT32), lr=rate, betas=pair, eps=lambda t: scheduled)
    saved = optimizer.state_dict()
    rate[...], pair[0], scheduled[...] = 0.1, 0.1, 0.1
    group = saved["param_groups"][0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, [0.5, 0.5], 0.25)


@pytest.mark.parametrize("rule", ["adam", "rmsprop", "sgd", "adabelief"])
@pytest.mark.parametrize("state_format", ["float32", "bfloat16", "8bit"])
@pytest.mark.parametrize("other", ["float32", "bfloat16", "8bit"])
def test_conversion(rule: str, state_format: str, other: str) -> None:
    """``state_dict(state_format=...)`` and loading into another format both store the same values again."""
    options = ROWS[rule].options[-1]
    one = CLASSES[rule](params(FLOAT32), **options, state_format=state_format, min_quantized_size=0)
    for t in range(3):
        one.step(grads(FLOAT32, t))
    two = CLASSES[rule](params(FLOAT32), **options, state_format=other, min_quantized_size=0)
    two.load_state_dict(one.state_dict())
    saved = one.state_dict(state_format=other)
    for i, (a, b) in enumerate(zip(one._slots, two._slots, strict=True)):
        for state in RULES[rule].states:
            if state.name not in a.states:
                continue
            assert_same(dict(two.state[i]), saved["state"][i])
            x, y = (stored_values(slot.states[state.name], state.kind, FLOAT32) for slot in (a, b))
            if state_format == other or other == "float32":
                assert_same(y, x, state.name)
            elif other == "bfloat16":
                assert_same(y, formats.decode_bfloat16(formats.encode_bfloat16(x)))
            else:
                codes, scales = formats.encode_8bit(x, state.kind == "signed")
                assert_same(y, formats.decode_8bit(codes, scales, state.kind == "signed"))
                assert ((x > 0) == (y > 0)).all() or state.kind == "signed"
    assert two.param_groups[0]["state_format"] == other
    two.step(grads(FLOAT32, 5))
    with pytest.raises(ValueError, match=r"^state_format: got 'int4'"):
        one.state_dict(state_format="int4")


def test_conversion_between_masters() -> None:
    """A float32 master and a split one hold the same numbers."""
    for options in ({"state_format": "8bit"}, {}):
        full = fs.Adam(params(BFLOAT16), lr=0.01, master="float32", **options)
        half = fs.Adam(params(BFLOAT16), lr=0.01, master="split", **options)
        for t in range(3):
            full.step(grads(BFLOAT16, t))
            half.step(grads(BFLOAT16, t))
        to_half = fs.Adam([slot.param.copy() for slot in full._slots], lr=0.01, master="split", **options)
        to_half.load_state_dict(full.state_dict())
        to_full = fs.Adam([slot.param.copy() for slot in half._slots], lr=0.01, master="float32", **options)
        to_full.load_state_dict(half.state_dict())
        to_half.step(grads(BFLOAT16, 3))
        half.step(grads(BFLOAT16, 3))
        assert_same(snapshot(to_half), snapshot(half))
        to_full.step(grads(BFLOAT16, 3))
        for one, other in zip(to_full._slots, half._slots, strict=True):
            assert one.master is not None and other.master is not None
            assert_same(one.master, formats.join(other.param, other.master))


def test_groups_and_their_options() -> None:
    def make() -> Any:
        return fs.Adam([{"params": [numbers(5)], "lr": 0.1}, {"params": {"a": numbers(9), "b": numbers(3)}}], lr=0.2)

    one = make()
    one.param_groups[1]["betas"] = (0.5, 0.75)
    one.param_groups[0]["lr"] = 0.3
    one.max_grad_norm, one.skip_nonfinite, one.zero_grads = 1.0, True, True
    one.step([[numbers(5)], {"a": numbers(9), "b": numbers(3)}])
    one.step([[numbers(5)], {"a": np.full(9, np.nan, np.float32), "b": numbers(3)}])
    saved = one.state_dict()
    assert [group["params"] for group in saved["param_groups"]] == [[0], [1, 2]]
    two = make()
    two.load_state_dict(saved)
    assert two.param_groups[1]["betas"] == (0.5, 0.75) and two.param_groups[0]["lr"] == 0.3
    assert (two.max_grad_norm, two.skip_nonfinite, two.zero_grads) == (1.0, True, True)
    assert (two.steps_taken, two.skipped_steps) == (1, 1)
    assert_same(two.state_dict(), saved)


def test_option_that_adds_a_state() -> None:
    """Loading takes over options as torch does, with the states they call for."""
    for rule, row in ROWS.items():
        if rule not in CLASSES:
            continue
        one = CLASSES[rule](params(FLOAT32), **row.options[-1])
        one.step(grads(FLOAT32, 0))
        one.step(grads(FLOAT32, 2))
        for options in row.options:
            two = CLASSES[rule](copied([slot.param for slot in one._slots]), **options)
            two.load_state_dict(one.state_dict())
            mine, other = copy.deepcopy(one), two
            mine.step(grads(FLOAT32, 3))
            other.step(grads(FLOAT32, 3))
            assert_same([s.param for s in other._slots], [s.param for s in mine._slots], rule)
            for view, expected in zip(other.state, mine.state, strict=True):
                assert_same({k: view[k] for k in expected}, dict(expected), rule)


def test_schedules_are_saved() -> None:
    class Halving:
        """A schedule that remembers how often it was told to halve."""

        def __init__(self) -> None:
            self.times = 0

        def __call__(self, t: int) -> float:
            return 0.5**self.times

        def state_dict(self) -> dict[str, Any]:
            return {"times": self.times}

        def load_state_dict(self, state: Any) -> None:
            self.times = int(state["times"])

    one, two = Halving(), Halving()
    a = fs.SGD(params(FLOAT32), lr=one)
    one.times = 3
    a.step(grads(FLOAT32, 0))
    saved = a.state_dict()
    assert saved["param_groups"][0]["lr"] == 0.125
    b = fs.SGD(copied([slot.param for slot in a._slots]), lr=two)
    b.load_state_dict(saved)
    assert two.times == 3 and b.param_groups[0]["lr"] is two
    a.step(grads(FLOAT32, 2))
    b.step(grads(FLOAT32, 2))
    assert_same(snapshot(b), snapshot(a))
    saved["fusedstep"]["schedules"][0]["lr"] = {"times": "many"}
    before = snapshot(b)
    with pytest.raises(ValueError):
        b.load_state_dict(saved)
    assert two.times == 3
    assert_same(snapshot(b), before)
    plain = fs.SGD(params(FLOAT32), lr=1.0)
    plain.load_state_dict(a.state_dict())
    assert plain.param_groups[0]["lr"] == 0.125


def test_steps_of_a_schedule_go_on() -> None:
    one = fs.SGD(np.zeros(1), lr=lambda t: float(t))
    for _ in range(3):
        one.step(np.ones(1))
    two = fs.SGD(one.param_groups[0]["params"].copy(), lr=lambda t: float(t))
    two.load_state_dict(one.state_dict())
    two.step(np.ones(1))
    assert two.param_groups[0]["params"][0] == -6.0


# ------------------------------------------------------------------------------------------------- what does not fit


def wrong_dicts() -> list[tuple[str, Any]]:
    """Ways to spoil a state dict of Adam over `SHAPES`, each with the message's beginning."""

    def spoil(*path: Any, value: Any = None, drop: bool = False) -> Any:
        def change(saved: Any) -> Any:
            place = saved
            for key in path[:-1]:
                place = place[key]
            if drop:
                del place[path[-1]]
            else:
                place[path[-1]] = value
            return saved

        return change

    masked = np.ma.masked_array([0.5], [True])
    state = 'state_dict["state"]'
    groups = 'state_dict["param_groups"]'
    return [
        ("state_dict: got list, needs a dict", lambda saved: [saved]),
        ("state_dict: got NoneType, needs a dict", lambda saved: None),
        ('state_dict: got no entry "state"', spoil("state", drop=True)),
        ('state_dict: got no entry "param_groups"', spoil("param_groups", drop=True)),
        (f"{state}: got list, needs a dict", spoil("state", value=[])),
        (f"{groups}: got dict, needs a list", spoil("param_groups", value={})),
        (
            f"{groups}: has 2 parameter groups, needs 1",
            lambda saved: saved | {"param_groups": saved["param_groups"] * 2},
        ),
        (f"{groups}: has 0 parameter groups, needs 1", spoil("param_groups", value=[])),
        (f"{groups}[0]: got int, needs a dict", spoil("param_groups", value=[3])),
        (f'{groups}[0]["params"]: got NoneType, needs', spoil("param_groups", 0, "params", drop=True)),
        (f"{groups}[0]: has 3 parameters, needs 4", spoil("param_groups", 0, "params", value=[0, 1, 2])),
        (f'{groups}[0]["params"]: got list, needs', spoil("param_groups", 0, "params", value=[0, 1, 2, [3]])),
        (f'{groups}[0]["params"]: got bool, needs', spoil("param_groups", 0, "params", value=[0, True, 2, 3])),
        (f"{groups}: has parameter 1 twice", spoil("param_groups", 0, "params", value=[0, 1, 1, 3])),
        (
            f'{groups}[0]["param_names"]: got 3 names, needs 4',
            spoil("param_groups", 0, "param_names", value=["[0]"] * 3),
        ),
        (f'{groups}[0]["param_names"]: got str, needs', spoil("param_groups", 0, "param_names", value="[0]")),
        (f'{groups}[0]["param_names"]: got int, needs', spoil("param_groups", 0, "param_names", value=[0, 1, 2, 3])),
        (f"{state}: got no entry 2, needs one", spoil("state", 2, drop=True)),
        (f'{groups}[0]["lr"]: got -1.0, needs >= 0', spoil("param_groups", 0, "lr", value=-1.0)),
        (f"{groups}[0][\"lr\"]: got 'fast' (str), needs a real number", spoil("param_groups", 0, "lr", value="fast")),
        (f'{groups}[0]["betas"][1]: got nan, needs', spoil("param_groups", 0, "betas", value=(0.9, math.nan))),
        (f'{groups}[0]["betas"]: got 1 numbers, needs a pair', spoil("param_groups", 0, "betas", value=(0.9,))),
        (f"{groups}[0][\"amsgrad\"]: got 'no' (str), needs True", spoil("param_groups", 0, "amsgrad", value="no")),
        (f"{state}: got an entry 4 that is in no group, needs", spoil("state", 4, value={})),
        (f"{state}[2]: got list, needs a dict", spoil("state", 2, value=[])),
        (f'{state}[2]: got no entry "exp_avg"', spoil("state", 2, "exp_avg", drop=True)),
        (f'{state}[2]: got no entry "exp_avg_sq"', spoil("state", 2, "exp_avg_sq", value=None)),
        (
            f'{state}[3]: got an entry "square_avg", which adam does not have',
            spoil("state", 3, "square_avg", value=np.ones(1)),
        ),
        (
            f'{state}[2]["exp_avg"]: got shape (700, 3), needs (3, 700)',
            spoil("state", 2, "exp_avg", value=np.ones((700, 3))),
        ),
        (
            f'{state}[2]["exp_avg"]: got int64, needs a float',
            spoil("state", 2, "exp_avg", value=np.ones((3, 700), int)),
        ),
        (f'{state}[2]["exp_avg"]: got complex128', spoil("state", 2, "exp_avg", value=np.ones((3, 700), complex))),
        (f'{state}[1]["exp_avg"]: got shape (), needs (5,)', spoil("state", 1, "exp_avg", value="x")),
        (f'{state}[1]["exp_avg"]: got list, needs an array', spoil("state", 1, "exp_avg", value=[[1.0], 2.0])),
        (
            f'{state}[3]["exp_avg"]: got float32 codes',
            spoil("state", 3, "exp_avg", value=np.ones((70, 60), np.float32)),
        ),
        (
            f'{state}[3]["exp_avg"]: got uint8 codes and 3',
            spoil("state", 3, "exp_avg_scales", value=np.ones(3, np.float32)),
        ),
        (f'{state}[3]["exp_avg"]: got uint8, needs a float', spoil("state", 3, "exp_avg_scales", drop=True)),
        (f'{state}[3]["ema"]: got float64, needs float32', spoil("state", 3, "ema", value=np.ones((70, 60)))),
        (f'{state}[3]["ema"]: got shape (), needs', spoil("state", 3, "ema", value=1.0)),
        (f'{state}[0]["step"]: got 1.5', spoil("state", 0, "step", value=1.5)),
        (f'{state}[0]["step"]: got -1', spoil("state", 0, "step", value=-1)),
        (f'{state}[0]["step"]: got nan', spoil("state", 0, "step", value=math.nan)),
        (f'{state}[0]["step"]: got 1e+30', spoil("state", 0, "step", value=1e30)),
        (f'{state}[0]["step"]: got str, needs a number', spoil("state", 0, "step", value="three")),
        (f'{groups}[0]["eps"]: got MaskedArray, needs an', spoil("param_groups", 0, "eps", value=masked)),
        (f'{groups}[0]["betas"]: got MaskedArray, needs', spoil("param_groups", 0, "betas", value=(0.9, masked))),
        ('state_dict["fusedstep"]: got int', spoil("fusedstep", value=3)),
        ("state_dict: got one of lion, needs one of adam", spoil("fusedstep", "rule", value="lion")),
        ('state_dict["fusedstep"]["steps_taken"]: got -2', spoil("fusedstep", "steps_taken", value=-2)),
        ('state_dict["fusedstep"]["skipped_steps"]: got str', spoil("fusedstep", "skipped_steps", value="x")),
        ('state_dict["fusedstep"]["schedules"]: got int', spoil("fusedstep", "schedules", value=1)),
        ('state_dict["fusedstep"]["schedules"][0]: got int', spoil("fusedstep", "schedules", value=[1])),
        ("seed: got -1", spoil("fusedstep", "seed", value=-1)),
        ("max_grad_norm: got nan, needs", spoil("fusedstep", "max_grad_norm", value=math.nan)),
    ]


@pytest.mark.parametrize(("text", "change"), wrong_dicts(), ids=[text for text, _ in wrong_dicts()])
def test_wrong_state_dict_changes_nothing(text: str, change: Any) -> None:
    optimizer = fs.Adam(params(FLOAT32), lr=0.1, state_format="8bit", ema_decay=0.5, max_grad_norm=2.0)
    optimizer.step(grads(FLOAT32, 0))
    saved = optimizer.state_dict()
    optimizer.step(grads(FLOAT32, 1))
    before, options = snapshot(optimizer), dict(optimizer.param_groups[0])
    with pytest.raises((TypeError, ValueError)) as caught:
        optimizer.load_state_dict(change(saved))
    assert str(caught.value).startswith(text), str(caught.value)
    assert_same(snapshot(optimizer), before)
    assert all(optimizer.param_groups[0][k] is v for k, v in options.items())
    assert optimizer.steps_taken == 2 and optimizer.max_grad_norm == 2.0
    assert optimizer.step(grads(FLOAT32, 2))


def test_state_dicts_of_other_models_and_optimizers() -> None:
    def make(rule: str) -> Any:
        return CLASSES[rule](params(FLOAT32), **ROWS[rule].options[-1])

    for rule in CLASSES:
        one = make(rule)
        one.step(grads(FLOAT32, 0))
        for other in CLASSES.keys() - {rule}:
            two = make(other)
            before = snapshot(two)
            with pytest.raises(ValueError, match=rf"^state_dict: got one of {one.rule}, needs one of {two.rule}"):
                two.load_state_dict(one.state_dict())
            assert_same(snapshot(two), before)
        smaller = CLASSES[one.rule]([numbers((), np.float32), numbers(5), numbers((3, 701)), numbers((70, 60))])
        before = snapshot(smaller)
        if RULES[one.rule].states:
            with pytest.raises(ValueError, match=r'^state_dict\["state"\]\[2\]\["\w+"\]: got shape \(3, 700\), needs'):
                smaller.load_state_dict(one.state_dict())
        assert_same(snapshot(smaller), before)


def test_combination_that_is_wrong_only_after_loading() -> None:
    one = fs.SGD(params(FLOAT32), momentum=0.9, nesterov=True)
    saved = one.state_dict()
    saved["param_groups"][0]["momentum"] = 0.0
    with pytest.raises(
        ValueError,
        match=r'^state_dict\["param_groups"\]\[0\]\["nesterov"\]: got True with momentum=.*, needs a momentum above 0',
    ):
        one.load_state_dict(saved)
    assert one.param_groups[0]["momentum"] == 0.9


def test_hyper_parameters_that_are_tensors() -> None:
    torch = pytest.importorskip("torch")
    optimizer = fs.Adam(params(FLOAT32))
    saved = optimizer.state_dict()
    for rate in (torch.tensor(0.5, dtype=torch.bfloat16), torch.tensor([0.5], requires_grad=True)):
        saved["param_groups"][0] |= {"lr": rate, "weight_decay": np.array([0.25]), "ema_decay": np.array([None])}
        optimizer.load_state_dict(saved)
        assert (optimizer.lr, optimizer.weight_decay) == (0.5, 0.25)
        optimizer.load_state_dict(optimizer.state_dict())
    for rate in (torch.ones(1, device="meta"), torch.ones(1).to_sparse()):
        saved["param_groups"][0]["lr"] = rate
        with pytest.raises(TypeError, match=r'^state_dict\["param_groups"\]\[0\]\["lr"\]: got Tensor, needs an array'):
            optimizer.load_state_dict(saved)


def test_scalars_beyond_all_floats() -> None:
    """As JSON may have them."""
    optimizer = fs.Prodigy(params(FLOAT32))
    optimizer.step(grads(FLOAT32, 0))
    saved = optimizer.state_dict()
    saved["state"][0]["d_numerator"] = -(10**400)
    optimizer.load_state_dict(saved)
    assert optimizer.state[0]["d_numerator"] == -math.inf


def test_through_a_file(tmp_path: Any) -> None:
    one = fs.Adam(params(FLOAT32), state_format="8bit")
    one.step(grads(FLOAT32, 0))
    buffer = io.BytesIO()
    np.savez(buffer, **{f"{i}.{k}": v for i, entry in one.state_dict()["state"].items() for k, v in entry.items()})
    buffer.seek(0)
    loaded = np.load(buffer)
    saved = one.state_dict()
    saved["state"] = {}
    for key in loaded.files:
        number, _, name = key.partition(".")
        saved["state"].setdefault(int(number), {})[name] = loaded[key]
    two = fs.Adam(copied([slot.param for slot in one._slots]), state_format="8bit")
    two.load_state_dict(saved)
    assert_same(snapshot(two), snapshot(one))


# --------------------------------------------------------------------------------------------------------------- names


def stepped(order: str, **options: Any) -> Any:
    """An optimizer of parameters of equal shapes, made in this order; every one has another gradient."""
    optimizer = fs.SGD({name: numbers((3, 4), FLOAT32) for name in order}, lr=0.1, momentum=0.9, **options)
    optimizer.step({name: np.full((3, 4), ord(name), np.float32) for name in order})
    return optimizer


@pytest.mark.parametrize("options", [{}, {"state_format": "bfloat16", "min_quantized_size": 0}, {"ema_decay": 0.5}])
def test_states_go_to_the_parameters_of_their_names(options: Options) -> None:
    saved = stepped("xyz", **options).state_dict()
    assert saved["param_groups"][0]["param_names"] == ['["x"]', '["y"]', '["z"]']
    for order in itertools.permutations("xyz"):
        other = fs.SGD({name: numbers((3, 4), FLOAT32) for name in order}, momentum=0.9, **options)
        other.load_state_dict(saved)
        for view, name in zip(other.state, order, strict=True):
            assert_same(dict(view), saved["state"]["xyz".index(name)], name)


def test_noise_goes_by_name_too() -> None:
    """A run goes on byte for byte with its parameters in another order, twice, and with a group added."""

    def make(order: str, **params: Any) -> Any:
        return fs.Adam({name: params[name] for name in order}, lr=0.1, rounding="stochastic", seed=3)

    def step(optimizer: Any, order: str, t: int) -> None:
        grads = {name: numbers((40, 50), BFLOAT16, t + ord(name)) for name in order}
        optimizer.step([grads, numbers((40, 50), BFLOAT16, t)] if len(optimizer.param_groups) == 2 else grads)

    start = {name: numbers((40, 50), BFLOAT16, ord(name)) for name in "xyz"}
    extra = numbers((40, 50), BFLOAT16, 7)
    whole, current, order = make("xyz", **copied(start)), make("xyz", **copied(start)), "xyz"
    for t, other in enumerate(("yzx", "zxy", "xyz", "zyx")):
        step(whole, "xyz", t)
        step(current, order, t)
        saved, params = current.state_dict(), current.param_groups[0]["params"]
        current, order = make(other, **{name: params[name].copy() for name in other}), other
        if t >= 2:
            current.add_param_group({"params": whole.param_groups[1]["params"].copy()})
        current.load_state_dict(saved)
        if t == 1:
            whole.add_param_group({"params": extra.copy()})
            current.add_param_group({"params": extra.copy()})
        for name in "xyz":
            assert_same(current.param_groups[0]["params"][name], whole.param_groups[0]["params"][name], f"{t} {name}")
    step(current, order, 9)
    step(whole, "xyz", 9)
    assert_same(current.param_groups[0]["params"], {name: whole.param_groups[0]["params"][name] for name in order})
    assert_same(current.param_groups[1]["params"], whole.param_groups[1]["params"])


def test_names_in_nested_structures_and_groups() -> None:
    def make(*, turned: bool) -> Any:
        def turn(branch: dict[Any, Any]) -> dict[Any, Any]:
            return dict(reversed(branch.items())) if turned else branch

        first = turn({"a": numbers(4), "deep": [numbers(4), turn({"b": numbers(4), "c": numbers(4)})]})
        return fs.Adam([{"params": first, "lr": 0.5}, {"params": turn({"a": numbers(4), 3: numbers(4)})}])

    one, two = make(turned=False), make(turned=True)
    one.step([{"a": np.full(4, 1.0, np.float32), "deep": [np.full(4, 2.0, np.float32), {"b": None, "c": None}]}, None])
    one.step([{"a": None, "deep": [None, {"b": np.full(4, 3.0, np.float32), "c": None}]}, {"a": None, 3: numbers(4)}])
    saved = one.state_dict()
    names = [group["param_names"] for group in saved["param_groups"]]
    assert names == [['["a"]', '["deep"][0]', '["deep"][1]["b"]', '["deep"][1]["c"]'], ['["a"]', "[3]"]]
    two.load_state_dict(saved)
    assert [slot.path for slot in two._slots[:3]] == ['[0]["deep"][0]', '[0]["deep"][1]["c"]', '[0]["deep"][1]["b"]']
    for mine, other in zip([1, 3, 2, 0, 5, 4], range(6), strict=True):
        assert_same(dict(two.state[other]), saved["state"][mine])
    alone = fs.Adam({"a": numbers(4)})
    alone.add_param_group({"params": {"b": numbers(4)}})
    assert [group["param_names"] for group in alone.state_dict()["param_groups"]] == [['["a"]'], ['["b"]']]
    assert fs.Adam(numbers(4)).state_dict()["param_groups"][0]["param_names"] == [""]


def test_other_names_are_an_error_that_lists_them() -> None:
    saved = stepped("xyz").state_dict()
    other = stepped("xyw")
    before = snapshot(other)
    text = r'\["param_names"\]: missing params\["w"\]; unexpected params\["z"\]; needs the parameters of this optimizer'
    with pytest.raises(ValueError, match=text):
        other.load_state_dict(saved)
    with pytest.raises(ValueError, match=r'\["param_names"\]: unexpected params\["z"\]; needs'):
        stepped("xy").load_state_dict(saved)
    many = fs.SGD({str(i): numbers(2) for i in range(20)})
    with pytest.raises(ValueError, match=r'missing params\["0"\], .*params\["4"\] and 15 more; unexpected params\["x"'):
        many.load_state_dict(saved)
    assert_same(snapshot(other), before)
    del saved["param_groups"][0]["param_names"]  # without names: by position
    other.load_state_dict(saved)
    assert_same(snapshot(other)[2][1:], snapshot(stepped("xyz"))[2][1:])


def test_names_of_a_torch_state_dict_are_not_compared() -> None:
    saved = stepped("xy").state_dict()
    other = stepped("yx")
    saved["param_groups"][0]["param_names"] = ["layer.weight", "layer.bias"]
    other.load_state_dict(saved)
    del saved["fusedstep"]
    saved["param_groups"][0]["param_names"] = ['["x"]', '["y"]']
    other.load_state_dict(saved)
    for k in range(2):
        assert_same(other.state[k]["momentum_buffer"], saved["state"][k]["momentum_buffer"])


def test_keys_that_print_alike_keep_their_order() -> None:
    class Key:
        def __repr__(self) -> str:
            return "Key"

    one, two = (fs.SGD({Key(): numbers(3), Key(): numbers(3)}, momentum=0.9) for _ in range(2))
    one.step(dict(zip(one.param_groups[0]["params"], [np.full(3, i, np.float32) for i in range(2)], strict=True)))
    two.load_state_dict(one.state_dict())
    assert_same(snapshot(two)[1][1:], snapshot(one)[1][1:])


# --------------------------------------------------------------------------------------------------------------- torch

TORCH: list[tuple[str, str, Options]] = [
    ("sgd", "SGD", {"lr": 0.1}),
    ("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1}),
    ("sgd", "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("rmsprop", "RMSprop", {"momentum": 0.5, "centered": True}),
    ("adam", "Adam", {"amsgrad": True, "weight_decay": 0.1}),
    ("adamw", "AdamW", {}),
    ("adagrad", "Adagrad", {"lr_decay": 0.1}),
    ("adadelta", "Adadelta", {}),
    ("adamax", "Adamax", {}),
    ("nadam", "NAdam", {}),
    ("radam", "RAdam", {}),
    ("asgd", "ASGD", {"t0": 2.0}),
    ("rprop", "Rprop", {"lr": 0.01}),
]


@pytest.mark.parametrize(("rule", "name", "options"), TORCH, ids=label)
@pytest.mark.parametrize("there", ["from torch", "to torch"])
def test_torch_state_dicts_both_ways(rule: str, name: str, options: Options, there: str) -> None:
    """Change sides in the middle of training and end where a run that never changed ends, within rounding."""
    torch: Any = pytest.importorskip("torch")
    start = params(FLOAT64)

    def torch_run(tensors: list[Any], optimizer: Any, steps: range) -> None:
        for t in steps:
            for tensor, grad in zip(tensors, grads(FLOAT64, 2 * t), strict=True):
                tensor.grad = torch.from_numpy(np.array(grad))
            optimizer.step()

    def our_run(optimizer: Any, steps: range) -> None:
        for t in steps:
            optimizer.step(grads(FLOAT64, 2 * t))

    torch.set_default_dtype(torch.float64)  # of NAdam's and ASGD's scalars
    try:
        whole = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in start]
        theirs = getattr(torch.optim, name)(whole, foreach=False, **options)
        torch_run(whole, theirs, range(3))
        if there == "from torch":
            arrays = [p.detach().numpy().copy() for p in whole]
            ours = CLASSES[rule](arrays, lr=0.5)
            ours.load_state_dict(theirs.state_dict())
            our_run(ours, range(3, 6))
            ended = arrays
        else:
            arrays = copied(start)
            ours = CLASSES[rule](arrays, **options)
            our_run(ours, range(3))
            saved = ours.state_dict()
            for entry in saved["state"].values():
                for key, value in entry.items():
                    entry[key] = torch.from_numpy(np.array(value, np.float64))
            tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in arrays]
            second = getattr(torch.optim, name)(tensors, foreach=False)
            second.load_state_dict(saved)
            torch_run(tensors, second, range(3, 6))
            ended = arrays
        torch_run(whole, theirs, range(3, 6))
    finally:
        torch.set_default_dtype(torch.float32)
    for mine, other in zip(ended, whole, strict=True):
        np.testing.assert_allclose(mine, other.detach().numpy(), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "options",
    [{}, {"state_format": "8bit", "min_quantized_size": 0}, {"ema_decay": 0.9}, {"accumulate_steps": 2}],
    ids=str,
)
@pytest.mark.parametrize("cls", [fs.AdamW, fs.SGD, fs.Adafactor, fs.AdamMini, fs.Muon])
def test_a_parameter_reshaped_in_place_is_not_saved(cls: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """What was saved could not be loaded, as the states have the shape of before."""
    params = {"w": np.ones((2, 6), np.float32), "b": np.ones(3, np.float32)}
    options = {
        key: value for key, value in options.items() if cls is not fs.Adafactor or "8bit" not in options.values()
    }
    opt = cls(params, **({"momentum": 0.9} if cls is fs.SGD else {}), **options)
    opt.step({name: np.ones_like(p) for name, p in params.items()})
    params["w"].resize((3, 4), refcheck=False)
    for keep in (
        opt.state_dict,
        lambda: opt.save(tmp_path / "run.npz"),
        lambda: fs.save(tmp_path / "run.npz", params=params, optimizer=opt),
        lambda: pickle.dumps(opt),
        lambda: copy.deepcopy(opt),
    ):
        with pytest.raises(ValueError, match=r'^params\["w"\]: got shape \(3, 4\) now, needs the one that it had'):
            keep()
    assert not list(tmp_path.iterdir())
    params["w"].resize((2, 6), refcheck=False)
    copy.deepcopy(opt).load_state_dict(opt.state_dict())
