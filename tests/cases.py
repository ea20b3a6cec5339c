"""One row per optimizer drives the tests of all of them, with what the tests share.

A new optimizer needs a row in `ROWS`: the option sets that reach every branch of its maths, and the combinations of
options that are errors. Its class, function, states and hyper-parameters are found by the rule's name.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import _core
from fusedstep._step_options import GROUP_VALUES
from fusedstep.reference import RULES

Array = NDArray[Any]
Options = dict[str, Any]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT64, FLOAT32, FLOAT16 = np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)


def reshape(array: Array, shape: tuple[int, ...]) -> None:
    """In place, as programs do, though NumPy deprecates it from 2.5 on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


TEAMS = tuple(_core.build_info()["threading"])
"""The kinds of threads that this build can take a step with."""


@dataclass(frozen=True)
class Row:
    """Option sets to test, and combinations that must be refused though each option is fine by itself."""

    options: tuple[Options, ...]
    errors: tuple[Options, ...] = ()


def row(*options: Options, errors: tuple[Options, ...] = ()) -> Row:
    return Row(({}, *options), errors)


WD = {"weight_decay": 0.1}
ROWS: dict[str, Row] = {
    "sgd": row(
        WD,
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, **WD},
        {"momentum": 0.5, "nesterov": True, **WD},
        {"momentum": 0.9, "dampening": 0.5, "lr_in_momentum": True, **WD},
        {"momentum": 0.5, "nesterov": True, "lr_in_momentum": True},
        errors=(
            {"nesterov": True},
            {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        ),
    ),
    "momentum": row({"beta": 0.0}, {"beta": 0.5, "bias_correction": True, **WD}),
    "rmsprop": row(
        WD,
        {"momentum": 0.9},
        {"centered": True, "alpha": 0.5},
        {"centered": True, "momentum": 0.5, "eps_root": 1e-3, **WD},
        {"alpha": 1.0, "eps": 0.0},
        {"momentum": 0.9, "lr_in_momentum": True},
    ),
    "adam": row(WD, {"amsgrad": True}, {"amsgrad": True, "eps_root": 1e-3, "eps": 0.0, **WD}, {"betas": (0.0, 0.0)}),
    "adamw": row({"weight_decay": 0.0}, {"amsgrad": True, "eps_root": 1e-3}, {"betas": (0.5, 0.9), "lr": 0.5}),
    "adagrad": row({"lr_decay": 0.1, "eps_root": 1e-3, **WD}),
    "adadelta": row({"rho": 0.5, "eps": 1e-3, **WD}),
    "adamax": row({"betas": (0.0, 0.5), **WD}, {"eps_norm": 1e-3}),
    "nadam": row(WD, {"betas": (0.5, 0.75), "decoupled_weight_decay": True, "momentum_decay": 0.1, **WD}),
    "radam": row(WD, {"decoupled_weight_decay": True, "betas": (0.5, 0.75), **WD}),
    "asgd": row({"lambd": 0.1, "alpha": 0.5, "t0": 1.0, **WD}),
    "rprop": row(
        {"etas": (0.25, 1.5), "step_sizes": (1e-3, 2e-2)},
        errors=({"step_sizes": (1.0, 0.5)},),
    ),
    "lion": row({"betas": (0.5, 0.75), "weight_decay": 0.5}),
    "lamb": row({"betas": (0.5, 0.75), "eps_root": 1e-3, **WD}),
    "lars": row(WD, {"momentum": 0.0}, {"nesterov": True, **WD}, errors=({"nesterov": True, "momentum": 0.0},)),
    "sparse_adam": row({"betas": (0.5, 0.75)}),
    "adabelief": row({"betas": (0.5, 0.75), "eps_root": 1e-3, **WD}),
    "adan": row({"betas": (0.5, 0.25, 0.75), **WD}, {"no_prox": True, **WD}),
    "ademamix": row(
        {"betas": (0.5, 0.75, 0.9), "alpha": 2.0, "alpha_warmup": 3.0, "beta3_warmup": 4.0, **WD},
        {"betas": (0.0, 0.75, 0.9), "beta3_warmup": 2.0},
    ),
    "adopt": row(WD, {"clipping": False}, {"betas": (0.5, 0.75), "decoupled_weight_decay": True, **WD}),
    "yogi": row({"betas": (0.5, 0.75), **WD}),
    "stable_adamw": row({"betas": (0.5, 0.75), **WD}, {"weight_decay": 0.0, "eps": 1e-3}),
    "mars": row(
        {"betas": (0.5, 0.75), "gamma": 0.5, **WD},
        {"gamma": 0.0, "clipping": False, **WD},
    ),
    "mars_lion": row({"beta": 0.5, "gamma": 0.5, **WD}, {"clipping": False, "gamma": 0.0}),
    "novograd": row({"betas": (0.5, 0.75), "grad_averaging": True, **WD}, {"eps": 0.0}),
    "prodigy": row(
        {"d0": 0.01, "d_coef": 2.0, "growth_rate": 1.5, "bias_correction": True, **WD},
        {"d0": 0.1, "betas": (0.5, 0.75), "safeguard_warmup": True, "decoupled_weight_decay": False, **WD},
    ),
    "schedule_free_sgd": row({"momentum": 0.5, "warmup_steps": 2, "r": 1.0, **WD}),
    "schedule_free_adamw": row({"betas": (0.5, 0.9), "warmup_steps": 3, "r": 0.5, **WD}),
}

