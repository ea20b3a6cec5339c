"""Bad input: the kind of error, a message with the argument's path, what came, what is needed; nothing has changed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    CLASSES,
    ROWS,
    Array,
    Options,
    assert_same,
    copied,
    functional_arrays,
    hypers,
    label,
    numbers,
    snapshot,
)

import fusedstep
from fusedstep.reference import RULES

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker
F32 = np.float32


def says(text: str) -> str:
    """A pattern for a message that begins so."""
    return "^" + re.escape(text)


def ones(*shape: int, dtype: Any = F32) -> Array:
    return np.ones(shape, dtype)


class Nested:
    """An optimizer of nested parameters, and gradients that fit."""

    def __init__(self, **options: Any) -> None:
        self.params: dict[str, Any] = {"W1": ones(3, 4), "deep": [{"b": ones(5)}, (ones(2), ones(6))]}
        self.optimizer = fs.Adam(self.params, lr=0.1, skip_nonfinite=True, **options)
        self.optimizer.step(self.grads())

    def grads(self) -> Any:
        return {"W1": ones(3, 4), "deep": [{"b": ones(5)}, (ones(2), ones(6))]}

    def refuses(self, error: Any, text: str, grads: Any, **how: Any) -> None:
        """The step raises, again and again, and nothing has changed."""
        before = snapshot(self.optimizer)
        group = dict(self.optimizer.param_groups[0])
        for _ in range(2):
            with pytest.raises(error, match=says(text)):
                self.optimizer.step(grads, **how)
        assert_same(snapshot(self.optimizer), before)
        assert self.optimizer.steps_taken == 1 and self.optimizer.skipped_steps == 0
        assert all(group[key] is value for key, value in self.optimizer.param_groups[0].items())

    def goes_on(self) -> None:
        """The next step is what it would have been without the errors before."""
        other = Nested()
        self.optimizer.step(self.grads())
        other.optimizer.step(other.grads())
        assert_same(snapshot(self.optimizer), snapshot(other.optimizer))


# --------------------------------------------------------------------------------------------------------- gradients

READ_ONLY = ones(3, 4)
READ_ONLY.flags.writeable = False

WRONG_ARRAYS: list[tuple[Any, type[Exception], str]] = [
    (np.ones((3, 4)), TypeError, 'grads["W1"]: got dtype float64, needs float32'),
    (np.ones((3, 4), int), TypeError, 'grads["W1"]: got dtype int64, needs float32'),
    (np.ones((3, 4), bool), TypeError, 'grads["W1"]: got dtype bool'),
    (np.ones((3, 4), complex), TypeError, 'grads["W1"]: got dtype complex128'),
    (np.ones((3, 4), object), TypeError, 'grads["W1"]: got dtype object'),
    (np.ones((3, 4), np.longdouble), TypeError, 'grads["W1"]: got dtype '),
    (np.ones((3, 4), ">f4"), TypeError, 'grads["W1"]: got dtype >f4'),
    (np.full((3, 4), "a"), TypeError, 'grads["W1"]: got dtype <U1'),
    (ones(4, 3), ValueError, 'grads["W1"]: got shape (4, 3), needs (3, 4), the shape of params["W1"]'),
    (ones(12), ValueError, 'grads["W1"]: got shape (12,), needs (3, 4)'),
    (ones(3, 4, 1), ValueError, 'grads["W1"]: got shape (3, 4, 1), needs (3, 4)'),
    (np.asfortranarray(ones(3, 4)), ValueError, 'grads["W1"]: got an array of shape (3, 4) with strides (4, 12)'),
    (ones(3, 8)[:, ::2], ValueError, 'grads["W1"]: got an array of shape (3, 4) with strides'),
    (np.broadcast_to(F32(1), (3, 4)), ValueError, 'grads["W1"]: got an array of shape (3, 4) with strides (0, 0)'),
    (np.ma.masked_array(ones(3, 4)), TypeError, 'grads["W1"]: got MaskedArray, needs a NumPy array'),
    (1.0, TypeError, 'grads["W1"]: got float, needs a NumPy array'),
    ("W", TypeError, 'grads["W1"]: got str, needs a NumPy array'),
    ([1.0], TypeError, 'grads["W1"]: got list, needs a NumPy array'),
    (F32(1), TypeError, 'grads["W1"]: got float32, needs a NumPy array'),
]


@pytest.mark.parametrize(("bad", "error", "text"), WRONG_ARRAYS, ids=[text for _, _, text in WRONG_ARRAYS])
def test_wrong_gradient(bad: Any, error: type[Exception], text: str) -> None:
    model = Nested()
    model.refuses(error, text, model.grads() | {"W1": bad})
    model.goes_on()


def test_gradient_off_its_alignment() -> None:
    raw = np.zeros(3 * 4 * 4 + 1, np.uint8)[1:].view(F32).reshape(3, 4)
    assert not raw.flags.aligned
    model = Nested()
    model.refuses(ValueError, 'grads["W1"]: got an array that is not aligned', model.grads() | {"W1": raw})


def test_wrong_structure() -> None:
    model = Nested()
    good = model.grads()
    model.refuses(TypeError, "grads: got an array of float32 and shape (3,)", ones(3))
    model.refuses(ValueError, "grads: got list", [ones(3, 4), ones(5)])
    model.refuses(ValueError, 'grads: got no entry ["W1"], needs the keys of params', {"deep": good["deep"]})
    model.refuses(ValueError, 'grads: got an entry ["W2"] that params does not have', good | {"W2": ones(1)})
    model.refuses(ValueError, "grads: got list at or above grads", good | {"deep": good["deep"][:1]})
    model.refuses(TypeError, "grads: got int at or above grads", good | {"deep": 3})
    model.refuses(TypeError, "grads: got an array of", good | {"deep": [ones(5), good["deep"][1]]})
    model.refuses(
        TypeError, 'grads["deep"][1][0]: got dtype float64', good | {"deep": [{"b": ones(5)}, (np.ones(2), ones(6))]}
    )


def test_gradient_in_the_optimizers_memory() -> None:
    model = Nested()
    state = model.optimizer.state[0]
    for array, name in ((model.params["W1"], ""), (state["exp_avg"], " exp_avg"), (state["exp_avg_sq"], " exp_avg_sq")):
        text = f'grads["W1"]: got memory that overlaps params["W1"]{name}'
        model.refuses(ValueError, text, model.grads() | {"W1": array})
        text = f'grads["deep"][0]["b"]: got memory that overlaps params["W1"]{name}'
        model.refuses(ValueError, text, model.grads() | {"deep": [{"b": array.reshape(-1)[3:8]}, (ones(2), ones(6))]})
    model.goes_on()


def test_overlap_that_only_the_tail_has() -> None:
    buffer = np.zeros(20, F32)
    optimizer = fs.SGD(buffer[:10])
    optimizer.step(buffer[10:])
    with pytest.raises(ValueError, match=says("grads: got memory that overlaps params")):
        optimizer.step(buffer[9:19])
    with pytest.raises(ValueError, match=says("grads: got memory that overlaps params")):
        fs.SGD(buffer[10:]).step(buffer[1:11])
    assert not buffer.any()


def test_gradients_that_are_written_need_memory_of_their_own() -> None:
    shared = ones(8)
    optimizer = fs.SGD([ones(8), ones(8)], lr=0.5)
    optimizer.step([shared, shared])
    optimizer.zero_grads = True
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=says("grads[0]: got memory that overlaps grads[1]")):
        optimizer.step([shared, shared])
    fixed = ones(8)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match=r"^grads\[1\]: got a read-only array, needs a writeable one"):
        optimizer.step([ones(8), fixed])
    assert_same([snapshot(optimizer), shared], [before, ones(8)])
    optimizer.zero_grads = False
    assert optimizer.step([fixed, fixed])


def test_no_gradients_bound() -> None:
    model = Nested()
    model.refuses(ValueError, "grads: got None, needs the gradients; only an optimizer that was made with grads=", None)


def test_bound_gradients_that_went_away() -> None:
    grads = [ones(4), ones(5)]
    optimizer = fs.SGD([ones(4), ones(5)], grads=grads, zero_grads=True)
    assert optimizer.step()
    grads[1].flags.writeable = False
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^grads\[1\]: its memory, size or dtype was changed in place, or it"):
        optimizer.step()
    assert_same([snapshot(optimizer), grads[0]], [before, np.zeros(4, F32)])
    for bad, text in (
        ({"a": 1}, "grads: got dict"),
        ([ones(4)], "grads: got list"),
        ([ones(4), 3.0], "grads[1]: got float"),
    ):
        with pytest.raises((TypeError, ValueError), match=says(text)):
            fs.SGD([ones(4), ones(5)], grads=bad)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, "2", None, True, [1.0], 1j], ids=repr)
def test_wrong_grad_scale(scale: Any) -> None:
    model = Nested()
    model.refuses((TypeError, ValueError), "grad_scale", model.grads(), grad_scale=scale)


# -------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (bad, error, text.replace('grads["W1"]', 'params["W1"]'))
        for bad, error, text in WRONG_ARRAYS
        if "shape (4, 3)" not in text
    ],
    ids=[text for _, _, text in WRONG_ARRAYS if "shape (4, 3)" not in text],
)
def test_wrong_parameter(bad: Any, error: type[Exception], text: str) -> None:
    if isinstance(bad, np.ndarray) and type(bad) is np.ndarray and bad.flags.c_contiguous and bad.dtype in (F32, float):
        pytest.skip("a fine parameter")
    if isinstance(bad, list):
        bad, text = [1.0], 'params["W1"][0]: got float, needs a NumPy array'
    before = copied(bad)
    for options in ({}, {"ema_decay": 0.9, "state_format": "8bit", "min_quantized_size": 0}):
        with pytest.raises(error, match=says(text.partition(", needs")[0])):
            fs.Adam({"W1": bad}, **options)
    assert str(before) == str(bad)


def test_read_only_parameter() -> None:
    with pytest.raises(ValueError, match=says('params["W1"]: got a read-only array, needs a writeable one')):
        fs.SGD({"W1": READ_ONLY})
    param = ones(3)
    optimizer = fs.SGD([param])
    param.flags.writeable = False
    with pytest.raises(ValueError, match=r"^params: an array of this optimizer was made read-only"):
        optimizer.step([ones(3)])
    assert_same(param, ones(3))


def test_no_parameters() -> None:
    nothing: list[Any] = [{}, [], (), {"a": [], "b": {}}]
    for empty in nothing:
        with pytest.raises(ValueError, match=r"^params: holds no arrays"):
            fs.SGD(empty)
    for wrong in (None, 3, "x", iter([ones(2)]), {1, 2}):
        with pytest.raises(TypeError, match=r"^params: got .*, needs a NumPy array"):
            fs.SGD(wrong)
    deep: Any = ones(1)
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="nested more than 200 deep"):
        fs.SGD(deep)


def test_parameter_given_twice() -> None:
    shared, base = ones(4), np.zeros(10, F32)
    for params, text in (
        ([shared, shared], "params[0]: got memory that overlaps params[1]"),
        ({"a": base[:6], "b": base[5:]}, 'params["a"]: got memory that overlaps params["b"]'),
        ([{"params": shared}, {"params": shared[1:3]}], "params[0]: got memory that overlaps params[1]"),
    ):
        with pytest.raises(ValueError, match=says(text)):
            fs.Adam(params)
    optimizer = fs.Adam(shared)
    with pytest.raises(ValueError, match="got memory that overlaps"):
        optimizer.add_param_group({"params": shared[:2]})
    assert len(optimizer.param_groups) == 1
    assert optimizer.step(ones(4))


# --------------------------------------------------------------------------------------------------- hyper-parameters

ANY_SIGN = {"dampening", "t0"}
STEP_OPTIONS: Options = {
    "maximize": False,
    "clip_value": 1.0,
    "ema_decay": 0.5,
    "max_grad_norm": 1.0,
    "skip_nonfinite": False,
}
STEP_OPTIONS |= {"zero_grads": False}


def wrong_values(rule: str) -> list[tuple[str, Any]]:
    """Every hyper-parameter with values that it cannot have."""
    found: list[tuple[str, Any]] = []
    for name, default in (RULES[rule].hypers | STEP_OPTIONS).items():
        values: tuple[Any, ...]
        if isinstance(default, bool):
            values = (1, 0.0, "yes", None)
        elif isinstance(default, tuple):
            a, b, *rest = default
            values = ((a,), (*default, b), a, "ab", None)
            firsts = [(math.nan, b), (a, math.nan), (-0.1, b), (a, "x"), (a, math.inf)]
            firsts += [(a, 1.0), (1.0, b)] if name != "step_sizes" else []
            values += tuple((*first, *rest) for first in firsts)
        else:
            values = (math.nan, "0.1", True, [0.1], 1j, -math.inf, *((-0.1,) if name not in ANY_SIGN else ()))
            values += (
                (None,) if name not in ("clip_value", "ema_decay", "max_grad_norm") else (0.0,) * (name != "ema_decay")
            )
        found += [(name, value) for value in values]
    return found


@pytest.mark.parametrize("rule", sorted(ROWS))
def test_wrong_hyper_parameters(rule: str) -> None:
    """In the constructor, in a group, between steps, in a schedule, and in the functions."""
    for name, value in wrong_values(rule):
        param = ones(4)
        with pytest.raises((TypeError, ValueError), match=rf"^{name}\b.*: got .*, needs"):
            CLASSES[rule](param, **{name: value})
        kind = CLASSES[rule]
        if name not in ("max_grad_norm", "skip_nonfinite", "zero_grads"):
            with pytest.raises((TypeError, ValueError), match=rf'^param_groups\[1\]\["{name}"\].*: got '):
                kind([{"params": ones(2)}, {"params": param, name: value}])
            optimizer = kind(param)
            before = snapshot(optimizer)
            for assigned in (value, lambda t, value=value: value):
                optimizer.param_groups[0][name] = assigned
                for _ in range(2):
                    with pytest.raises((TypeError, ValueError), match=rf'^param_groups\[0\]\["{name}"\].*: got '):
                        optimizer.step(ones(4))
            assert_same(snapshot(optimizer), before)
        for where in (fs.functional, fs.reference):
            given = functional_arrays(rule, {}, [param], 1)
            options = {name: value} | ({"ema": [ones(4)]} if name == "ema_decay" and value is not None else {})
            with pytest.raises((TypeError, ValueError), match=rf"^{name}\b.*: got .*, needs"):
                getattr(where, rule)([param], [ones(4)], step=1, **given, **options)
        assert_same(param, ones(4))


@pytest.mark.parametrize(("rule", "options"), [(r, o) for r, row in ROWS.items() for o in row.errors], ids=label)
def test_options_that_do_not_go_together(rule: str, options: Options) -> None:
    with pytest.raises(ValueError, match=r"needs a|must be"):
        CLASSES[rule](ones(3), **options)
    for where in (fs.functional, fs.reference):
        with pytest.raises(ValueError, match=r"needs a|must be"):
            getattr(where, rule)(
                [ones(3)], [ones(3)], step=1, **functional_arrays(rule, options, [ones(3)], 1), **options
            )


def test_combination_that_became_wrong_stays_wrong() -> None:
    optimizer = fs.SGD(ones(3), momentum=0.9, nesterov=True)
    optimizer.step(ones(3))
    before = snapshot(optimizer)
    for value in (0.0, np.float32(0), lambda t: 0.0):
        optimizer.param_groups[0]["momentum"] = value
        for _ in range(3):
            with pytest.raises(
                ValueError, match=r'^param_groups\[0\]\["nesterov"\]: got True with .*, needs a momentum above 0'
            ):
                optimizer.step(ones(3))
    assert_same(snapshot(optimizer), before)
    optimizer.param_groups[0]["momentum"] = 0.5
    assert optimizer.step(ones(3))


@pytest.mark.parametrize(
    ("rule", "name", "value", "state"),
    [
        (rule, state.when, {"momentum": 0.5}.get(state.when, True), state.name)
        for rule in sorted(ROWS)
        for state in RULES[rule].states
        if state.when and not RULES[rule].hypers[state.when]
    ],
    ids=label,
)
@pytest.mark.parametrize("how", [lambda v: v, lambda v: lambda t: v, np.asarray], ids=["value", "schedule", "array"])
def test_option_that_wants_a_state_there_is_not(rule: str, name: str, value: Any, state: str, how: Any) -> None:
    optimizer = CLASSES[rule](ones(3))
    optimizer.step(ones(3))
    before = snapshot(optimizer)
    optimizer.param_groups[0][name] = how(value) if not (how is np.asarray and value is True) else value
    for _ in range(2):
        with pytest.raises(ValueError, match=rf'^param_groups\[0\]: its options now call for the state "{state}"'):
            optimizer.step(ones(3))
    assert_same(snapshot(optimizer), before)
    del optimizer.param_groups[0][name]
    with pytest.raises(ValueError, match=rf'^param_groups\[0\].* got no entry "{name}"'):
        optimizer.step(ones(3))
    optimizer.param_groups[0][name] = RULES[rule].hypers[name]
    assert optimizer.step(ones(3))


def test_average_that_comes_or_goes() -> None:
    for made, then in ((None, 0.9), (0.9, None)):
        optimizer = fs.SGD(ones(3), ema_decay=made)
        optimizer.param_groups[0]["ema_decay"] = then
        with pytest.raises(ValueError, match=r'^param_groups\[0\]\["ema_decay"\]: got'):
            optimizer.step(ones(3))
        optimizer.param_groups[0]["ema_decay"] = made
        assert optimizer.step(ones(3))


def test_schedule_that_fails() -> None:
    def broken(t: int) -> float:
        raise ZeroDivisionError("mine")

    model = Nested()
    model.optimizer.param_groups[0]["lr"] = broken
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.optimizer.step(model.grads())
    model.optimizer.param_groups[0]["lr"] = lambda t: model.optimizer.step(model.grads()) or 0.1
    with pytest.raises(RuntimeError, match="called during a step"):
        model.optimizer.step(model.grads())


def test_schedule_that_takes_the_gradients_away() -> None:
    """Schedules run before gradients are read."""
    params = [ones(100_000) for _ in range(3)]
    grads = [np.full(100_000, 2.0, F32) for _ in range(3)]

    def rate(t: int) -> float:
        for i in range(3):
            grads[i] = np.full(100_000, 4.0, F32)
        return 0.5

    fs.SGD(params, lr=rate).step(grads)
    assert_same(params, [np.full(100_000, -1.0, F32)] * 3)


# ----------------------------------------------------------------------------------------------------------- options


def test_unknown_options() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'learning_rate'"):
        fs.Adam(ones(3), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"^param_groups\[0\]: got an unknown option 'beta'"):
        fs.Adam([{"params": ones(3), "beta": 0.1}])
    for where in (fs.functional, fs.reference):
        with pytest.raises(TypeError, match=r"unexpected keyword argument 'beta'"):
            where.sgd(ones(3), ones(3), step=1, beta=0.5)
    wrong = {"state_format": ("int8", None, ["8bit"]), "master": ("f32", True), "rounding": ("up",)}
    for name, bad in [(k, v) for k, vs in (wrong | {"min_quantized_size": (-1, 1.5, True)}).items() for v in vs]:
        with pytest.raises(ValueError, match=rf"^{name}: got .*, needs"):
            fs.Adam(ones(3), **{name: bad})
        with pytest.raises(ValueError, match=rf'^param_groups\[0\]\["{name}"\]: got '):
            fs.Adam([{"params": ones(3), name: bad}])
    for seed, error in ((-1, ValueError), (2**64, ValueError), (1.5, TypeError), (True, TypeError), (None, TypeError)):
        with pytest.raises(error, match=r"^seed: got"):
            fs.Adam(ones(3), seed=seed)
    optimizer = fs.Adam(ones(3))
    for name, bad in (("max_grad_norm", -1.0), ("skip_nonfinite", 1), ("zero_grads", "no")):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: got .*, needs"):
            setattr(optimizer, name, bad)
        assert getattr(optimizer, name) in (None, False)


def test_formats_that_do_not_fit() -> None:
    for dtype in (np.float32, np.float64):
        for master in ("float32", "split"):
            with pytest.raises(TypeError, match=rf"^params: got {np.dtype(dtype)} with master='{master}', needs"):
                fs.Adam(ones(3, dtype=dtype), master=master)
    with pytest.raises(TypeError, match=r"^params: got float16 with master='split', needs bfloat16"):
        fs.Adam(ones(3, dtype=np.float16), master="split")
    for rule in sorted(CLASSES):
        if {state.kind for state in RULES[rule].states} == {"exact"}:
            with pytest.raises(ValueError, match=rf"^state_format: got '8bit', needs 'float32' for {rule}; .*adam"):
                CLASSES[rule](ones(3), state_format="8bit")


def test_add_param_group() -> None:
    optimizer = fs.Adam(ones(3))
    for bad, error in ((ones(3), TypeError), ({"lr": 0.1}, TypeError), ({"params": []}, ValueError)):
        with pytest.raises(error):
            optimizer.add_param_group(bad)
    with pytest.raises(TypeError, match=r'^params\[1\]\["params"\]\[0\]: got dtype int64'):
        optimizer.add_param_group({"params": [np.ones(3, int)]})
    assert len(optimizer.param_groups) == 1 and optimizer.step(ones(3))
    with pytest.raises(ValueError, match="gradients are bound"):
        fs.Adam(ones(3), grads=ones(3)).add_param_group({"params": ones(2)})


def test_threads_and_instruction_sets() -> None:
    for bad in (0, -1, 4097, 2**40, 2**80):
        with pytest.raises(ValueError, match=r"^n: got .*, needs 1 to 4096"):
            fs.set_num_threads(bad)
    for wrong in (1.5, "2", None, True, np.ones(1), np.ones(1, int), np.ma.masked):
        with pytest.raises(TypeError, match=r"^n: got .*, needs an integer"):
            fs.set_num_threads(wrong)
    for choose in (fs.set_isa, fs.set_threading):  # text that has no UTF-8
        with pytest.raises(ValueError, match=r"'\\udc80'"):
            choose("\udc80")
    with pytest.raises(ValueError, match=r"^name: got 'sse9', needs one of baseline"):
        fs.set_isa("sse9")
    with pytest.raises(TypeError, match=r"^name: got 3"):
        fs.set_isa(3)


# --------------------------------------------------------------------------------------------------------- functions

BOTH = pytest.mark.parametrize("where", [fs.functional, fs.reference], ids=["functional", "reference"])


@BOTH
@pytest.mark.parametrize("rule", sorted(ROWS))
def test_function_arguments(where: Any, rule: str) -> None:
    """Each array of each function with everything that can be wrong about it; nothing has changed."""
    step = getattr(where, rule)
    options = ROWS[rule].options[-1]
    param = [ones(300, dtype=BFLOAT16), ones(6)]
    given: Options = functional_arrays(rule, options, param, 1)
    good: Options = {"param": param, "grad": [ones(300), ones(6)], **given}
    good |= {"master": [np.zeros(300, np.int16), None]}
    good |= {"ema": [ones(300), ones(6)], "ema_decay": 0.5, "step": 1, **options}
    assert step(**copied(good))

    def refuses(error: Any, name: str, value: Any, pattern: str) -> None:
        case = good | {name: value}
        before = copied({k: v for k, v in case.items() if isinstance(v, list)})
        with pytest.raises(error, match=pattern):
            step(**case)
        assert_same({k: case[k] for k in before}, before, name)

    states = [s.name for s in RULES[rule].used(hypers(rule, options))]
    scalars = list(RULES[rule].scalars)
    for name in ["param", "grad", *states, *scalars, "ema"]:
        fine: Array = good[name][1]
        where_ = rf"^{name}\[1\]"
        small = name in scalars
        refuses(TypeError, name, [good[name][0], fine.astype(np.int32)], where_)
        refuses(TypeError, name, [good[name][0], fine.astype(">f4")], where_)
        refuses(TypeError, name, [good[name][0], np.ma.masked_array(fine)], where_)
        refuses(TypeError, name, [good[name][0], 1.0], where_)
        refuses((TypeError, ValueError), name, [good[name][0], np.ones((2, 4), fine.dtype)], r"^\w+\[1\]")
        if not small:
            refuses(ValueError, name, [good[name][0], np.ones(12, fine.dtype)[::2]], where_)
        if name != "grad":
            fixed = fine.copy()
            fixed.flags.writeable = False
            refuses((TypeError, ValueError), name, [good[name][0], fixed], where_)
        refuses((TypeError, ValueError), name, good[name][:1], r"^\w+: got .*, needs")
        refuses(TypeError, name, fine, ".")
        if name not in ("param", "ema"):
            refuses(TypeError, name, None, f"{name}")
        if name != "param" and not small:
            refuses(ValueError, name, [good[name][0], good["param"][1]], "overlap")
    if states:
        refuses(ValueError, states[0], [good[states[0]][0], good["grad"][1]], "overlap")
        coded = (np.zeros(6, np.uint8), np.zeros(1, np.float32))
        wrong = (
            (np.zeros(6, np.int8), coded[1]),
            (coded[0], np.zeros(2, np.float32)),
            (coded[0], np.zeros(1)),
            (coded[0],),
        )
        for pair in wrong:
            refuses((TypeError, ValueError), states[0], [good[states[0]][0], pair], rf"^{states[0]}\[1\]")
        if RULES[rule].states[0].kind == "exact":
            refuses((TypeError, ValueError), states[0], [good[states[0]][0], coded], rf"^{states[0]}\[1\]")
    for master in (
        np.zeros(300, np.int32),
        np.zeros(299, np.int16),
        np.zeros(600, np.int16)[::2],
        ones(300, dtype=float),
    ):
        refuses((TypeError, ValueError), "master", [master, None], r"^master\[0\]")
    refuses(TypeError, "master", [None, ones(6)], r"^master\[1\]: got a master")
    for bad in (0, -1, 1.5, True, "1", None, 2**63, [1], [1, 2, 3], [1, 0]):
        refuses((TypeError, ValueError), "step", bad, "^step")
    refuses(ValueError, "ema_decay", None, "ema: got one of ema and ema_decay")
    refuses(ValueError, "ema", None, "ema: got one of ema and ema_decay")
    refuses(ValueError, "rounding", "up", "^rounding")
    for bad in (-1, 1.0, True, 2**64):
        refuses((TypeError, ValueError), "seed", bad, "^seed")


@BOTH
def test_function_calls(where: Any) -> None:
    with pytest.raises(TypeError):
        where.adam(ones(3))
    with pytest.raises(TypeError):
        where.adam(ones(3), ones(3), ones(3), ones(3), ones(3), ones(3), step=1)
    with pytest.raises(TypeError):
        where.sgd(ones(3), ones(3), param=ones(3), step=1)
    with pytest.raises(TypeError):
        where.sgd([ones(3)], [None], step=1)
    with pytest.raises(TypeError):
        where.sgd(ones(3), ones(3), step=[1])
    for one, other in ((1.0, True), (0.5, "0.5")):
        assert where.sgd(ones(3), ones(3), step=1, lr=one)
        with pytest.raises(TypeError, match=r"^lr: got .*, needs"):
            where.sgd(ones(3), ones(3), step=1, lr=other)
    assert where.adam(ones(3), ones(3), ones(3), ones(3), step=1, betas=(0.5, 0.0))
    with pytest.raises(TypeError, match=r"^betas\[1\]: got .*, needs"):
        where.adam(ones(3), ones(3), ones(3), ones(3), step=1, betas=(0.5, False))


def test_minus_zero_is_zero() -> None:
    """Options that are equal leave equal bytes, whichever came first."""
    for rule in sorted(ROWS):
        for name, default in RULES[rule].hypers.items():
            if isinstance(default, float) and name not in ("initial_accumulator_value", "momentum"):
                results = []
                for zero in (0.0, -0.0):
                    param, grad = numbers(50, F32, 1, special=0.3), [numbers(50, F32, 2, special=0.3)]
                    given = functional_arrays(rule, {}, [param], 3)
                    try:
                        getattr(fs.functional, rule)([param], grad, step=2, **given, **{name: zero})
                    except ValueError:
                        continue
                    results.append([param, given])
                assert len(results) in (0, 2)
                if results:
                    assert_same(results[1], results[0], f"{rule} {name}")


def test_messages_have_one_order() -> None:
    """What came, then what is needed; the package's own sources alone have the texts."""
    sources = Path(fusedstep.__file__).parent.rglob("*.py")
    other = re.compile(r"""f["'].*\b(needs? .*, got |(is|are) needed|available: )""")
    code = ((path, line) for path in sources for line in path.read_text().splitlines() if "{" in line)
    assert [f"{path.name}: {line.strip()}" for path, line in code if other.search(line)] == []
