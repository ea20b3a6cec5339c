"""Schedules: the formulas to the letter, torch and optax beside them, and how they are kept."""

from __future__ import annotations

import decimal
import math
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedstep.schedules import (
    Schedule,
    Stateful,
    cosine,
    cosine_restarts,
    cyclic,
    exponential_decay,
    inverse_sqrt_decay,
    inverse_time_decay,
    join,
    linear_warmup,
    one_cycle,
    piecewise,
    polynomial,
    reduce_on_plateau,
    staircase,
    warmup_stable_decay,
)
from fusedstep.schedules._maths import cospi, power

ALL: list[Schedule] = [
    inverse_time_decay(1e-3, decay_rate=1.0),
    inverse_time_decay(0.2, 0.1, steps_per_epoch=7, whole_epochs=False),
    exponential_decay(1e-2),
    exponential_decay(1e-2, 0.9, steps_per_epoch=7, whole_epochs=False),
    inverse_sqrt_decay(0.1, k=2.0),
    inverse_sqrt_decay(0.1, steps_per_epoch=5, whole_epochs=False),
    staircase(0.8, every=10, factor=0.5),
    piecewise([10, 30], [1e-2, 1e-3, 1e-4], steps_per_epoch=2),
    cosine(0.1, 60, end=0.01),
    linear_warmup(0.1, 20, start=0.01),
    one_cycle(1.0, 60),
    one_cycle(1.0, 60, 0.25, anneal="linear", three_phase=True),
    join([linear_warmup(0.1, 10), cosine(0.1, 50)], [10]),
    polynomial(0.1, 50, 0.01, 0.7),
    warmup_stable_decay(0.1, 5, 20, 30),
    warmup_stable_decay(0.1, 0, 0, 30, end=0.01, shape="cos"),
    cosine_restarts(0.1, 10),
    cosine_restarts(0.1, 3, 3, end=0.01, factor=0.7),
    cyclic(0.01, 0.1, 7),
    cyclic(0.9, 0.8, 7, 3, mode="triangular2"),
    cyclic(0.01, 0.1, 7, mode="exp_range", gamma=0.99),
    reduce_on_plateau(0.1, patience=2),
]
rates = st.floats(1e-8, 1e3)
steps = st.integers(0, 10**6)


# the formulas


def test_inverse_time_decay_is_the_formula() -> None:
    schedule = inverse_time_decay(1e-3, decay_rate=1.0)
    assert [schedule(t) for t in range(1000)] == [1e-3 / (1 + t) for t in range(1000)]


def test_inverse_time_decay_gives_the_table_of_the_course() -> None:
    schedule = inverse_time_decay(0.2, decay_rate=1.0)
    assert [round(schedule(epoch), 3) for epoch in (1, 2, 3, 4)] == [0.1, 0.067, 0.05, 0.04]


def test_exponential_decay_is_the_formula() -> None:
    schedule = exponential_decay(0.1)
    for epoch in range(400):
        assert schedule(epoch) == pytest.approx(0.95**epoch * 0.1, rel=3e-16, abs=0)


@settings(deadline=None)
@given(rates, steps, st.floats(0.1, 10.0))
def test_inverse_sqrt_decay_is_the_formula(lr: float, t: int, k: float) -> None:
    assert inverse_sqrt_decay(lr, k)(t) == k / math.sqrt(max(t, 1)) * lr


