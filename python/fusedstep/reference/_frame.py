"""Everything around the maths of an update rule: checks, clipping, storage, flushing and averaging.

A rule in this folder is a function that changes one parameter and its states in place, in float32 or float64.
The decorator `rule` makes of it the public function that takes arrays or lists of arrays in any storage
format and does, in this order:

1. One multiplier for all gradients, derived in double and rounded once to the compute type: the sign of
   ``maximize``, ``1 / grad_scale``, and ``min(1, max_grad_norm / (norm + 1e-6))``. With ``skip_nonfinite``,
   an infinity or NaN in any gradient ends the step here and nothing has changed.
2. Per tensor: decode to the compute type; ``grad = multiplier * grad``; cut off at ``clip_value``.
3. The rule.
4. States below the smallest normal number become +0.
5. Encode parameter and states; ``ema = ema_decay * ema + (1 - ema_decay) * param``; zero the gradients.

The compute type is float64 for float64 parameters and float32 for all others.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, ParamSpec, TypedDict

import numpy as np
from numpy.typing import NDArray

from .._hyper import check_hyper, check_hypers, check_step
from ._arithmetic import clamp, flush, sum_of_squares
from ._checks import as_list, check_array, check_overlap
from ._storage import Stored, check_gradient, store_param, store_state

__all__ = ["AROUND", "RULES", "Around", "Rule", "State", "Steps", "Tensors", "check_around", "rule"]

P = ParamSpec("P")
Array = NDArray[Any]
Tensors = Any  # an array or a list of arrays; the maths inside sees one flat array of the compute type
Steps = Any  # an int or a list of ints; the maths inside sees an int


class Around(TypedDict, total=False):
    """Options that every rule shares, with the frame's meaning (see the module)."""

    maximize: bool
    grad_scale: float
    max_grad_norm: float | None
    clip_value: float | None
    skip_nonfinite: bool
    master: Tensors
    rounding: Literal["nearest", "stochastic"]
    seed: int
    first: int
    ema: Tensors
    ema_decay: float | None
    zero_grads: bool


AROUND: dict[str, Any] = {
    "maximize": False,
    "grad_scale": 1.0,
    "max_grad_norm": None,
    "clip_value": None,
    "skip_nonfinite": False,
    "master": None,
    "rounding": "nearest",
    "seed": 0,
    "first": 0,
    "ema": None,
    "ema_decay": None,
    "zero_grads": False,
}

AROUND_DOC = """
    Other Parameters
    ----------------
    maximize : bool
        Ascend instead of descend.
    grad_scale : float
        Gradients are divided by it first.
    max_grad_norm : float, optional
        Gradients of all tensors together are scaled down to this norm.
    clip_value : float, optional
        Each gradient element is cut off at plus and minus this value, after the scaling.
    skip_nonfinite : bool
        Change nothing when a gradient holds an infinity or NaN.
    master : array or list of arrays, optional
        For 16-bit parameters: float32 copies that are the truth, or int16 remainders of bfloat16 parameters.
    rounding : {"nearest", "stochastic"}
        How 16-bit parameters without a master are rounded.
    seed, first : int
        Key of the noise of stochastic rounding, and the number of the first tensor in it.
    ema : array or list of arrays, optional
        Exponential moving averages of the parameters, in the compute type.
    ema_decay : float, optional
        Weight of the old average, in [0, 1).
    zero_grads : bool
        Set the gradients to zero afterwards.

    Returns
    -------
    bool
        True when the step was taken, False when `skip_nonfinite` skipped it.

    Raises
    ------
    TypeError
        An argument of the wrong kind or dtype.
    ValueError
        A wrong value, shape or layout, lists of unequal length, arrays that overlap. Nothing has changed.
"""


@dataclass(frozen=True)
class State:
    """One state of a rule: its name, how coarsely it may be stored, the option that calls for it if any."""

    name: str
    kind: Literal["signed", "unsigned", "exact"]
    when: str = ""


