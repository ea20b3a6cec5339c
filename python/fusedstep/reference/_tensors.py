"""The arrays of one call, checked together: nothing is written before all of them have passed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._hyper import check_step
from ..sparse import SparseRows
from ._checks import as_list, check_array, check_overlap
from ._rule import RULES, Rule
from ._storage import Stored, check_gradient, check_rows, store_param, store_state

__all__ = ["Tensor", "check_rows_form", "check_tensors", "eight_bit_rows", "other_states"]

Array = NDArray[Any]


@dataclass
class Tensor:
    """One parameter with all that belongs to it, checked and ready to be decoded."""

    param: Stored
    grad: Array
    states: list[Stored | None]
    scalars: list[Array]
    ema: Array | None
    step: int
    given: Array  # the gradient's memory; `grad` is a copy where rows were added up
    rows: Array | None  # those that have a gradient, ascending; None: all


def check_tensors(
    rule: Rule, hypers: dict[str, Any], arguments: dict[str, Any], options: dict[str, Any]
) -> list[Tensor]:
    """Check a rule's arguments and sort them by tensor.

    Parameters
    ----------
    about, hypers
        The rule and its checked hyper-parameters.
    arguments
        ``"param"``, ``"grad"``, ``"step"``, states and scalars: single ones or lists.
    options
        The step options, checked but for ``"master"`` and ``"ema"``.
    """
    param = arguments["param"]
    many = isinstance(param, (list, tuple))
    count = len(list(param)) if many else None
    every = range(1 if count is None else count)
    used = {state.name for state in rule.used(hypers)}

    def column(name: str, value: Any, needed: bool = True) -> list[Any]:
        if value is None and not needed:
            return [None for _ in every]
        if value is None:
            when = next((state.when for state in rule.states if state.name == name), "")
            raise TypeError(f"{name}: got None, needs an array" + (f" with {when}={hypers[when]}" if when else ""))
        return as_list(value, name, count)

    columns = {"param": column("param", param), "grad": column("grad", arguments["grad"])}
    for state in rule.states:
        needed = state.name in used and state.form == "full"
        columns[state.name] = column(state.name, arguments[state.name] if state.name in used else None, needed)
    for name in rule.scalars:
        columns[name] = column(name, arguments[name])
    masters = column("master", options["master"], False)
    averages = column("ema", options["ema"], False)
    steps = arguments["step"]
    steps = as_list(steps, "step", count) if isinstance(steps, (list, tuple)) else [steps for _ in every]

    tensors: list[Tensor] = []
    memory: list[tuple[str, Array, bool]] = []
    for i in every:
        at = f"[{i}]" if many else ""
        step = check_step(steps[i], "step" + at)
        key = (int(options["seed"]), int(options["first"]) + i, step)
        stored = store_param(columns["param"][i], "param" + at, masters[i], options["rounding"], key)
        grad, rows = columns["grad"][i], None
        if isinstance(grad, SparseRows):
            check_rows_form(rule, hypers, options, "grad" + at)
            given = check_rows(grad, "grad" + at, stored, options["zero_grads"])
            rows, grad = grad.summed(stored.kind)
            memory.append((f"grad{at}.indices", columns["grad"][i].indices, False))
        else:
            given = grad = check_gradient(grad, "grad" + at, stored, options["zero_grads"])
        states = []
        for s in rule.states:
            shape = s.shape(stored.array.shape, hypers) if s.name in used else None
            value = columns[s.name][i]
            if s.name in used and s.form != "full" and (value is None) != (shape is None):
                raise TypeError(other_states(rule, s.name + at, value, stored.array.shape, hypers))
            states.append(None if shape is None else store_state(value, s.name + at, s.kind, stored, shape))
        numbers = [check_array(columns[name][i], name + at, (np.dtype(np.float64),), ()) for name in rule.scalars]
        ema = None if averages[i] is None else check_array(averages[i], "ema" + at, (stored.kind,), stored.array.shape)
        if rows is not None and any(state is not None and state.format.startswith("8bit") for state in states):
            raise TypeError(eight_bit_rows("grad" + at))
        tensors.append(Tensor(stored, grad, states, numbers, ema, step, given, rows))
        memory += [*stored.memory, ("grad" + at, given, options["zero_grads"])]
        memory += [item for state in states if state for item in state.memory]
        memory += [(name + at, number, True) for name, number in zip(rule.scalars, numbers, strict=True)]
        memory += [] if ema is None else [("ema" + at, ema, True)]
    check_overlap(memory)
    return tensors


def other_states(rule: Rule, name: str, value: Any, shape: tuple[int, ...], hypers: Mapping[str, Any]) -> str:
    """The message for a state that is missing, or is none of a parameter of this shape."""
    needed = " and ".join(state.name for state in rule.used(hypers, shape))
    return f"{name}: got {type(value).__name__} for a parameter of shape {shape}, needs {needed} and no other state"


def eight_bit_rows(name: str) -> str:
    """The message for a gradient of some rows with states of 8 bits."""
    return f"{name}: got SparseRows, needs an array with states of 8 bits; a block may span several rows"


def check_rows_form(rule: Rule, hypers: Mapping[str, Any], options: Mapping[str, Any], name: str) -> None:
    """Check that a rule with these options can step some rows alone."""
    if rule.rows_without is None:
        able = ", ".join(sorted(other.name for other in RULES.values() if other.rows_without is not None))
        raise TypeError(
            f"{name}: got SparseRows, needs an array for {rule.name}; rules that take SparseRows are {able}"
        )
    for option in rule.rows_without:
        if hypers[option]:
            raise ValueError(
                f"{name}: got SparseRows with {option}={hypers[option]}, which would change every row, needs {option}=0"
            )
    if options["ema"] is not None:
        raise ValueError(f"{name}: got SparseRows with an average, which changes in every row, needs ema_decay=None")
    if options["rounding"] != "nearest":
        raise ValueError(f"{name}: got SparseRows with rounding={options['rounding']!r}, needs rounding='nearest'")