@settings(deadline=None)
@given(steps, st.integers(1, 1000), st.integers(1, 50))
def test_staircase_is_the_formula(t: int, steps_per_epoch: int, every: int) -> None:
    schedule = staircase(0.3, every, 0.5, steps_per_epoch=steps_per_epoch)
    assert schedule(t) == 0.3 * 0.5 ** (t // (steps_per_epoch * every))


@pytest.mark.parametrize("make", [inverse_time_decay, exponential_decay, inverse_sqrt_decay])
def test_epochs_are_whole_unless_told_otherwise(make: Callable[..., Schedule]) -> None:
    by_epoch, whole, parts = (
        make(0.1),
        make(0.1, steps_per_epoch=8),
        make(0.1, steps_per_epoch=8, whole_epochs=False),
    )
    assert [whole(t) for t in range(80)] == [by_epoch(t // 8) for t in range(80)]
    assert [parts(8 * epoch) for epoch in range(10)] == [by_epoch(epoch) for epoch in range(10)]
    assert parts(20) < parts(19) and whole(20) == whole(19)


def test_piecewise_takes_the_new_value_at_the_boundary() -> None:
    schedule = piecewise([2, 3], [3.0, 2.0, 1.0], steps_per_epoch=2)
    assert [schedule(t) for t in range(8)] == [3.0, 3.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    assert piecewise([], [0.5])(10**9) == 0.5


@settings(deadline=None)
@given(rates, st.integers(1, 1000), st.floats(0.0, 1.0))
def test_cosine_and_warmup_start_and_end_exactly(lr: float, length: int, share: float) -> None:
    for schedule in (cosine(lr, length, lr * share), linear_warmup(lr * share, length, lr)):
        assert schedule(length) == schedule(10 * length) == lr * share
        values = [schedule(t) for t in range(length + 1)]
        assert values[0] == pytest.approx(lr, rel=1e-15)
        assert all(b <= a * (1 + 1e-15) for a, b in pairwise(values))


def test_one_cycle_rises_to_the_peak_and_ends_below_the_start() -> None:
    schedule = one_cycle(1.0, 101, 0.5, div_factor=10.0, final_div_factor=100.0)
    values = [schedule(t) for t in range(101)]
    assert values[0] == pytest.approx(0.1, rel=1e-15) and max(values) == pytest.approx(1.0, rel=1e-3)
    assert values[100] == schedule(1000) == 0.1 / 100.0
    assert one_cycle(1.0, 2, 0.1)(0) == pytest.approx(1.0, rel=1e-15)  # no room for a rise


def test_join_counts_each_schedule_from_its_boundary() -> None:
    schedule = join([lambda t: t, lambda t: 100 + t, lambda t: 1000 + t], [3, 5])
    assert [schedule(t) for t in range(7)] == [0, 1, 2, 100, 101, 1000, 1001]
    assert isinstance(schedule(0), float)


# the maths behind them


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_cospi_is_the_cosine(x: float) -> None:
    # math.cos sees pi * x rounded, which alone moves it by up to 2.2e-16
    assert abs(cospi(x) - math.cos(math.pi * x)) <= 5e-16


@settings(deadline=None)
@given(st.floats(0.5, 1.0))
def test_cospi_is_odd_about_the_middle(x: float) -> None:
    assert cospi(x) == -cospi(1.0 - x)
    assert (cospi(0.0), cospi(0.5), cospi(1.0)) == (1.0, 0.0, -1.0)


@settings(deadline=None)
@given(st.floats(1e-3, 1.0), st.integers(0, 400))
def test_power_is_the_nearest_double(base: float, exponent: int) -> None:
    exact = power(base, exponent)
    assert exact == pytest.approx(math.pow(base, exponent), rel=2e-16, abs=1e-307)
    if exact > 1e-290:
        true, below, above = (
            Fraction(base) ** exponent,
            math.nextafter(exact, 0.0),
            math.nextafter(exact, 2.0),
        )
        error = abs(true - Fraction(exact))
        assert error <= abs(true - Fraction(below))
        assert error <= abs(true - Fraction(above))


def test_power_at_the_edges() -> None:
    assert power(0.0, 0) == power(0.5, 0) == 1.0
    assert power(0.0, 3) == 0.0
    assert power(1.0, 10**6) == 1.0
    assert power(0.5, 10**6) == 0.0
    assert power(0.25, 0.5) == 0.5


def test_the_callers_decimal_context_has_no_say() -> None:
    schedules: list[Schedule] = [
        exponential_decay(0.1),
        exponential_decay(0.3, 0.9, steps_per_epoch=7, whole_epochs=False),
    ]
    schedules.append(staircase(0.3, 2, 0.7))
    expected = [schedule(t) for schedule in schedules for t in range(20)]
    signals = list(decimal.getcontext().flags)
    strict = decimal.Context(prec=2, rounding=decimal.ROUND_UP, Emin=-1, Emax=1, capitals=0, traps=signals)
    with decimal.localcontext(strict):
        assert [schedule(t) for schedule in schedules for t in range(20)] == expected


def test_the_default_decimal_context_has_no_say() -> None:
    code = """
import decimal
decimal.DefaultContext.rounding = decimal.ROUND_UP
for signal in decimal.DefaultContext.traps:
    decimal.DefaultContext.traps[signal] = True
import fusedstep.schedules as s
print([s.exponential_decay(0.1)(t).hex() for t in range(400)], s.exponential_decay(0.1, 0.5)(10**6))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == f"{[exponential_decay(0.1)(t).hex() for t in range(400)]} 0.0"


def test_a_stair_that_grows_beyond_the_largest_float_is_infinite() -> None:
    assert staircase(0.1, 1, 10.0)(10**7) == math.inf
    assert staircase(0.0, 1, 10.0)(10**7) == 0.0


# torch and optax


def torch_values(make: Callable[..., Any], lr: float, n: int, **options: Any) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(torch.optim.lr_scheduler)(optimizer, **options)
    values = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "step of the optimizer first": there is nothing to optimize here
        for _ in range(n):
            values.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return values


TORCH: dict[str, tuple[Schedule, str, dict[str, Any]]] = {
    "exponential": (exponential_decay(0.1, 0.9), "ExponentialLR", {"gamma": 0.9}),
    "step": (staircase(0.1, 7, 0.5), "StepLR", {"step_size": 7, "gamma": 0.5}),
    "multistep": (
        piecewise([5, 20], [0.1, 0.01, 0.001]),
        "MultiStepLR",
        {"milestones": [5, 20], "gamma": 0.1},
    ),
    "cosine": (cosine(0.1, 49, 0.01), "CosineAnnealingLR", {"T_max": 49, "eta_min": 0.01}),
    "linear": (linear_warmup(0.1, 20, 0.025), "LinearLR", {"start_factor": 0.25, "total_iters": 20}),
    "one cycle": (one_cycle(0.1, 50), "OneCycleLR", {"max_lr": 0.1, "total_steps": 50}),
    "one cycle, linear": (
        one_cycle(0.1, 50, 0.25, anneal="linear", div_factor=4.0, final_div_factor=10.0),
        "OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 50,
            "pct_start": 0.25,
            "anneal_strategy": "linear",
            "div_factor": 4.0,
            "final_div_factor": 10.0,
        },
    ),
    "one cycle, three phases": (
        one_cycle(0.1, 50, 0.4, three_phase=True),
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 50, "pct_start": 0.4, "three_phase": True},
    ),
    "polynomial": (polynomial(0.1, 30, power=1.5), "PolynomialLR", {"total_iters": 30, "power": 1.5}),
    "cosine, again and again": (
        cosine_restarts(0.1, 7, 2, end=0.01),
        "CosineAnnealingWarmRestarts",
        {"T_0": 7, "T_mult": 2, "eta_min": 0.01},
    ),
    **{
        f"cyclic, {mode}": (
            cyclic(0.02, 0.1, 5, 9, mode=mode, gamma=0.95),
            "CyclicLR",
            {
                "base_lr": 0.02,
                "max_lr": 0.1,
                "step_size_up": 5,
                "step_size_down": 9,
                "mode": mode,
                "gamma": 0.95,
                "cycle_momentum": False,
            },
        )
        for mode in ("triangular", "triangular2", "exp_range")
    },
    "inverse time": (
        inverse_time_decay(0.1, 0.5),
        "LambdaLR",
        {"lr_lambda": lambda epoch: 1.0 / (1.0 + 0.5 * epoch)},
    ),
}


@pytest.mark.parametrize("name", TORCH)
def test_torch_gives_the_same(name: str) -> None:
    schedule, scheduler, options = TORCH[name]
    expected = torch_values(lambda module: getattr(module, scheduler), 0.1, 49, **options)
    np.testing.assert_allclose([schedule(t) for t in range(49)], expected, rtol=1e-12, atol=0)


def test_torch_sequential_is_join() -> None:
    lr_scheduler = pytest.importorskip("torch").optim.lr_scheduler

    def make(module: Any) -> Callable[..., Any]:
        return lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=10),
                lr_scheduler.CosineAnnealingLR(optimizer, T_max=40),
            ],
            [10],
        )

    schedule = join([linear_warmup(0.1, 10, 0.025), cosine(0.1, 40)], [10])
    expected = torch_values(make, 0.1, 50)
    np.testing.assert_allclose([schedule(t) for t in range(50)], expected, rtol=1e-10, atol=1e-17)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize("seed", range(5))
def test_torch_reduces_at_the_same_updates(mode: Any, threshold_mode: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"factor": 0.5, "patience": seed, "threshold": 0.01, "cooldown": 2}
    options |= {"min_lr": 1e-3, "mode": mode, "threshold_mode": threshold_mode}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    schedule = reduce_on_plateau(0.1, **options)
    metrics = np.random.default_rng(seed).normal(1.0, 0.1, 200) * np.linspace(2.0, 1.0, 200)
    metrics[17] = np.nan
    seen = set()
    for t, metric in enumerate(metrics):
        scheduler.step(metric)
        schedule.update(metric)
        assert schedule(t) == optimizer.param_groups[0]["lr"]
        seen.add(schedule(t))
    assert len(seen) > 3


def test_torch_cycles_momentum_against_the_rate() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.CyclicLR(optimizer, 0.02, 0.1, 5, mode="triangular2")
    schedule = cyclic(0.9, 0.8, 5, mode="triangular2")
    for t in range(40):
        assert schedule(t) == pytest.approx(optimizer.param_groups[0]["momentum"], rel=1e-12), t
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(("shape", "name"), [("linear", "linear"), ("cos", "cosine"), ("1-sqrt", "1-sqrt")])
def test_transformers_gives_the_same(shape: Any, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    options = {"num_warmup_steps": 4, "num_stable_steps": 10, "num_decay_steps": 20, "min_lr_ratio": 0.1}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = transformers.get_wsd_schedule(optimizer, **options, decay_type=name)
    schedule = warmup_stable_decay(0.1, 4, 10, 20, start=0.01, end=0.01, shape=shape)
    for t in range(40):
        assert schedule(t) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12), t
        optimizer.step()
        scheduler.step()


def test_each_restart_is_lower_by_the_factor() -> None:
    """Keras' formula; its own object computes in float32."""
    keras = pytest.importorskip("keras")
    theirs = keras.optimizers.schedules.CosineDecayRestarts(0.1, 6, t_mul=2.0, m_mul=0.8, alpha=0.1)
    schedule = cosine_restarts(0.1, 6, 2, end=0.01, factor=0.8)
    for t in range(60):
        assert schedule(t) == pytest.approx(float(theirs(t)), rel=2e-5), t


def test_parts_of_no_length() -> None:
    assert [warmup_stable_decay(1.0, 0, 0, 0, end=0.5)(t) for t in range(2)] == [0.5, 0.5]
    assert [warmup_stable_decay(1.0, 0, 2, 0, end=0.5)(t) for t in range(4)] == [1.0, 1.0, 0.5, 0.5]
    assert [warmup_stable_decay(1.0, 2, 0, 2, shape="linear")(t) for t in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.0]
    assert cyclic(0.1, 0.2, 1, mode="triangular2")(2**63 - 2) == 0.1


OPTAX: dict[str, tuple[Schedule, Callable[[Any], Any]]] = {
    "exponential": (
        exponential_decay(0.1, 0.9, steps_per_epoch=10, whole_epochs=False),
        lambda optax: optax.exponential_decay(0.1, transition_steps=10, decay_rate=0.9),
    ),
    "exponential, whole epochs": (
        exponential_decay(0.1, 0.9, steps_per_epoch=10),
        lambda optax: optax.exponential_decay(0.1, transition_steps=10, decay_rate=0.9, staircase=True),
    ),
    "piecewise": (
        piecewise([10, 30], [0.1, 0.05, 0.005]),
        lambda optax: optax.piecewise_constant_schedule(0.1, {10: 0.5, 30: 0.1}),
    ),
    "cosine": (cosine(0.1, 50, 0.01), lambda optax: optax.cosine_decay_schedule(0.1, 50, alpha=0.1)),
    "linear": (linear_warmup(0.1, 20, 0.01), lambda optax: optax.linear_schedule(0.01, 0.1, 20)),
    "join": (
        join([linear_warmup(0.1, 10), cosine(0.1, 50)], [10]),
        lambda optax: optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 60),
    ),
}


@pytest.mark.parametrize("name", OPTAX)
def test_optax_gives_the_same(name: str) -> None:
    optax = pytest.importorskip("optax")
    schedule, make = OPTAX[name]
    expected = make(optax)
    # optax computes in float32
    for t in range(70):
        assert schedule(t) == pytest.approx(float(expected(t)), rel=1e-6, abs=1e-8)


# what all of them are


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_values_are_floats_for_any_integer(schedule: Schedule) -> None:
    for t in (0, 3, np.int64(3), 10**12):
        assert type(schedule(t)) is float
        assert math.isfinite(schedule(t)) and schedule(t) >= 0
    assert schedule(np.int64(3)) == schedule(3)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_pickled_printed_compared(schedule: Schedule) -> None:
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert eval(repr(schedule)) == schedule
    assert [other == schedule for other in ALL].count(True) == 1


def test_numbers_of_numpy_become_plain() -> None:
    lr: Any = np.float32(0.5)
    steps: Any = np.int32(10)
    schedule = cosine(lr, steps)
    assert repr(schedule) == "cosine(lr=0.5, steps=10, end=0.0)"


def test_the_same_values_in_another_process() -> None:
    code = "import fusedstep.schedules as s; print([s.one_cycle(1.0, 90)(t).hex() for t in range(90)])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert eval(out) == [one_cycle(1.0, 90)(t).hex() for t in range(90)]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
@pytest.mark.parametrize(
    ("t", "error"),
    [(-1, ValueError), (2**63, ValueError), (1.0, TypeError), ("1", TypeError), (None, TypeError), (True, TypeError)],
)
def test_bad_step(schedule: Schedule, t: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"t: got .*, needs"):
        schedule(t)


BAD: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: inverse_time_decay(-1.0), ValueError, "lr: got -1.0, needs finite and >= 0"),
    (lambda: inverse_time_decay(math.nan), ValueError, "lr: got .*, needs finite"),
    (lambda: inverse_time_decay("1"), TypeError, "lr: got str, needs a real number"),  # type: ignore[arg-type]
    (lambda: inverse_time_decay(True), TypeError, "lr: got bool, needs a real number"),
    (lambda: inverse_time_decay(0.1, -1.0), ValueError, "decay_rate: got .*, needs"),
    (lambda: inverse_time_decay(0.1, steps_per_epoch=0), ValueError, "steps_per_epoch: got 0, needs >= 1"),
    (lambda: inverse_time_decay(0.1, steps_per_epoch=1.5), TypeError, "steps_per_epoch: got .*, needs an integer"),  # type: ignore[arg-type]
    (lambda: inverse_time_decay(0.1, whole_epochs=1), TypeError, "whole_epochs: got .*, needs a bool"),  # type: ignore[arg-type]
    (lambda: exponential_decay(0.1, 1.5), ValueError, "decay_rate: got 1.5, needs finite and >= 0 and <= 1"),
    (lambda: inverse_sqrt_decay(0.1, -1.0), ValueError, "k: got .*, needs"),
    (lambda: staircase(0.1, 0), ValueError, "every: got .*, needs >= 1"),
    (lambda: staircase(0.1, 1, -0.5), ValueError, "factor: got .*, needs"),
    (lambda: piecewise([1], [0.1]), ValueError, "values: got 1 for 1 boundaries, needs one more than boundaries: 2"),
    (
        lambda: piecewise([2, 2], [1, 2, 3]),
        ValueError,
        r"boundaries\[1\]: got 2 after 2, needs a larger one",
    ),
    (lambda: piecewise([0], [1, 2]), ValueError, r"boundaries\[0\]: got .*, needs >= 1"),
    (lambda: piecewise([1.5], [1, 2]), TypeError, r"boundaries\[0\]: got .*, needs an integer"),  # type: ignore[list-item]
    (lambda: piecewise([1], [1, math.inf]), ValueError, r"values\[1\]: got .*, needs finite"),
    (lambda: piecewise([3], np.array(2.0)), TypeError, "values: got .*, needs a sequence"),  # type: ignore[arg-type]
    (lambda: piecewise(3, [1, 2]), TypeError, "boundaries: got .*, needs a sequence"),  # type: ignore[arg-type]
    (lambda: cosine(0.1, 0), ValueError, "steps: got .*, needs >= 1"),
    (lambda: cosine(0.1, 10, -0.1), ValueError, "end: got .*, needs"),
    (lambda: linear_warmup(0.1, 10, math.inf), ValueError, "start: got .*, needs finite"),
    (lambda: one_cycle(0.1, 1), ValueError, "steps: got .*, needs >= 2"),
    (lambda: one_cycle(0.1, 10, 1.0), ValueError, "pct_start: got .*, needs finite and > 0 and < 1"),
    (
        lambda: one_cycle(0.1, 10, 0.6, three_phase=True),
        ValueError,
        "pct_start: got .*, needs at most 0.5 in three phases",
    ),
    (lambda: one_cycle(0.1, 10, div_factor=0.0), ValueError, "div_factor: got .*, needs"),
    (lambda: one_cycle(0.1, 10, div_factor=1e-320), ValueError, "lr_max / div_factor: got inf, needs finite"),
    (lambda: one_cycle(0.1, 10, final_div_factor=1e-320), ValueError, "final_div_factor: got inf, needs finite"),
    (lambda: one_cycle(0.1, 10, anneal="sine"), ValueError, "anneal: got .*, needs"),  # type: ignore[arg-type]
    (lambda: one_cycle(0.1, 10, three_phase=2), TypeError, "three_phase: got .*, needs a bool"),  # type: ignore[arg-type]
    (lambda: join([], []), ValueError, "schedules: got 0 for 0 boundaries"),
    (lambda: join([cosine(1, 2)], [1]), ValueError, "schedules: got 1 for 1 boundaries"),
    (lambda: join([0.1], []), TypeError, r"schedules\[0\]: got float, needs a callable of the step"),  # type: ignore[list-item]
    (lambda: join(cosine(1, 2), []), TypeError, "schedules: got .*, needs a sequence"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1, 1.0), ValueError, "factor: got .*, needs"),
    (lambda: reduce_on_plateau(0.1, patience=-1), ValueError, "patience: got .*, needs >= 0"),
    (lambda: reduce_on_plateau(0.1, mode="best"), ValueError, "mode: got .*, needs"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1, threshold_mode="x"), ValueError, "threshold_mode: got .*, needs"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update("low"), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(True), TypeError, "metric: got bool, needs a real number"),
    (lambda: reduce_on_plateau(0.1).update(np.array([True])), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(np.ones(2)), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(np.array("1")), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(b"1"), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(1j), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(np.ma.masked), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
    (lambda: join([lambda t: np.ones(2)], [])(0), TypeError, r"schedules\[0\]: got .*, needs a real number"),  # type: ignore[list-item, return-value]
    (lambda: polynomial(0.1, 5, power=0.0), ValueError, "power: got 0.0, needs"),
    (lambda: warmup_stable_decay(0.1, -1, 2, 3), ValueError, "warmup: got -1, needs >= 0"),
    (lambda: warmup_stable_decay(0.1, 1, 2, 3, shape="sqrt"), ValueError, "shape: got 'sqrt', needs one of '1-sqrt'"),  # type: ignore[arg-type]
    (lambda: cosine_restarts(0.1, 5, 0), ValueError, "growth: got 0, needs >= 1"),
    (lambda: cosine_restarts(0.1, 5, 2.0), TypeError, "growth: got float, needs an integer"),  # type: ignore[arg-type]
    (lambda: cosine_restarts(0.1, 5, factor=1.5), ValueError, "factor: got 1.5, needs"),
    (lambda: cyclic(0.1, 0.2, 0), ValueError, "steps_up: got 0, needs >= 1"),
    (lambda: cyclic(0.1, 0.2, 2, 0), ValueError, "steps_down: got 0, needs >= 1"),
    (lambda: cyclic(0.1, 0.2, 2, mode="exp"), ValueError, "mode: got 'exp', needs one of 'triangular'"),  # type: ignore[arg-type]
    (lambda: cosine(10**400, 5), ValueError, "lr: got .*, needs finite"),
    (lambda: cosine(0.1, 2**63), ValueError, "steps: got .*, needs <= 9223372036854775807"),
    (lambda: cosine(0.1, np.array([5])), TypeError, "steps: got ndarray, needs an integer"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).load_state_dict(["value"]), TypeError, "state: got list, needs a mapping"),  # type: ignore[arg-type]
    (lambda: join([cosine(1, 2)], []).load_state_dict(None), TypeError, "state: got .*, needs a mapping"),  # type: ignore[arg-type]
    (lambda: reduce_on_plateau(0.1).update(None), TypeError, "metric: got .*, needs a real number"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1)])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f8", "i4"])