@dataclass(frozen=True)
class Rule:
    """What there is to know about a rule: states, per-tensor scalars, hyper-parameters and defaults."""

    name: str
    states: tuple[State, ...]
    scalars: tuple[str, ...]
    hypers: dict[str, Any] = field(compare=False)

    def used(self, hypers: dict[str, Any]) -> tuple[State, ...]:
        """The states that a step with these hyper-parameters needs."""
        return tuple(state for state in self.states if not state.when or hypers[state.when])


RULES: dict[str, Rule] = {}


@dataclass
class Tensor:
    """One parameter with all that belongs to it, checked and ready to be decoded."""

    param: Stored
    grad: Array
    states: list[Stored | None]
    scalars: list[Array]
    ema: Array | None
    step: int


def rule(*states: State, scalars: Sequence[str] = ()) -> Callable[[Callable[P, None]], Callable[P, bool]]:
    """Make the public function of a rule out of its maths (see the module).

    Parameters
    ----------
    *states
        The states, in the order of the function's arguments after ``param`` and ``grad``.
    scalars
        Names of float64 values kept per tensor from step to step, after the states.
    """

    def decorate(maths: Callable[P, None]) -> Callable[P, bool]:
        shown = inspect.signature(maths)
        plain = shown.replace(parameters=[p for p in shown.parameters.values() if p.kind is not p.VAR_KEYWORD])
        arrays = ("param", "grad", *(state.name for state in states), *scalars)
        hypers = {p.name: p.default for p in plain.parameters.values() if p.name not in (*arrays, "step")}
        about = Rule(maths.__name__, states, tuple(scalars), hypers)

        @functools.wraps(maths)
        def take_step(*args: P.args, **kwargs: P.kwargs) -> bool:
            unknown = sorted(kwargs.keys() - plain.parameters.keys() - AROUND.keys())
            if unknown:
                raise TypeError(f"{about.name}() got an unexpected keyword argument {unknown[0]!r}")
            given: dict[str, Any] = kwargs
            around = AROUND | {name: value for name, value in given.items() if name in AROUND}
            bound = plain.bind(*args, **{name: value for name, value in given.items() if name not in AROUND})
            bound.apply_defaults()
            values = check_hypers(about.name, {name: bound.arguments[name] for name in hypers})
            around = check_around(around)
            if (around["ema"] is None) != (around["ema_decay"] is None):
                raise ValueError("ema and ema_decay go together: give both or neither")
            tensors = _check_tensors(about, values, bound.arguments, around)
            with np.errstate(all="ignore"):
                multiplier = _multiplier(tensors, around)
                if multiplier is None:
                    return False
                for tensor in tensors:
                    _step_one(maths, tensor, multiplier, values, around)
            return True

        extra = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value) for name, value in AROUND.items()
        ]
        signature = plain.replace(parameters=[*plain.parameters.values(), *extra], return_annotation=bool)
        setattr(take_step, "__signature__", signature)  # noqa: B010  (mypy knows no such attribute)
        head, separator, examples = (inspect.getdoc(maths) or "").partition("Examples\n")
        take_step.__doc__ = f"{head.rstrip()}\n\n{inspect.cleandoc(AROUND_DOC)}\n\n{separator}{examples}"
        RULES[about.name] = about
        return take_step

    return decorate


def check_around(around: dict[str, Any]) -> dict[str, Any]:
    """Check the options of `AROUND` that hold no arrays."""
    checked = dict(around)
    for name in (
        "maximize",
        "grad_scale",
        "max_grad_norm",
        "clip_value",
        "skip_nonfinite",
        "ema_decay",
        "zero_grads",
    ):
        checked[name] = check_hyper(name, around[name])
    if around["rounding"] not in ("nearest", "stochastic"):
        raise ValueError(f"rounding must be 'nearest' or 'stochastic', got {around['rounding']!r}")
    for name in ("seed", "first"):
        if isinstance(around[name], bool) or not isinstance(around[name], (int, np.integer)):
            raise TypeError(f"{name} must be an integer, got {around[name]!r}")
        if not 0 <= around[name] < 2**64:
            raise ValueError(f"{name} must be from 0 to 2**64 - 1, got {around[name]}")
    return checked


