"""The allowed values of every hyper-parameter, in one place; those of step options are in `_step_options`.

The optimizer classes, the plain functions and the NumPy reference check with the same table, so that the same
mistake gives the same message everywhere.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ._arguments import choice
from ._held import check_held
from ._intervals import CLOSED_WEIGHT, FINITE, INNER_WEIGHT, NON_NEGATIVE, POSITIVE, WEIGHT, Interval
from ._step_options import STEP_OPTIONS

__all__ = [
    "CAUTIOUS",
    "FINITE",
    "FLAGS",
    "NUMBERS",
    "TUPLES",
    "WEIGHT",
    "Interval",
    "check_hyper",
    "check_hypers",
    "check_number",
    "check_step",
    "did_you_mean",
    "interval_of",
    "unexpected",
]


NUMBERS: dict[str, Interval] = {
    "lr": NON_NEGATIVE,
    "momentum": NON_NEGATIVE,
    "dampening": FINITE,
    "weight_decay": NON_NEGATIVE,
    "beta": WEIGHT,
    "alpha": CLOSED_WEIGHT,
    "asgd.alpha": NON_NEGATIVE,  # there an exponent, not a weight
    "ademamix.alpha": NON_NEGATIVE,  # a factor
    "alpha_warmup": NON_NEGATIVE,
    "beta3_warmup": NON_NEGATIVE,
    "beta2_decay": Interval(high=0.0, open=("low",)),
    "d": Interval(1.0, open=("high",)),
    "gamma": NON_NEGATIVE,
    "d0": POSITIVE,
    "d_coef": POSITIVE,
    "growth_rate": Interval(1.0, open=()),
    "rho": CLOSED_WEIGHT,
    "eps": NON_NEGATIVE,
    "eps_root": NON_NEGATIVE,
    "eps_norm": NON_NEGATIVE,
    "lr_decay": NON_NEGATIVE,
    "initial_accumulator_value": NON_NEGATIVE,
    "momentum_decay": NON_NEGATIVE,
    "lambd": NON_NEGATIVE,
    "t0": FINITE,
    "trust_coefficient": NON_NEGATIVE,
    "r": NON_NEGATIVE,
    "weight_lr_power": NON_NEGATIVE,
    "warmup_steps": NON_NEGATIVE,
    "muon.momentum": WEIGHT,  # of an average
    "muon.eps": POSITIVE,  # a norm is divided by it
    "schedule_free_sgd.momentum": INNER_WEIGHT,  # the average is recovered by dividing by it
}
TUPLES: dict[str, tuple[Interval, ...]] = {
    "betas": (WEIGHT, WEIGHT),
    "schedule_free_adamw.betas": (INNER_WEIGHT, WEIGHT),
    "adan.betas": (WEIGHT, WEIGHT, WEIGHT),
    "ademamix.betas": (WEIGHT, WEIGHT, WEIGHT),
    "adafactor.eps": (NON_NEGATIVE, NON_NEGATIVE),
    "etas": (INNER_WEIGHT, Interval(1.0)),
    "step_sizes": (NON_NEGATIVE, NON_NEGATIVE),
    "ns_coefficients": (FINITE, FINITE, FINITE),
}
COUNTS = {"ns_steps": Interval(1, 99, open=()), "blocks": Interval(0, 2.0**53, open=())}
CHOICES: dict[str, tuple[str | None, ...]] = {
    "adjust_lr_fn": (None, "original", "match_rms_adamw"),
    "reshape": (None, "flatten", "batch"),
}
FLAGS = frozenset(
    (
        "nesterov",
        "lr_in_momentum",
        "bias_correction",
        "centered",
        "amsgrad",
        "decoupled_weight_decay",
        "no_prox",
        "clipping",
        "grad_averaging",
        "relative_step",
        "scale_parameter",
        "like_transformers",
        "safeguard_warmup",
        "train_mode",
        *(option.name for option in STEP_OPTIONS if option.needs is bool),
    )
)
NUMBERS |= {option.name: option.needs for option in STEP_OPTIONS if isinstance(option.needs, Interval)}
OPTIONAL = frozenset(option.name for option in STEP_OPTIONS if option.name in NUMBERS and option.default is None)
NONE_FIRST = frozenset(("adafactor.eps",))  # tuples whose first entry may be None
CHOICES |= {option.name: option.needs for option in STEP_OPTIONS if isinstance(option.needs, tuple)}
OWN_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    option.name: option.needs for option in STEP_OPTIONS if inspect.isfunction(option.needs)
}

CAUTIOUS: set[str] = set()
"""Rules whose steps can be cautious; `fusedstep.reference` adds them."""

# What other packages call a hyper-parameter, where its spelling does not show which one is meant.
OTHER_NAMES = {
    "learning_rate": "lr",
    "learningrate": "lr",
    "rate": "lr",
    "step_size": "lr",
    "stepsize": "lr",
    "eta": "lr",
    "b1": "betas",
    "b2": "betas",
    "decay_rate": "alpha",
    "rho": "alpha",
    "decay": "weight_decay",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "global_clipnorm": "max_grad_norm",
    "clipnorm": "max_grad_norm",
    "clip_norm": "max_grad_norm",
    "clip_grad_norm": "max_grad_norm",
    "use_ema": "ema_decay",
    "ema_momentum": "ema_decay",
    "loss_scale": "grad_scale",
}


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: ``", did you mean lr?"``, or nothing if none is like it.

    Examples
    --------
    >>> did_you_mean("learning_rate", ["lr", "betas"]), did_you_mean("beta1", ["lr", "betas"])
    (', did you mean lr?', ', did you mean betas?')
    """
    import difflib  # here, as importing the package is to cost little

    names = sorted(each for each in set(known) - {name} if not each.startswith("_"))
    meant = OTHER_NAMES.get(str(name).lower())
    near = [meant] if meant in names else difflib.get_close_matches(str(name), names, 1)
    return f", did you mean {near[0]}?" if near else ""