MATRIX_RULES = tuple(rule for rule, facts in RULES.items() if facts.needs_shape)
"""Rules whose step depends on shapes: test_muon.py, test_adafactor.py and test_adam_mini.py have theirs."""

CLASSES: dict[str, Any] = {
    kind.rule: kind
    for kind in map(fs.optimizers.__dict__.get, fs.optimizers.__all__)
    if isinstance(kind, type) and issubclass(kind, fs.Optimizer) and kind is not fs.Optimizer
    if kind.rule not in MATRIX_RULES
}

CAUTIOUS = {
    rule: [
        options | {"cautious": True}
        for options in row.options
        if (RULES[rule].hypers | options).get("momentum", 1) != 0
    ]
    for rule, row in ROWS.items()
    if RULES[rule].decay is not None
}
"""Rules whose steps can be cautious, with those of their option sets that can."""

EVERY = [(rule, options) for rule, row in ROWS.items() for options in (*row.options, *CAUTIOUS.get(rule, ()))]
"""Every rule with every one of its option sets."""


def label(value: Any) -> str:
    """What a parametrised test is called."""
    if isinstance(value, dict):
        return ",".join(f"{k}={v}" for k, v in value.items()) or "default"
    if isinstance(value, tuple):
        return "-".join(label(v) for v in value)
    return str(getattr(value, "__name__", value))


# ------------------------------------------------------------------------------------------------------- numbers


def specials(dtype: np.dtype[Any]) -> Array:
    """Zeros of both signs, infinities, NaN, subnormals and numbers at the ends of the range."""
    info: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    small, tiny, large = float(info.smallest_subnormal), float(info.smallest_normal), float(info.max)
    values = [0.0, -0.0, math.inf, -math.inf, math.nan, small, -small, tiny, -tiny, tiny - small, large, -large, 1.0]
    return np.array(values).astype(dtype)


def numbers(
    shape: Any,
    dtype: Any = np.float32,
    seed: int = 0,
    *,
    special: float = 0.0,
    positive: bool = False,
    scale: float = 1.0,
) -> Array:
    """Random numbers of many magnitudes; a share `special` of them is replaced by `specials`."""
    rng = np.random.default_rng([seed, 7])
    with np.errstate(all="ignore"):
        values = np.asarray(scale * rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 3, shape)).astype(dtype)
        if special:
            odd = specials(np.dtype(dtype))
            chosen = rng.random(shape) < special
            values = np.where(chosen, odd[rng.integers(0, odd.size, shape)], values)
        if positive:
            values = np.where(np.isnan(values), values, abs(values)).astype(dtype)
    return np.ascontiguousarray(values).reshape(shape)


def packed(sizes: Any, dtype: Any, seed: int, **how: Any) -> list[Array]:
    """Arrays of these sizes one behind the other in one buffer: most of them lie on odd multiples of the element."""
    buffer = numbers(sum(sizes) + 1, dtype, seed, **how)
    places = np.cumsum([1, *sizes])
    return [buffer[a : a + n] for a, n in zip(places, sizes, strict=False)]


