"""Properties of every step, over models, gradients and options that hypothesis makes up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from cases import (
    BFLOAT16,
    CLASSES,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    ROWS,
    Array,
    Options,
    Twin,
    assert_same,
    copied,
    numbers,
    running,
    snapshot,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fusedstep as fs
from fusedstep.reference import RULES

settings.register_profile(
    "suite", deadline=None, max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")

ISAS = fs.available_isas()
rules = st.sampled_from(sorted(CLASSES))
sizes = st.one_of(st.integers(0, 40), st.integers(250, 260), st.integers(1000, 1030), st.integers(2040, 2060))
shapes = st.lists(sizes, min_size=1, max_size=5)
seeds = st.integers(0, 2**32)


@st.composite
def options_of(draw: Any, rule: str) -> Options:
    """Any of the rule's option sets with any learning rate and any step options."""
    options: Options = dict(draw(st.sampled_from(ROWS[rule].options)))
    if "lr" in RULES[rule].hypers:
        options["lr"] = draw(st.floats(0, 2))
    options["maximize"] = draw(st.booleans())
    if RULES[rule].decay is not None and (RULES[rule].hypers | options).get("momentum", 1) != 0:
        options["cautious"] = draw(st.booleans())
    options["clip_value"] = draw(st.none() | st.floats(1e-3, 10))
    options["ema_decay"] = draw(st.none() | st.floats(0, 0.999))
    options["zero_grads"] = draw(st.booleans())
    options["skip_nonfinite"] = draw(st.booleans())
    return options


@st.composite
def storage_of(draw: Any, rule: str) -> tuple[Any, Any, Options]:
    dtype = draw(st.sampled_from([FLOAT64, FLOAT32, FLOAT16, BFLOAT16]))
    narrower = [FLOAT32, FLOAT16, BFLOAT16] + ([FLOAT64] if dtype == FLOAT64 else [])
    options: Options = {"seed": draw(st.integers(0, 2**64 - 1)), "min_quantized_size": draw(st.sampled_from([0, 256]))}
    if {state.kind for state in RULES[rule].states} != {"exact"}:
        options["state_format"] = draw(st.sampled_from(["float32", "bfloat16", "8bit"]))
    if dtype in (FLOAT16, BFLOAT16):
        options["rounding"] = draw(st.sampled_from(["nearest", "stochastic"]))
        options["master"] = draw(st.sampled_from([None, "float32"] + ["split"] * (dtype == BFLOAT16)))
    return dtype, draw(st.sampled_from(narrower)), options


@given(st.data())
def test_equals_the_reference(data: st.DataObject) -> None:
    """Any rule, options, storage, sizes, gradients present or missing, instruction set and thread count."""
    rule, lengths = data.draw(rules), data.draw(shapes)
    dtype, grad_dtype, storage = data.draw(storage_of(rule))
    options, seed = data.draw(options_of(rule)), data.draw(seeds)
    optimizer = CLASSES[rule]([numbers(n, dtype, seed + i) for i, n in enumerate(lengths)], **options, **storage)
    twin = Twin(optimizer)
    with running(data.draw(st.sampled_from(ISAS)), data.draw(st.integers(1, 4))):
        for t in range(data.draw(st.integers(1, 4))):
            present = data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
            scale = data.draw(st.sampled_from([1.0, 0.1, 65536.0]))
            grads: list[Any] = [
                numbers(n, grad_dtype, seed + 1000 * t + i) if there else None
                for i, (n, there) in enumerate(zip(lengths, present, strict=True))
            ]
            mine = copied(grads)
            expected = twin.step(grads, scale)
            assert optimizer.step(mine, grad_scale=scale) is expected
            assert_same(mine, grads)
            twin.check(f"step {t + 1}")


@given(st.data())
def test_any_partition_into_tensors(data: st.DataObject) -> None:
    """Rules that look at elements alone do not see where one tensor ends and the next begins."""
    rule = data.draw(st.sampled_from(sorted(name for name in CLASSES if not RULES[name].norms)))
    size, seed = data.draw(st.integers(1, 5000)), data.draw(seeds)
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=6)) | {0, size})
    options = data.draw(options_of(rule)) | {"ema_decay": None, "cautious": False}  # which counts by tensor
    dtype = data.draw(st.sampled_from([FLOAT32, FLOAT64]))
    whole, apart = numbers(size, dtype, seed), numbers(size, dtype, seed)

    def pieces(array: Array) -> list[Array]:
        return [array[a:b] for a, b in itertools.pairwise(cuts)]

    one, many = CLASSES[rule](whole, **options), CLASSES[rule](pieces(apart), **options)
    for t in range(3):
        grad = numbers(size, dtype, seed + t + 1)
        assert one.step(grad.copy()) == many.step(pieces(grad))
    assert_same(apart, whole)


