"""A step of any rule: its maths, and the step options before and after it.

A rule in this folder is a function that changes one parameter and its states in place, in float32 or float64.
The decorator `rule` makes of it the public function that takes arrays or lists of arrays in any storage
format and does, in this order:

1. One multiplier for all gradients, derived in double and rounded once to the compute type: the sign of
   ``maximize``, ``1 / grad_scale``, and ``min(1, max_grad_norm / (norm + 1e-6))``. With ``skip_nonfinite``,
   an infinity or NaN in any gradient, before or after it is multiplied, ends the step here and nothing has changed.
2. Per tensor: decode to the compute type; ``grad = multiplier * grad``; cut off at ``clip_value``.
3. The rule; with ``cautious`` only where its step goes against the gradient.
4. States below the smallest normal number become +0.
5. Encode parameter and states; ``ema = ema_decay * ema + (1 - ema_decay) * param``; zero the gradients.

A gradient may be `SparseRows` where the rule has such a form: repeated rows are added up first, in the compute type,
and the step is then that of a tensor made of the rows that occur.

The compute type is float64 for float64 parameters and float32 for all others.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
from numpy.typing import NDArray

from .._docstrings import with_parameters
from .._floats import default_floats
from .._hyper import CAUTIOUS, check_hypers, unexpected
from ._arithmetic import clamp, flush, sum_in_order, sum_of_squares
from ._cautious import Decay, in_gradient, in_gradient_or_apart, of_parameter, step_cautiously
from ._newton_schulz import check_matrices
from ._rule import (
    BEYOND_TORCH,
    COMMON,
    FUNCTION_OPTIONS,
    RULES,
    SECTIONS,
    Rule,
    State,
    StepOptions,
    Steps,
    Tensors,
    Whole,
    check_options,
)
from ._tensors import Tensor, check_tensors

__all__ = [
    "FUNCTION_OPTIONS",
    "RULES",
    "Rule",
    "State",
    "StepOptions",
    "Steps",
    "Tensors",
    "Unpack",
    "check_options",
    "in_gradient",
    "in_gradient_or_apart",
    "of_parameter",
    "rule",
]

if TYPE_CHECKING:
    from typing_extensions import Unpack
else:
    Unpack = Any  # in annotations alone, which nobody evaluates: typing_extensions need not be installed

P = ParamSpec("P")
Array = NDArray[Any]


def rule(
    *states: State,
    scalars: Mapping[str, float | str] | None = None,
    rows_without: Sequence[str] | None = None,
    norms: Sequence[str] = (),
    sums: Callable[..., tuple[Array, Array]] | None = None,
    outside: Sequence[str] = (),
    starts: Mapping[str, float] | None = None,
    decay: Decay | None = None,
) -> Callable[[Callable[P, None]], Callable[P, bool]]:
    """Make the public function of a rule out of its maths (see the module).

    Parameters
    ----------
    *states
        The states, in the order of the function's arguments after ``param`` and ``grad``.
    scalars
        float64 values kept per tensor from step to step, after the states, with what they start from: a number or the
        name of a hyper-parameter.
    rows_without
        Options that must be off for a gradient of some rows alone; None where there is no such form.
    norms
        Arrays that are read a first time for two sums over the whole tensor; empty for element-wise rules.
    sums
        Of a rule with sums over the whole model: what is summed of one tensor, two arrays. It takes the arguments of
        the maths and changes nothing. The maths has an argument ``whole`` (see `Whole`), this one its ``scalars``.
    outside
        Of a rule of matrices, the hyper-parameters that the native step does not read. Its maths, and that of a rule
        whose states have other shapes, has an argument ``shape``, the parameter's.
    starts
        Hyper-parameters of an optimizer that no step reads, with their defaults: states begin with them. `lr` is its
        first argument, all others follow ``weight_decay``.
    decay
        How the weight decay enters a cautious step; None for rules that have no direction which could disagree with the
        gradient, or whose step is more than the sum of a direction and a decay.
    """
    initial_scalars = dict(scalars or {})

    def decorate(maths: Callable[P, None]) -> Callable[P, bool]:
        shown = inspect.signature(maths)
        public = [
            p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD and p.name not in ("shape", "whole")
        ]
        plain = shown.replace(parameters=public)
        arrays = ("param", "grad", *(state.name for state in states), *initial_scalars)
        hypers = {p.name: p.default for p in plain.parameters.values() if p.name not in (*arrays, "step")}
        rule = Rule(
            maths.__name__,
            states,
            hypers,
            initial_scalars,
            None if rows_without is None else tuple(rows_without),
            tuple(norms),
            sums is not None,
            tuple(outside),
            _arguments([p for p in public if p.name in hypers], starts or {}),
            decay,
        )
        if decay is not None:
            CAUTIOUS.add(rule.name)

        @functools.wraps(maths)
        def take_step(*args: P.args, **kwargs: P.kwargs) -> bool:
            unknown = sorted(kwargs.keys() - plain.parameters.keys() - FUNCTION_OPTIONS.keys())
            if unknown:
                raise unexpected(rule.name, unknown[0], {*hypers, *FUNCTION_OPTIONS})
            given: dict[str, Any] = kwargs
            options = FUNCTION_OPTIONS | {name: value for name, value in given.items() if name in FUNCTION_OPTIONS}
            bound = plain.bind(*args, **{name: value for name, value in given.items() if name not in FUNCTION_OPTIONS})
            bound.apply_defaults()
            options = check_options(options)
            together = {name: bound.arguments[name] for name in hypers} | {"cautious": options["cautious"]}
            values = {name: value for name, value in check_hypers(rule.name, together).items() if name in hypers}
            if (options["ema"] is None) != (options["ema_decay"] is None):
                raise ValueError("ema: got one of ema and ema_decay, needs both or neither")
            tensors = check_tensors(rule, values, bound.arguments, options)
            for tensor in tensors if rule.matrices else ():
                check_matrices(tensor.param.array.shape, values["reshape"], tensor.param.memory[0][0])
            with default_floats():
                _check_scale(tensors, options["grad_scale"])
                multiplier = _multiplier(tensors, options)
                if options["skip_nonfinite"] and not all(_is_finite(tensor, multiplier) for tensor in tensors):
                    return False
                if sums is not None:
                    values = values | {"whole": _sum_over(sums, tensors, multiplier, values, options)}
                for tensor in tensors:
                    _check_overflow(maths, tensor, multiplier, values, options)
                for tensor in tensors:
                    _step(maths, tensor, multiplier, values, options)
                    if options["zero_grads"]:
                        tensor.given[...] = 0
            return True

        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in FUNCTION_OPTIONS.items()
        ]
        signature = plain.replace(parameters=[*plain.parameters.values(), *extra], return_annotation=bool)
        setattr(take_step, "__signature__", signature)  # noqa: B010  (mypy knows no such attribute)
        kind = re.search(r"`fusedstep\.(\w+)`", maths.__doc__ or "")
        texts = COMMON | (dict.fromkeys(hypers, f"As in `fusedstep.{kind[1]}`.") if kind else {})
        take_step.__doc__ = with_parameters(maths.__doc__, list(plain.parameters), texts, SECTIONS)
        RULES[rule.name] = rule
        return take_step

    return decorate


def _arguments(hypers: Sequence[inspect.Parameter], starts: Mapping[str, float]) -> tuple[inspect.Parameter, ...]:
    """What an optimizer of the rule takes after its parameters, in order; those that torch lacks by keyword."""
    found = [p.replace(kind=p.POSITIONAL_OR_KEYWORD) for p in hypers]
    for name, value in starts.items():
        place = 0 if name == "lr" else 1 + [p.name for p in found].index("weight_decay")
        parameter = inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=value, annotation="float")
        found.insert(place, parameter)
    for i in reversed(range(len(found))):
        if found[i].name not in BEYOND_TORCH:
            break
        found[i] = found[i].replace(kind=inspect.Parameter.KEYWORD_ONLY)
    return tuple(found)


def _check_scale(tensors: list[Tensor], grad_scale: float) -> None:
    """Check that gradients can be multiplied by the scale's inverse."""
    kinds = {tensor.param.kind for tensor in tensors}
    narrow = np.dtype(np.float32) if np.dtype(np.float32) in kinds else np.dtype(np.float64)
    if not np.isfinite(narrow.type(1.0 / grad_scale)):
        raise ValueError(f"grad_scale: got {grad_scale!r}, needs a number whose inverse is finite in {narrow}")


