"""What a watched step sums up, and the effective learning rates that its counts stand for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .._floats import default_floats
from ._arithmetic import BLOCK, power, sum_of_squares

__all__ = ["EXPONENTS", "Sums", "counted_state", "effective_rates", "exponent_counts", "watched"]

Array = NDArray[Any]

EXPONENTS = 256
SAMPLES = 128  # elements of a block that are counted in a large tensor, one in sixteen


class Sums(NamedTuple):
    """Of one tensor: squares of its gradient, of its parameters after the step and of their change; elements of its
    gradient that are zero, and that are infinite or NaN.
    """

    grad: float
    param: float
    update: float
    zeros: int
    nonfinite: int


@default_floats()
def watched(grad: Array, before: Array, after: Array) -> Sums:
    """Sum up what a step did to one tensor.

    Sums are those of `sum_of_squares`: in double, in a fixed order.

    Parameters
    ----------
    grad
        The gradient as it came: before it is scaled or clipped.
    before, after
        The parameters before and after the step, in the compute type (float32 or float64), as they are stored: with
        their masters, and rounded where there are none. The update is their difference in that type.

    Examples
    --------
    >>> watched(np.array([0.0, 2.0]), np.array([3.0, 4.0]), np.array([3.0, 3.0]))
    Sums(grad=4.0, param=18.0, update=1.0, zeros=1, nonfinite=0)
    """
    nonfinite = int(np.count_nonzero(~np.isfinite(grad)))
    zeros = int(np.count_nonzero(grad == 0))
    return Sums(sum_of_squares(grad), sum_of_squares(after), sum_of_squares(after - before), zeros, nonfinite)


def exponent_counts(values: Array) -> Array:
    """Count how many numbers lie between one power of two and the next.

    Parameters
    ----------
    values
        Numbers of float32 or float64, none negative. Of more than 32,768 one in sixteen is counted: 128 neighbours of
        every 2,048, the first 128 of the first, the next 128 of the second, and so on.

    Returns
    -------
    array
        256 counts, of the exponents of float32: number `e` of values from ``2**(e - 127)`` to below
        ``2**(e - 126)``; the first of all below ``2**-126``, the last of infinity and NaN.

    Examples
    --------
    >>> counts = exponent_counts(np.array([0.0, 1.0, 1.5, 2.0]))
    >>> {int(e): int(counts[e]) for e in np.flatnonzero(counts)}
    {0: 1, 127: 2, 128: 1}
    """
    flat = values.reshape(-1)
    blocks = -(-flat.size // BLOCK)
    if blocks > BLOCK // SAMPLES:
        starts = np.arange(blocks) * BLOCK + np.arange(blocks) % (BLOCK // SAMPLES) * SAMPLES
        places = (starts[:, None] + np.arange(SAMPLES)).reshape(-1)
        flat = flat[places[places < flat.size]]
    bits = np.ascontiguousarray(flat).view(np.uint32 if flat.dtype == np.float32 else np.uint64)
    if flat.dtype == np.float32:
        exponents = (bits >> np.uint32(23)) & np.uint32(0xFF)
    else:
        wide = ((bits >> np.uint64(52)) & np.uint64(0x7FF)).astype(np.int64)
        exponents = np.where(wide == 0x7FF, 255, np.clip(wide - (1023 - 127), 0, 254))
    return np.bincount(exponents.astype(np.int64), minlength=EXPONENTS)


def _along(lr: Any, second: Array, correction: float, h: Mapping[str, Any]) -> Array:
    return lr / (np.sqrt(second / correction + h.get("eps_root", 0.0)) + h["eps"])


def _corrected(second: Array, step: int, h: Mapping[str, Any]) -> Array:
    return _along(h["lr"], second, 1.0 - power(h["betas"][1], step), h)


def _adan(second: Array, step: int, h: Mapping[str, Any]) -> Array:
    after = 1.0 if h["no_prox"] else 1.0 / (1.0 + h["lr"] * h["weight_decay"])
    return _along(h["lr"], second, 1.0 - power(h["betas"][2], step), h) * after


def _radam(second: Array, step: int, h: Mapping[str, Any]) -> Array | None:
    faded, limit = power(h["betas"][1], step), 2.0 / (1.0 - h["betas"][1]) - 1.0
    length = limit - 2.0 * step * faded / (1.0 - faded)
    if length <= 5.0:
        return None  # every element has the rate lr
    rectified = (length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length)
    return h["lr"] * math.sqrt(rectified * (1.0 - faded)) / (np.sqrt(second) + h["eps"])


def _sparse_adam(second: Array, step: int, h: Mapping[str, Any]) -> Array:
    return h["lr"] * math.sqrt(1.0 - power(h["betas"][1], step)) / (np.sqrt(second) + h["eps"])


def _schedule_free(second: Array, step: int, h: Mapping[str, Any]) -> Array:
    warm = step / h["warmup_steps"] if step < h["warmup_steps"] else 1.0
    return _along(h["lr"] * warm, second, 1.0 - power(h["betas"][1], step), h)


def _adagrad(second: Array, step: int, h: Mapping[str, Any]) -> Array:
    return _along(h["lr"] / (1.0 + (step - 1) * h["lr_decay"]), second, 1.0, h)


Rate = Callable[[Array, int, Mapping[str, Any]], "Array | None"]

RATES: dict[str, tuple[str, Rate]] = {
    **dict.fromkeys(("adam", "adamw", "nadam", "yogi", "ademamix", "lamb", "mars"), ("exp_avg_sq", _corrected)),
    "adabelief": ("exp_avg_var", lambda v, t, h: _along(h["lr"], v, 1.0 - power(h["betas"][1], t), {"eps": h["eps"]})),
    "adagrad": ("sum", _adagrad),
    "adamax": ("exp_inf", lambda u, t, h: h["lr"] / (u + h["eps_norm"])),
    "adan": ("exp_avg_sq", _adan),
    "adopt": ("exp_avg_sq", lambda v, t, h: h["lr"] / np.maximum(np.sqrt(v), h["eps"])),
    "radam": ("exp_avg_sq", _radam),
    "rmsprop": ("square_avg", lambda v, t, h: _along(h["lr"], v, 1.0, h)),
    "schedule_free_adamw": ("exp_avg_sq", _schedule_free),
    "sparse_adam": ("exp_avg_sq", _sparse_adam),
    "stable_adamw": ("exp_avg_sq", lambda v, t, h: h["lr"] / (np.sqrt(v) + h["eps"])),
}


def counted_state(rule: str, hypers: Mapping[str, Any]) -> str | None:
    """The state that gives every element a learning rate of its own; None for rules without one.

    Parameters
    ----------
    rule
        Its name.
    hypers
        Its hyper-parameters.

    Examples
    --------
    >>> counted_state("adam", {"amsgrad": False}), counted_state("sgd", {})
    ('exp_avg_sq', None)
    """
    if rule not in RATES or hypers.get("centered"):
        return None
    return "max_exp_avg_sq" if hypers.get("amsgrad") else RATES[rule][0]


@default_floats()
def effective_rates(rule: str, second: Array, step: int, hypers: Mapping[str, Any]) -> Array | None:
    r"""The learning rate of every element: what its bias-corrected first moment is multiplied by.

    For Adam :math:`\eta / (\sqrt{\hat v + \epsilon_{root}} + \epsilon)` (Kingma and Ba (2015), algorithm 1); for rules
    without a first moment, what the gradient is multiplied by. LAMB's and StableAdamW's leave out the factor of the
    whole tensor.

    Parameters
    ----------
    rule
        Its name.
    second
        The state that `counted_state` names: second moments, or their like.
    step
        How many steps the parameter has taken, from 1.
    hypers
        The rule's hyper-parameters.

    Returns
    -------
    array or None
        In double, infinite where the rule divides by zero; None where the rule has one rate for all elements.

    Examples
    --------
    >>> adam = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 0.0, "eps_root": 0.0, "amsgrad": False}
    >>> effective_rates("adam", np.array([0.001, 0.004]), 1, adam)
    array([0.1 , 0.05])
    """
    if counted_state(rule, hypers) is None:
        return None
    with np.errstate(divide="ignore"):
        return RATES[rule][1](np.asarray(second, np.float64), step, hypers)