def _check_tensors(
    about: Rule, hypers: dict[str, Any], arguments: dict[str, Any], around: dict[str, Any]
) -> list[Tensor]:
    param = arguments["param"]
    many = isinstance(param, (list, tuple))
    count = len(param) if many else None
    every = range(len(param) if many else 1)
    used = {state.name for state in about.used(hypers)}

    def column(name: str, value: Any, needed: bool = True) -> list[Any]:
        if value is None and not needed:
            return [None for _ in every]
        if value is None:
            when = next((state.when for state in about.states if state.name == name), "")
            raise TypeError(f"{name} is needed" + (f" with {when}={hypers[when]}" if when else ""))
        return as_list(value, name, count)

    columns = {"param": column("param", param), "grad": column("grad", arguments["grad"])}
    for state in about.states:
        columns[state.name] = column(
            state.name, arguments[state.name] if state.name in used else None, state.name in used
        )
    for name in about.scalars:
        columns[name] = column(name, arguments[name])
    masters = column("master", around["master"], False)
    averages = column("ema", around["ema"], False)
    steps = arguments["step"]
    steps = as_list(steps, "step", count) if isinstance(steps, (list, tuple)) else [steps for _ in every]

    tensors: list[Tensor] = []
    memory: list[tuple[str, Array, bool]] = []
    for i in every:
        at = f"[{i}]" if many else ""
        step = check_step(steps[i], "step" + at)
        key = (int(around["seed"]), int(around["first"]) + i, step)
        stored = store_param(columns["param"][i], "param" + at, masters[i], around["rounding"], key)
        grad = check_gradient(columns["grad"][i], "grad" + at, stored, around["zero_grads"])
        states = [
            store_state(columns[s.name][i], s.name + at, s.kind, stored) if s.name in used else None
            for s in about.states
        ]
        numbers = [check_array(columns[name][i], name + at, (np.dtype(np.float64),), ()) for name in about.scalars]
        ema = None if averages[i] is None else check_array(averages[i], "ema" + at, (stored.kind,), stored.array.shape)
        tensors.append(Tensor(stored, grad, states, numbers, ema, step))
        memory += [*stored.memory, ("grad" + at, grad, around["zero_grads"])]
        memory += [item for state in states if state for item in state.memory]
        memory += [(name + at, number, True) for name, number in zip(about.scalars, numbers, strict=True)]
        memory += [] if ema is None else [("ema" + at, ema, True)]
    check_overlap(memory)
    return tensors


def _multiplier(tensors: list[Tensor], around: dict[str, Any]) -> float | None:
    """What every gradient is multiplied by, or None when the step is to be skipped."""
    if around["skip_nonfinite"] and not all(np.isfinite(tensor.grad).all() for tensor in tensors):
        return None
    scale = 1.0 / around["grad_scale"]
    multiplier: float = -scale if around["maximize"] else scale
    if around["max_grad_norm"] is not None:
        total = 0.0
        for tensor in tensors:
            total += sum_of_squares(tensor.grad)
        coefficient = around["max_grad_norm"] / (math.sqrt(total) * scale + 1e-6)
        multiplier *= 1.0 if coefficient > 1.0 else coefficient  # NaN stays NaN
    return multiplier


def _step_one(
    maths: Callable[..., None],
    tensor: Tensor,
    multiplier: float,
    hypers: dict[str, Any],
    around: dict[str, Any],
) -> None:
    param = tensor.param.decode()
    T = param.dtype.type
    grad = T(multiplier) * tensor.grad.reshape(-1).astype(T)
    if around["clip_value"] is not None:
        grad = clamp(grad, T(-around["clip_value"]), T(around["clip_value"]))
    states = [None if state is None else state.decode() for state in tensor.states]
    maths(param, grad, *states, *tensor.scalars, step=tensor.step, **hypers)
    for stored, state in zip(tensor.states, states, strict=True):
        if stored is not None and state is not None:
            flush(state)
            stored.encode(state)
    tensor.param.encode(param)
    if tensor.ema is not None:
        ema = tensor.ema.reshape(-1)
        ema[...] = T(around["ema_decay"]) * ema + T(1.0 - around["ema_decay"]) * param
        flush(ema)
    if around["zero_grads"]:
        tensor.grad[...] = 0