def unexpected(function: str, name: str, known: Iterable[str]) -> TypeError:
    """The error for a keyword argument that there is not, in Python's words."""
    return TypeError(f"{function}() got an unexpected keyword argument {name!r}{did_you_mean(name, known)}")


def interval_of(rule: str, name: str, part: int | None = None) -> Interval:
    """The allowed values of a number, or of one part of a tuple of them."""
    if part is not None:
        return TUPLES.get(f"{rule}.{name}", TUPLES[name])[part]
    return NUMBERS[f"{rule}.{name}" if f"{rule}.{name}" in NUMBERS else name]


def check_number(value: Any, interval: Interval, where: str) -> float:
    """Check one number and return it as a plain float.

    Raises
    ------
    TypeError
        Not a real number.
    ValueError
        Outside the interval; NaN is outside of every one.
    """
    check_held(value, where)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        other = hasattr(value, "__float__") and not isinstance(value, (bool, complex, np.ndarray, np.generic))
        hint = "; float() makes one" if other else ""  # of decimals, tensors and what schedules of optax return
        raise TypeError(f"{where}: got {value!r} ({type(value).__name__}), needs a real number{hint}")
    try:
        number = float(value)
    except OverflowError:
        number = -math.inf if value < 0 else math.inf
    if not interval.holds(number):
        raise ValueError(f"{where}: got {value!r}, needs {interval}")
    return number + 0.0  # -0 becomes +0: equal values must leave equal bytes


