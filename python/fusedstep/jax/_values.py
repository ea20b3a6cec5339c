"""Numbers of a step: plain ones, which are part of the program, and traced ones, which are arguments of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._hyper import FLAGS, TUPLES, check_hyper, check_number, interval_of, unexpected
from ..reference import RULES
from ..schedules import Schedule

__all__ = ["OPTIONS", "Resolved", "Values"]

OPTIONS: dict[str, float] = {"grad_scale": 1.0, "max_grad_norm": 0.0, "clip_value": math.inf, "ema_decay": 0.0}
"""Numbers around a rule in the order in which the native step takes them, and what stands for None there."""

EXAMPLE = 0.5
"""An allowed value of every option."""


class Values:
    """The numbers that an optimizer was made with, each a number, an array or a function of the steps taken.

    Parameters
    ----------
    rule
        Name of the update rule.
    given
        Hyper-parameters and `OPTIONS`, all of them.

    Raises
    ------
    TypeError, ValueError
        A value that no program can compute, or an array that holds a number out of range.
    """

    def __init__(self, rule: str, given: Mapping[str, Any]) -> None:
        self.rule = rule
        self.given = {name: self._checked(name, value) for name, value in given.items()}

    def _checked(self, name: str, value: Any) -> Any:
        if isinstance(value, Schedule):
            raise TypeError(
                f"{name}: got {value!r}, which Python computes, needs what a program can: its values as an array, "
                f"{name}=np.array([schedule(t) for t in range(steps)]), or a function of a traced count, as optax has"
            )
        if name in FLAGS and (callable(value) or _is_table(value)):
            raise TypeError(f"{name}: got {type(value).__name__}, needs True or False")
        if isinstance(value, np.ma.MaskedArray):
            raise TypeError(f"{name}: got a masked array, needs one without a mask; use array.filled(value)")
        if name in TUPLES or not _is_table(value) or isinstance(value, jax.core.Tracer):
            return value
        table = np.asarray(value)
        if not table.size:
            raise ValueError(f"{name}: got an empty array, needs a value for each step")
        for t, one in enumerate(table):
            check_hyper(name, one, f"{name}[{t}]", rule=self.rule)
        return table

    def at(self, name: str, step: Any) -> Any:
        """A value after `step` steps, an integer or a traced array."""
        value = self.given[name]
        if callable(value):
            value = value(step)
        elif _is_table(value) and name not in TUPLES:
            table = jnp.asarray(value)
            value = table[jnp.minimum(step, table.shape[0] - 1)]
        return value

    def varies(self, name: str) -> bool:
        """Whether a value may differ from step to step."""
        value = self.given[name]
        parts = value if isinstance(value, (tuple, list)) else (value,)
        table = _is_table(value) and name not in TUPLES
        return callable(value) or table or any(isinstance(part, jax.core.Tracer) for part in parts)

    def first(self, name: str) -> Any:
        """A value before the first step as Python has it; for a traced one, any that is allowed."""
        with jax.ensure_compile_time_eval():
            value = self.at(name, jnp.zeros((), jnp.int32))
        parts = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(part, jax.core.Tracer) for part in parts):
            return RULES[self.rule].hypers.get(name, EXAMPLE)
        return jax.tree.map(lambda part: np.asarray(part)[()] if isinstance(part, jax.Array) else part, value)

    def resolve(self, step: Any, given: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> Resolved:
        """All numbers of the step that follows `step` others.

        Parameters
        ----------
        step
            Steps taken, traced.
        given
            Values for this step alone, in the place of the optimizer's.
        groups
            What each group of parameters has for itself.
        """
        unknown = sorted(given.keys() - self.given.keys())
        if unknown:
            raise unexpected("step", unknown[0], self.given)
        values = {name: given[name] if name in given else self.at(name, step) for name in self.given}
        resolved = Resolved(self.rule)
        for name in OPTIONS:
            if (self.given[name] is None) != (values[name] is None):
                without = "out" if values[name] is None else ""
                raise TypeError(
                    f"{name}: got {'None' if without else 'a number'} for this step, needs an optimizer that was made "
                    f"with{without and 'out'} one"
                )
            resolved.add(name, None, values[name])
        for group in groups:
            for hyper in RULES[self.rule].coefficients:
                name, _, part = hyper.partition(".")
                value = group.get(name, values[name])
                resolved.add(
                    name, int(part) if part else None, _part(self.rule, name, value, int(part)) if part else value
                )
        return resolved


class Resolved:
    """Numbers in the order of the native step; traced ones are arguments, with the range that they must lie in.

    Attributes
    ----------
    values
        All of them, 0 where a traced one belongs.
    arguments
        The traced ones, float32 or float64.
    traced
        Pairs of the number of an argument and its place in `values`.
    ranges, needs
        Of each argument: the least and largest value, and its name and the range in words.
    """

    def __init__(self, rule: str) -> None:
        self.rule = rule
        self.values: list[float] = []
        self.arguments: list[Any] = []
        self.traced: list[tuple[int, int]] = []
        self.ranges: list[tuple[float, float]] = []
        self.needs: list[tuple[str, str]] = []

    def add(self, name: str, part: int | None, value: Any) -> None:
        """Add the next number: a hyper-parameter, or one part of it."""
        where = name if part is None else f"{name}[{part}]"
        if isinstance(value, jax.core.Tracer):
            self._add_traced(name, part, where, value)
        elif value is None and name in OPTIONS:
            self.values.append(OPTIONS[name])
        elif name in FLAGS:
            self.values.append(float(check_hyper(name, value)))
        else:
            plain = np.asarray(value)[()] if isinstance(value, jax.Array) and value.ndim == 0 else value
            self.values.append(check_number(plain, interval_of(self.rule, name, part), where))

    def _add_traced(self, name: str, part: int | None, where: str, value: Any) -> None:
        if name in FLAGS:
            raise TypeError(f"{where}: got a traced array, needs True or False")
        if value.shape or not (jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)):
            raise TypeError(f"{where}: got an array of {value.dtype} and shape {value.shape}, needs one real number")
        known = [known for known, _ in self.needs]
        if where not in known:
            interval = interval_of(self.rule, name, part)
            low = math.nextafter(interval.low, math.inf) if "low" in interval.open else interval.low
            high = math.nextafter(interval.high, -math.inf) if "high" in interval.open else interval.high
            self.arguments.append(value.astype(jnp.float64 if value.dtype == jnp.float64 else jnp.float32))
            self.ranges.append((low, high))
            self.needs.append((where, str(interval)))
            known.append(where)
        self.traced.append((known.index(where), len(self.values)))
        self.values.append(0.0)


def _is_table(value: Any) -> bool:
    return isinstance(value, (np.ndarray, jax.Array)) and value.ndim == 1


def _part(rule: str, name: str, value: Any, part: int) -> Any:
    """One number of several, each of which may be traced."""
    count = len(RULES[rule].hypers[name])
    needed = f"{'a pair of' if count == 2 else count} real numbers"
    if not _is_table(value) and not isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: got {value!r}, needs {needed}")
    if len(value) != count:
        raise ValueError(f"{name}: got {len(value)} numbers, needs {needed}")
    return value[part]