@given(rules, seeds, st.integers(1, 3000))
def test_order_of_parameters_does_not_matter(rule: str, seed: int, size: int) -> None:
    params = [numbers(size, FLOAT32, seed), numbers(7, FLOAT32, seed + 1), numbers(300, FLOAT64, seed + 2)]
    there, back = copied(params), copied(params)
    one, other = CLASSES[rule](there), CLASSES[rule](back[::-1])
    for t in range(2):
        grads = [numbers(p.size, p.dtype, seed + 10 * t + i) for i, p in enumerate(params)]
        one.step(grads)
        other.step(grads[::-1])
    assert_same(there, back)


@given(rules, seeds, st.sampled_from([FLOAT32, FLOAT64]), st.integers(-20, 20))
def test_scaled_gradients(rule: str, seed: int, dtype: Any, power: int) -> None:
    """A loss scaled by a power of two and unscaled in the step leaves the bytes of one that never was."""
    plain, scaled = numbers(700, dtype, seed), numbers(700, dtype, seed)
    one, other = CLASSES[rule](plain), CLASSES[rule](scaled)
    for t in range(3):
        grad = numbers(700, dtype, seed + t + 1)
        one.step(grad)
        other.step((grad * dtype.type(2.0**power)).astype(dtype), grad_scale=2.0**power)
    assert_same(snapshot(other), snapshot(one))


@given(rules, seeds)
def test_maximize_is_the_step_of_the_opposite_gradient(rule: str, seed: int) -> None:
    down, up = numbers(500, FLOAT32, seed), numbers(500, FLOAT32, seed)
    one, other = CLASSES[rule](down), CLASSES[rule](up, maximize=True)
    for t in range(3):
        grad = numbers(500, FLOAT32, seed + t + 1)
        one.step(-grad)
        other.step(grad)
    assert_same(up, down)


@given(rules, seeds, st.data())
def test_saved_in_the_middle(rule: str, seed: int, data: st.DataObject) -> None:
    """Saved anywhere, loaded, continued: the bytes of an uninterrupted run."""
    dtype, grad_dtype, storage = data.draw(storage_of(rule))
    options, stop = data.draw(options_of(rule)), data.draw(st.integers(0, 3))

    def make(arrays: list[Array]) -> fs.Optimizer:
        return CLASSES[rule](arrays, **options, **storage)

    def grads(t: int) -> list[Array]:
        return [numbers(n, grad_dtype, seed + 100 * t + n) for n in (600, 3)]

    whole = make([numbers(n, dtype, seed + n) for n in (600, 3)])
    for t in range(stop):
        whole.step(grads(t))
    resumed = make([slot.param.copy() for slot in whole._slots])
    resumed.load_state_dict(whole.state_dict())
    for t in range(stop, stop + 2):
        whole.step(grads(t))
        resumed.step(grads(t))
    assert_same(snapshot(resumed), snapshot(whole))


@given(st.data())
def test_small_steps_leave_what_is_not_theirs(data: st.DataObject) -> None:
    """No byte before, between and behind the arrays of a model changes."""
    rule, lengths = data.draw(rules), data.draw(shapes)
    gap = 24
    buffer = np.full(sum(lengths) + gap * (len(lengths) + 1), 7, np.float32)
    guard = np.ones(buffer.size, bool)
    params, place = [], gap
    for n in lengths:
        params.append(buffer[place : place + n])
        guard[place : place + n] = False
        place += n + gap
    optimizer = CLASSES[rule](params)
    with running(data.draw(st.sampled_from(ISAS)), 2):
        optimizer.step([np.ones(n, np.float32) for n in lengths])
    assert (buffer[guard] == 7).all()


@given(seeds, st.integers(0, 3), st.booleans())
def test_stochastic_rounding_is_unbiased_and_repeats(seed: int, tensor: int, half: bool) -> None:
    """A step that lies between two 16-bit numbers goes to either, on average where it belongs, the same every time."""
    dtype = FLOAT16 if half else BFLOAT16
    spacing = 2.0**-10 if half else 2.0**-7
    found = []
    for _ in range(2):
        params = [np.ones(20_000, dtype) for _ in range(tensor + 1)]
        fs.SGD(params, lr=0.25 * spacing, rounding="stochastic", seed=seed).step(
            [-np.ones(20_000, dtype)] * (tensor + 1)
        )
        found.append(params[tensor].astype(np.float32))
    assert_same(found[0], found[1])
    share = (found[0] > 1).mean()
    assert set(np.unique(found[0])) == {1.0, 1.0 + spacing}
    assert abs(share - 0.25) < 0.02