def test_a_metric_may_be_an_array_of_one_element(shape: tuple[int, ...], dtype: str) -> None:
    schedule = reduce_on_plateau(0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.update(np.full(shape, 2, dtype))  # type: ignore[arg-type]
    assert schedule.best == 2.0


@pytest.mark.parametrize(("metric", "best"), [(10**400, math.inf), (-(10**400), -math.inf), (Fraction(1, 4), 0.25)])
def test_a_metric_may_be_any_number(metric: Any, best: float) -> None:
    schedule = reduce_on_plateau(0.1)
    schedule.update(metric)
    assert schedule.best == best


# state


def test_plateau_resumes_where_it_stopped() -> None:
    metrics = np.random.default_rng(0).normal(1.0, 0.1, 60)
    through, first = reduce_on_plateau(0.1, 0.5, 2, cooldown=1), reduce_on_plateau(0.1, 0.5, 2, cooldown=1)
    for metric in metrics[:30]:
        through.update(metric)
        first.update(metric)
    second = reduce_on_plateau(0.1, 0.5, 2, cooldown=1)
    second.load_state_dict(first.state_dict())
    assert second == through
    for metric in metrics[30:]:
        through.update(metric)
        second.update(metric)
        assert second(0) == through(0)
    assert second.value < first.value


def test_plateau_keeps_its_state_when_another_is_refused() -> None:
    schedule = reduce_on_plateau(0.1)
    schedule.update(1.0)
    before = schedule.state_dict()
    for bad in ({}, before | {"value": -1.0}, before | {"patience": 1}, before | {"bad_updates": -1}):
        with pytest.raises(ValueError, match="state"):
            schedule.load_state_dict(bad)
    with pytest.raises(TypeError, match="state"):
        schedule.load_state_dict(before | {"best": "low"})
    assert schedule.state_dict() == before


def test_join_keeps_the_state_of_its_parts() -> None:
    first, second = (join([linear_warmup(0.1, 5), reduce_on_plateau(0.1, patience=0)], [5]) for _ in range(2))
    plateau = first.schedules[1]
    assert isinstance(plateau, reduce_on_plateau) and isinstance(first, Stateful)
    for metric in (1.0, 2.0, 3.0):
        plateau.update(metric)
    second.load_state_dict(first.state_dict())
    assert second(5) == first(5) < 0.1
    for bad in ({}, {"schedules": [None]}, {"schedules": [None, None]}):
        with pytest.raises(ValueError, match="does not match the 2 joined schedules"):
            second.load_state_dict(bad)


def test_join_keeps_its_state_when_one_part_refuses() -> None:
    schedule = join([reduce_on_plateau(0.1), reduce_on_plateau(0.2)], [5])
    before = schedule.state_dict()
    other = join([reduce_on_plateau(0.3), reduce_on_plateau(0.4)], [5]).state_dict()
    other["schedules"][1]["value"] = -1.0
    with pytest.raises(ValueError, match="value"):
        schedule.load_state_dict(other)
    assert schedule.state_dict() == before