def _is_finite(tensor: Tensor, multiplier: float) -> bool:
    """Whether every element of the gradient is finite, and still is as the rule gets it."""
    T = tensor.param.kind.type
    finite = np.isfinite(tensor.grad).all() and np.isfinite(T(multiplier) * tensor.grad.astype(T)).all()
    return bool(finite)


def _multiplier(tensors: list[Tensor], options: dict[str, Any]) -> float:
    """What every gradient is multiplied by."""
    scale = 1.0 / options["grad_scale"]
    multiplier: float = -scale if options["maximize"] else scale
    if options["max_grad_norm"] is not None:
        total = 0.0
        for tensor in tensors:
            total += sum_of_squares(tensor.grad)
        coefficient = options["max_grad_norm"] / (math.sqrt(total) * scale + 1e-6)
        multiplier *= 1.0 if coefficient > 1.0 else coefficient  # NaN stays NaN
    return multiplier


def _step(
    maths: Callable[..., None],
    tensor: Tensor,
    multiplier: float,
    hypers: dict[str, Any],
    options: dict[str, Any],
) -> Array:
    """Step one tensor, or the rows of it that have a gradient; return the parameters before they were rounded."""
    if tensor.rows is None:
        return _step_one(maths, tensor, multiplier, hypers, options)
    return _step_rows(maths, tensor, tensor.rows, multiplier, hypers, options)