def arrays(dtype: Any, seed: int, shapes: Any) -> list[Array]:
    """Small numbers of these shapes."""
    return [numbers(shape, dtype, seed + i, scale=0.1) for i, shape in enumerate(shapes)]


def bits(array: Array) -> Array:
    """The bytes of an array, with one pattern for every NaN."""
    if array.dtype == BFLOAT16:
        raw = array.view(np.uint16)
        return np.where(raw & 0x7FFF > 0x7F80, np.uint16(0x7FC0), raw)
    if array.dtype.kind == "f":
        return np.where(np.isnan(array), array.dtype.type(np.nan), array).view(f"u{array.dtype.itemsize}")
    return array


def assert_same(actual: Any, expected: Any, what: str = "") -> None:
    """Byte equality of arrays, or of nestings of them; NaN equals NaN."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys(), what
        for key in expected:
            assert_same(actual[key], expected[key], f"{what}[{key!r}]")
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), what
        for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert_same(one, other, f"{what}[{i}]")
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape, what
        a, b = bits(actual).reshape(-1), bits(expected).reshape(-1)
        wrong = np.flatnonzero(a != b)
        if wrong.size:
            i = wrong[0]
            left, right = actual.reshape(-1)[i], expected.reshape(-1)[i]
            raise AssertionError(f"{what}: {wrong.size} of {a.size} differ, first at {i}: {left!r} != {right!r}")
    else:
        assert actual == expected or (actual != actual and expected != expected), f"{what}: {actual!r} != {expected!r}"


def copied(value: Any) -> Any:
    """A deep copy of a nesting of arrays, each contiguous."""
    if isinstance(value, dict):
        return {k: copied(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(v) for v in value)
    return value.copy() if isinstance(value, np.ndarray) else value


# ------------------------------------------------------------------------------------------------- rules by their rows


def first_number(first: float | str, hypers: Options) -> float:
    """What a state or scalar starts from, where that is a number."""
    return float(hypers[first]) if isinstance(first, str) else first


def hypers(rule: str, options: Options) -> Options:
    return RULES[rule].hypers | {k: v for k, v in options.items() if k in RULES[rule].hypers}


def functional_arrays(rule: str, options: Options, params: list[Array], seed: int, special: float = 0.0) -> Options:
    """The state arguments of a functional step: any numbers that a state of its kind may hold."""
    values = hypers(rule, options)
    given: Options = {}
    for number, state in enumerate(RULES[rule].used(values)):
        given[state.name] = packed(
            [p.size for p in params],
            FLOAT64 if params[0].dtype == FLOAT64 else FLOAT32,
            seed + 10 + number,
            special=special,
            positive=state.kind == "unsigned" or state.name in ("step_size", "sum", "exp_avg_sq"),
            scale=0.1,
        )
    for name, first in RULES[rule].initial_scalars.items():
        given[name] = [np.array(first_number(first, values)) for _ in params]
    return given


class Twin:
    """A copy of an optimizer's arrays that the NumPy reference steps, to compare the optimizer with."""

    def __init__(self, optimizer: fs.Optimizer) -> None:
        self.optimizer = optimizer
        self.rule = RULES[optimizer.rule]
        self.function = getattr(fs.reference, optimizer.rule)
        self.slots = []
        for slot, view in zip(optimizer._slots, optimizer.state, strict=True):
            arrays = {"param": slot.param.copy(), "master": copied(slot.master), "ema": copied(slot.ema)}
            arrays.update({name: copied(value) for name, value in slot.states.items()})
            arrays.update({name: np.array(view[name]) for name in self.rule.scalars})
            self.slots.append({"arrays": arrays, "step": view["step"], "group": slot.group})

    def step(self, grads: list[Array | None], grad_scale: float = 1.0) -> bool:
        """One step of every parameter that has a gradient."""
        settings = self.optimizer._settings
        present = [i for i, grad in enumerate(grads) if grad is not None]
        if settings["skip_nonfinite"] and not all(np.isfinite(grad).all() for grad in grads if grad is not None):
            return False
        groups = {self.slots[i]["group"] for i in present}
        together = settings["max_grad_norm"] is not None or self.rule.whole
        assert not together or len(groups) <= 1, "the reference has norms and sums of one group only"
        for calls in [present] if together else [[i] for i in present]:
            if not calls:
                continue
            group = self.optimizer.param_groups[self.slots[calls[0]]["group"]]
            options = {name: self._now(group[name]) for name in self.rule.hypers}
            options.update({name: self._now(group[name]) for name in GROUP_VALUES})
            for i in calls:
                self.slots[i]["step"] += 1
            if group["rounding"] == "stochastic":
                calls = list(range(calls[0], calls[-1] + 1))  # one number of the noise after the other
            arrays = [self.slots[i]["arrays"] if i in present else self._emptied(i, present[0]) for i in calls]
            columns = {
                name: [values.get(name) for values in arrays]
                for name in (*(s.name for s in self.rule.states), *self.rule.scalars, "master", "ema")
            }
            columns = {name: values for name, values in columns.items() if any(v is not None for v in values)}
            params = [values["param"] for values in arrays]
            taken = self.function(
                params,
                [grads[i] if i in present else np.empty_like(p, FLOAT32) for i, p in zip(calls, params, strict=True)],
                step=[self.slots[i]["step"] if i in present else 1 for i in calls],
                rounding=group["rounding"],
                seed=settings["seed"],
                first=calls[0],
                grad_scale=grad_scale,
                max_grad_norm=settings["max_grad_norm"],
                zero_grads=settings["zero_grads"],
                **columns,
                **options,
            )
            assert taken
        for name in self.rule.scalars if self.rule.whole and present else ():  # one for all, also for who had no part
            for slot in self.slots:
                slot["arrays"][name][...] = self.slots[present[0]]["arrays"][name]
        return True

    def _emptied(self, i: int, stepped: int) -> Options:
        """Arrays without elements for a tensor without a gradient: no part in any sum, one of the noise's numbers."""
        slot = self.slots[i]["arrays"]
        arrays = {name: value[:0] for name, value in slot.items() if isinstance(value, np.ndarray) and value.ndim}
        arrays |= {name: (value[0][:0], value[1][:0]) for name, value in slot.items() if isinstance(value, tuple)}
        return arrays | {name: self.slots[stepped]["arrays"][name].copy() for name in self.rule.scalars}

    def _now(self, value: Any) -> Any:
        return value(self.optimizer.steps_taken) if callable(value) else value

    def check(self, what: str = "") -> None:
        """The optimizer's arrays are byte for byte the twin's."""
        for i, (mine, slot) in enumerate(zip(self.slots, self.optimizer._slots, strict=True)):
            view = self.optimizer.state[i]
            actual = {"param": slot.param, "master": slot.master, "ema": slot.ema, **slot.states}
            actual.update({name: np.array(view[name]) for name in self.rule.scalars})
            for name, expected in mine["arrays"].items():
                assert_same(actual[name], expected, f"{what} params{slot.path} {name}")
            assert view["step"] == mine["step"], what