def check_hyper(name: str, value: Any, where: str | None = None, *, rule: str = "") -> Any:
    """Check one hyper-parameter and return it as a plain float, int, bool, string or tuple of floats.

    Parameters
    ----------
    name
        The hyper-parameter, as in a parameter group: ``"lr"``, ``"betas"``.
    value
        What came.
    where
        What to call it in messages, ``'param_groups[1]["lr"]'``; the name itself by default.
    rule
        The update rule, for the few names whose range depends on it.

    Raises
    ------
    TypeError
        A value of the wrong kind.
    ValueError
        A value outside its range; NaN is outside of every range.

    Examples
    --------
    >>> check_hyper("lr", 1)
    1.0
    >>> check_hyper("betas", [0.9, 1.0])
    Traceback (most recent call last):
    ...
    ValueError: betas[1]: got 1.0, needs >= 0 and < 1
    """
    where = name if where is None else where
    check_held(value, where)  # even its text would be read from memory that is gone
    if name in FLAGS:
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{where}: got {value!r} ({type(value).__name__}), needs True or False")
        if name == "cautious" and value and rule and rule not in CAUTIOUS:
            able = ", ".join(sorted(CAUTIOUS))
            raise ValueError(f"{where}: got True, needs False with {rule}; rules that can be cautious: {able}")
        return bool(value)
    if name in TUPLES or f"{rule}.{name}" in TUPLES:
        intervals = TUPLES[f"{rule}.{name}" if f"{rule}.{name}" in TUPLES else name]
        needed = f"{'a pair of' if len(intervals) == 2 else len(intervals)} real numbers"
        if not isinstance(value, (Sequence, np.ndarray)) or isinstance(value, str) or getattr(value, "ndim", 1) == 0:
            raise TypeError(f"{where}: got {value!r} ({type(value).__name__}), needs {needed}")
        parts = list(value)
        if len(parts) != len(intervals):
            raise ValueError(f"{where}: got {len(parts)} numbers, needs {needed}")
        checks = enumerate(zip(parts, intervals, strict=True))
        return tuple(
            None
            if part is None and i == 0 and f"{rule}.{name}" in NONE_FIRST
            else check_number(part, interval, f"{where}[{i}]")
            for i, (part, interval) in checks
        )
    if name in OPTIONAL and value is None:
        return None
    if name in CHOICES:
        return choice(where, value, CHOICES[name])
    if name in OWN_CHECKS:
        return OWN_CHECKS[name](where, value)
    if name in COUNTS:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
            raise TypeError(f"{where}: got {value!r} ({type(value).__name__}), needs an integer")
        return int(check_number(value, COUNTS[name], where))
    if name not in NUMBERS and f"{rule}.{name}" not in NUMBERS:
        raise TypeError(f"unknown hyper-parameter {name!r}")
    return check_number(value, interval_of(rule, name), where)


def check_hypers(rule: str, values: Mapping[str, Any], where: str = "{}") -> dict[str, Any]:
    """Check all hyper-parameters of an update rule, each by itself and against each other.

    Parameters
    ----------
    rule
        The update rule, ``"sgd"``.
    values
        Hyper-parameters by name. A value that is not known yet, a schedule's, may be left out: it is not checked, nor
        anything that depends on it.
    where
        A format string that gives a name its place in messages: ``'param_groups[0]["{}"]'``.

    Returns
    -------
    dict
        The same names with plain floats, bools and tuples.
    """
    checked = {name: check_hyper(name, value, where.format(name), rule=rule) for name, value in values.items()}
    alone = checked.get("momentum", 1) == 0 and rule != "muon"  # where the momentum is an average, 0 is one
    if checked.get("nesterov") and (alone or (rule == "sgd" and checked.get("dampening"))):
        shown = [f"{name}={checked[name]}" for name in ("momentum", "dampening") if name in checked]
        needed = "a momentum above 0" + " and dampening of 0" * (rule == "sgd")
        raise ValueError(f"{where.format('nesterov')}: got True with {' and '.join(shown)}, needs {needed}")
    if checked.get("cautious") and checked.get("momentum", 1) == 0:
        raise ValueError(
            f"{where.format('cautious')}: got True with momentum={checked['momentum']}, needs a momentum above 0; "
            "without one no step disagrees with its gradient"
        )
    if rule == "rprop" and "step_sizes" in checked and checked["step_sizes"][0] > checked["step_sizes"][1]:
        raise ValueError(f"{where.format('step_sizes')}: got {values['step_sizes']!r}, needs ascending order")
    return checked


def check_step(value: Any, where: str = "step") -> int:
    """Check a step count: the number of the step being taken, from 1.

    Raises
    ------
    TypeError
        Not an integer.
    ValueError
        Below 1 or above ``2**63 - 1``.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral):
        raise TypeError(f"{where}: got {value!r} ({type(value).__name__}), needs an integer")
    step = int(value)
    if not 1 <= step < 2**63:
        raise ValueError(f"{where}: got {step}, needs an integer from 1 (the first step) to 2**63 - 1")
    return step