def _check_overflow(
    maths: Callable[..., None],
    tensor: Tensor,
    multiplier: float,
    hypers: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Step a copy of a float16 parameter first: nothing must have changed if it ends beyond the largest number."""
    if tensor.param.array.dtype != np.float16:
        return
    trial = copy.deepcopy(replace(tensor, ema=None))
    exact = _step(maths, trial, multiplier, hypers, options)
    rounded = trial.param.array if trial.rows is None else trial.param.array[trial.rows]
    if (np.isinf(rounded.reshape(-1)) & np.isfinite(exact)).any():
        raise OverflowError(
            f"{tensor.param.memory[0][0]}: the step would take an element beyond 65504, the largest float16; nothing "
            "was changed. Use bfloat16 or float32, or a smaller lr"
        )


def _sum_over(
    sums: Callable[..., tuple[Array, Array]],
    tensors: list[Tensor],
    multiplier: float,
    hypers: dict[str, Any],
    options: dict[str, Any],
) -> Whole:
    """The two sums over all tensors, and the scalars of the one with the largest first ones, then the most steps."""
    each = [(tuple(map(float, tensor.scalars)), tensor.step) for tensor in tensors]
    scalars, _ = max(each, key=lambda one: (*one[0][:2], one[1]), default=((), 0))
    first = second = 0.0
    for tensor in tensors:
        param, grad, states = _decode(tensor, multiplier, options)
        a, b = sums(param, grad, *states, step=tensor.step, scalars=scalars, **hypers)
        first += sum_in_order(a)
        second += sum_in_order(b)
    return Whole(scalars, (first, second))


def _decode(tensor: Tensor, multiplier: float, options: dict[str, Any]) -> tuple[Array, Array, list[Array | None]]:
    """Parameter, gradient and states as the maths gets them."""
    param = tensor.param.decode()
    T = param.dtype.type
    grad = T(multiplier) * tensor.grad.reshape(-1).astype(T)
    if options["clip_value"] is not None:
        grad = clamp(grad, T(-options["clip_value"]), T(options["clip_value"]))
    return param, grad, [None if state is None else state.decode() for state in tensor.states]


def _step_one(
    maths: Callable[..., None],
    tensor: Tensor,
    multiplier: float,
    hypers: dict[str, Any],
    options: dict[str, Any],
) -> Array:
    param, grad, states = _decode(tensor, multiplier, options)
    T = param.dtype.type
    rule = RULES[maths.__name__]
    shape = {"shape": tensor.param.array.shape} if rule.needs_shape else {}
    if options["cautious"]:
        assert rule.decay is not None  # checked with the hyper-parameters
        step_cautiously(maths, rule.decay, param, grad, *states, *tensor.scalars, step=tensor.step, **shape, **hypers)
    else:
        maths(param, grad, *states, *tensor.scalars, step=tensor.step, **shape, **hypers)
    for stored, state in zip(tensor.states, states, strict=True):
        if stored is not None and state is not None:
            flush(state)
            stored.encode(state)
    tensor.param.encode(param)
    if tensor.ema is not None:
        ema = tensor.ema.reshape(-1)
        ema[...] = T(options["ema_decay"]) * ema + T(1.0 - options["ema_decay"]) * param
        flush(ema)
    return param


def _step_rows(
    maths: Callable[..., None],
    tensor: Tensor,
    rows: Array,
    multiplier: float,
    hypers: dict[str, Any],
    options: dict[str, Any],
) -> Array:
    """The step of a tensor made of these rows alone, put back where they came from."""
    param = tensor.param.take(rows)
    states = [None if state is None else state.take(rows) for state in tensor.states]
    exact = _step_one(maths, replace(tensor, param=param, states=states), multiplier, hypers, options)
    for whole, part in zip([tensor.param, *tensor.states], [param, *states], strict=True):
        if whole is not None and part is not None:
            whole.put(rows, part)
    return exact