def snapshot(optimizer: fs.Optimizer) -> list[Any]:
    """Copies of all that a step may write."""
    return [
        [slot.param.copy(), *(array.copy() for _, array in slot.items()), view["step"]]
        for slot, view in zip(optimizer._slots, optimizer.state, strict=True)
    ]


def trained(cls: Any, steps: int = 3, **options: Any) -> tuple[Any, dict[str, Array]]:
    """An optimizer that has taken steps, and its parameters of no axis to four."""
    shapes = {"W": (70, 30), "b": (30,), "K": (4, 2, 3, 3), "s": ()}
    params = {name: numbers(shape, FLOAT32, i) for i, (name, shape) in enumerate(shapes.items())}
    opt = cls(params, **options)
    for step in range(steps):
        opt.step({name: numbers(p.shape, FLOAT32, 50 + step) for name, p in params.items()})
    return opt, params


@contextmanager
def running(isa: str | None = None, threads: int | None = None, team: str | None = None) -> Iterator[None]:
    """Run on one instruction set, number of threads (more than there are CPUs, too) and kind of them."""
    before = fs.isa(), fs.get_num_threads(), fs.get_threading()
    try:
        if isa is not None:
            fs.set_isa(isa)
        if threads is not None:
            fs.set_num_threads(threads)
            _core.pretend_cpus(threads)
        if team is not None:
            fs.set_threading(team)
        yield
    finally:
        fs.set_isa(before[0])
        fs.set_num_threads(before[1])
        fs.set_threading(before[2])
