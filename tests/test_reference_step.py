"""The step options in the reference: clipping, skipping, flushing, averaging, storage, lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fusedstep import formats, reference

Array = NDArray[Any]
# the others give an element the same step wherever a buffer is cut
PER_TENSOR = {name for name, rule in reference.RULES.items() if rule.norms}


def arrays(rule: str, size: int, dtype: Any = np.float32, seed: int = 0) -> list[Array]:
    """Parameter, gradient, states and scalars, at random but of a sensible sign."""
    facts, rng = reference.RULES[rule], np.random.default_rng(seed)
    made = [rng.standard_normal(size).astype(dtype) for _ in range(2 + len(facts.states))]
    for i, state in enumerate(facts.states):
        if state.kind == "unsigned" or state.name in ("sum", "step_size"):
            np.abs(made[2 + i], out=made[2 + i])
    return [*made, *(np.array(0.5) for _ in facts.scalars)]


def copies(values: list[Any]) -> list[Any]:
    return [value.copy() for value in values]


def equal(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def step(rule: str, values: list[Any], **options: Any) -> bool:
    return bool(getattr(reference, rule)(*values, **({"step": 3} | options)))


RULES = sorted(name for name, rule in reference.RULES.items() if not rule.needs_shape)


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_prepared_before_the_rule(rule: str) -> None:
    ways: list[tuple[dict[str, Any], Callable[[Array], Array]]] = [
        ({"maximize": True}, lambda g: -g),
        ({"grad_scale": 3.0}, lambda g: np.float32(1 / 3.0) * g),
        ({"clip_value": 0.25}, lambda g: np.clip(g, np.float32(-0.25), np.float32(0.25))),
        ({"maximize": True, "grad_scale": 0.5, "clip_value": 1.5}, lambda g: np.clip(g * -2, -1.5, 1.5)),
    ]
    for options, prepared in ways:
        ours = arrays(rule, 100)
        theirs = copies(ours)
        theirs[1] = prepared(theirs[1]).astype(np.float32)
        step(rule, ours, **options)
        step(rule, theirs)
        del ours[1], theirs[1]
        assert all(map(equal, ours, theirs)), options


def test_the_norm_is_that_of_all_tensors() -> None:
    params = [np.zeros(3, dtype=np.float32), np.zeros((2, 2), dtype=np.float32)]
    grads = [np.full(3, 2.0, dtype=np.float32), np.full((2, 2), 6.0, dtype=np.float32)]
    reference.sgd(params, grads, step=1, lr=1.0, max_grad_norm=1.0, grad_scale=2.0)
    coefficient = 1.0 / (math.sqrt(3 * 4.0 + 4 * 36.0) / 2.0 + 1e-6)
    assert params[0][0] == -(np.float32(0.5 * coefficient) * np.float32(2.0))
    assert params[1][0, 0] == -(np.float32(0.5 * coefficient) * np.float32(6.0))


def test_a_small_norm_changes_nothing() -> None:
    ours, theirs = arrays("adam", 50), arrays("adam", 50)
    step("adam", ours, max_grad_norm=1e6)
    step("adam", theirs)
    assert all(map(equal, ours, theirs))


def test_clipping_as_torch_does() -> None:
    torch = pytest.importorskip("torch")
    grads = [np.random.default_rng(i).standard_normal(100 + i) for i in range(3)]
    params = [np.zeros_like(grad) for grad in grads]
    reference.sgd(params, grads, step=1, lr=1.0, max_grad_norm=0.7)
    theirs = [torch.nn.Parameter(torch.zeros(len(grad), dtype=torch.float64)) for grad in grads]
    for parameter, grad in zip(theirs, grads, strict=True):
        parameter.grad = torch.from_numpy(grad.copy())
    torch.nn.utils.clip_grad_norm_(theirs, 0.7)
    for ours, parameter in zip(params, theirs, strict=True):
        np.testing.assert_allclose(ours, -parameter.grad.numpy(), rtol=1e-12)


def test_a_nan_gradient_spoils_a_clipped_step_visibly() -> None:
    param = np.zeros(3)
    reference.sgd(param, np.array([1.0, np.nan, 2.0]), step=1, max_grad_norm=1.0)
    assert np.isnan(param).all()
    param = np.zeros(3)
    reference.sgd(param, np.array([1.0, np.nan, 2.0]), step=1, lr=1.0, clip_value=1.0)
    np.testing.assert_array_equal(param, [-1.0, np.nan, -1.0])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_skipping_changes_nothing(rule: str, bad: float) -> None:
    first, second = arrays(rule, 20), arrays(rule, 30, seed=1)
    second[1][7] = bad
    ema = [first[0].copy(), second[0].copy()]
    before = copies(first) + copies(second) + copies(ema)
    columns = [list(pair) for pair in zip(first, second, strict=True)]
    options: dict[str, Any] = {"skip_nonfinite": True, "zero_grads": True, "ema": ema, "ema_decay": 0.5}
    assert step(rule, columns, **options) is False
    assert all(map(equal, first + second + ema, before))
    second[1][7] = 0.0
    assert step(rule, columns, **options) is True
    assert not first[1].any()


@pytest.mark.parametrize("rule", RULES)
def test_states_never_become_subnormal(rule: str) -> None:
    values = arrays(rule, 40)
    tiny = np.finfo(np.float32).tiny
    values[0][:20] = tiny / 4
    values[1][:] = 0.0
    for state in values[2 : 2 + len(reference.RULES[rule].states)]:
        state[...] = tiny
    step(rule, values)
    for state in values[2 : 2 + len(reference.RULES[rule].states)]:
        assert not ((np.abs(state) < tiny) & (state != 0)).any()
    if rule == "sgd":  # parameters may be
        assert ((values[0] != 0) & (np.abs(values[0]) < tiny)).any()


def test_averages_and_zeroed_gradients() -> None:
    values = arrays("adam", 10)
    ema = values[0].copy()
    before = ema.copy()
    step("adam", values, ema=ema, ema_decay=0.9, zero_grads=True)
    assert equal(ema, np.float32(0.9) * before + np.float32(1 - 0.9) * values[0])
    assert not values[1].any()


@pytest.mark.parametrize("rule", [name for name in RULES if not reference.RULES[name].whole])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lists_are_the_tensors_one_by_one(rule: str, dtype: Any) -> None:
    tensors = [arrays(rule, size, dtype, seed=size) for size in (1, 7, 300)]
    single = [copies(values) for values in tensors]
    for values, number in zip(single, (1, 5, 900), strict=True):
        step(rule, values, step=number)
    step(rule, [list(column) for column in zip(*tensors, strict=True)], step=[1, 5, 900])
    for ours, theirs in zip(tensors, single, strict=True):
        assert all(map(equal, ours, theirs))


@pytest.mark.parametrize("rule", sorted(set(RULES) - PER_TENSOR))
@pytest.mark.parametrize("cut", [0, 1, 16, 63])
def test_a_buffer_may_be_cut_anywhere(rule: str, cut: int) -> None:
    whole = arrays(rule, 64)
    elementwise = 2 + len(reference.RULES[rule].states)
    left, right = copies(whole), copies(whole)
    step(rule, whole)
    for part, piece in ((left, slice(None, cut)), (right, slice(cut, None))):
        step(rule, [*(array[piece] for array in part[:elementwise]), *part[elementwise:]])
        assert all(equal(a[piece], b[piece]) for a, b in zip(part[:elementwise], whole, strict=False))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3, 4)])
def test_shapes(rule: str, shape: tuple[int, ...]) -> None:
    elementwise = 2 + len(reference.RULES[rule].states)
    flat = arrays(rule, math.prod(shape))
    shaped = [array.copy().reshape(shape) for array in flat[:elementwise]] + copies(flat[elementwise:])
    step(rule, flat)
    step(rule, shaped)
    assert all(equal(a, b.reshape(a.shape)) for a, b in zip(flat, shaped, strict=True))


def brief(values: Array, dtype: Any) -> Array:
    """Values in float16, or in the bfloat16 of ml_dtypes."""
    return np.asarray(values.astype(dtype))


@pytest.mark.parametrize("rule", RULES)
def test_masters_of_bfloat16_parameters(rule: str) -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    plain = arrays(rule, 600)
    plain[1] = brief(plain[1], bfloat16).astype(np.float32)  # gradients that both see alike
    whole, split = copies(plain), copies(plain)
    master = plain[0].copy()
    high, remainder = formats.split(plain[0])
    whole[0], split[0] = brief(plain[0], bfloat16), high.view(bfloat16)
    whole[1] = brief(plain[1], bfloat16)
    for number in (1, 2, 3):
        step(rule, plain, step=number)
        step(rule, whole, step=number, master=master)
        step(rule, split, step=number, master=remainder)
        assert equal(master, plain[0])
        assert equal(formats.join(split[0], remainder), plain[0])
        assert equal(whole[0].view(np.uint16), formats.encode_bfloat16(plain[0]))
        assert all(map(equal, whole[2:], plain[2:]))
        assert all(map(equal, split[2:], plain[2:]))


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_brief_parameters_are_rounded(dtype: str, rounding: Any) -> None:
    scalar = np.float16 if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    encode = formats.encode_float16 if dtype == "float16" else formats.encode_bfloat16
    params = [brief(np.random.default_rng(i).standard_normal(3000), scalar) for i in range(2)]
    grads = [np.full(3000, 0.37, dtype=np.float32) for _ in range(2)]
    wanted = []
    for i, param in enumerate(params):
        exact = param.astype(np.float32) - np.float32(1e-3) * grads[i]
        noise = formats.noise(formats.noise_key(11, 4 + i, 9), 3000) if rounding == "stochastic" else None
        wanted.append(encode(exact, noise))
    reference.sgd(params, grads, step=9, rounding=rounding, seed=11, first=4)
    for param, bits in zip(params, wanted, strict=True):
        assert equal(param.view(np.uint16), bits)


@pytest.mark.parametrize("rule", ["adam", "rmsprop", "adadelta", "rprop"])
def test_states_in_eight_bits(rule: str) -> None:
    facts = reference.RULES[rule]
    states = facts.used(facts.hypers)
    values: list[Any] = [*arrays(rule, 700)[: 2 + len(states)]]
    exact: list[Array] = copies(values)
    for i, state in enumerate(states, 2):
        if state.kind != "exact":
            signed = state.kind == "signed"
            codes, scales = formats.encode_8bit(exact[i], signed)
            values[i], exact[i] = (codes, scales), formats.decode_8bit(codes, scales, signed)
    step(rule, values)
    step(rule, exact)
    assert equal(values[0], exact[0])
    for i, state in enumerate(states, 2):
        if state.kind == "exact":
            assert equal(values[i], exact[i])
        else:
            codes, scales = formats.encode_8bit(exact[i], state.kind == "signed")
            assert equal(values[i][0], codes)
            assert equal(values[i][1], scales)


def test_the_old_name_of_the_step_options_warns() -> None:
    with pytest.warns(DeprecationWarning, match="Around is now called StepOptions"):
        old = reference.Around
    assert old is reference.StepOptions
    with pytest.raises(AttributeError, match="arounds"):
        _ = reference.arounds
