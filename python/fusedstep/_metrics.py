"""What an optimizer can tell of itself, as numbers by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ._hyper import FLAGS, check_hyper
from ._slots import stored_values
from ._step_options import GROUP_VALUES
from .reference import RULES
from .reference.watching import counted_state, effective_rates
from .watching import watched

if TYPE_CHECKING:
    from ._base import Optimizer

__all__ = ["effective", "metrics", "numbers"]


def metrics(optimizer: Optimizer) -> dict[str, float]:
    """What `Optimizer.metrics` returns."""
    found: dict[str, float] = {
        "steps_taken": float(optimizer.steps_taken),
        "skipped_steps": float(optimizer.skipped_steps),
        "nonfinite_blocks": float(optimizer.nonfinite_blocks),
    }
    if (norm := optimizer.grad_norm) is not None:  # read once, as another thread may step or set it
        found["grad_norm"] = norm
    if optimizer.accumulate_steps > 1:
        found["accumulated"] = float(optimizer.accumulated)
    if (most := optimizer.max_grad_norm) is not None:
        found["max_grad_norm"] = most
    groups = optimizer.param_groups
    rules = [optimizer._rule_of(group) for group in groups]
    return found | numbers(rules, groups, optimizer._now) | watched(optimizer._watch)


def effective(optimizer: Optimizer) -> Iterator[NDArray[np.float64]]:
    """What `Optimizer.effective_rates` returns, parameter by parameter."""
    for slot, state in zip(optimizer._slots, optimizer.state, strict=True):
        group = optimizer.param_groups[slot.group]
        rule = optimizer._rule_of(group)
        name = counted_state(rule, group)
        if name is None:
            raise ValueError(f"effective_rates: got {rule}, needs a rule that divides by a root of second moments")
        if not state["step"]:
            raise ValueError(f"effective_rates: got params{slot.path} before its first step, needs one")
        kind = next(kept.kind for kept in RULES[rule].states if kept.name == name)
        hypers = {name: optimizer._now(group[name]) for name in RULES[rule].hypers}
        second = stored_values(slot.states[name], kind, slot.compute)
        found = effective_rates(rule, second, state["step"], hypers)
        yield np.full(second.shape, hypers["lr"]) if found is None else found


def numbers(
    rules: Sequence[str], groups: Sequence[Mapping[str, Any]], now: Callable[[Any], Any] = lambda value: value
) -> dict[str, float]:
    """The hyper-parameters of all groups that are numbers; `now` gives a schedule's value."""
    found: dict[str, float] = {}
    names = dict.fromkeys(name for rule in rules for name in RULES[rule].hypers)
    for name in (*names, *GROUP_VALUES):
        for i, (group, rule) in enumerate(zip(groups, rules, strict=True)):
            if name in FLAGS or name not in (*RULES[rule].hypers, *GROUP_VALUES):
                continue
            if name not in group:
                raise ValueError(f'param_groups[{i}]: has no entry "{name}"')
            value: Any = check_hyper(name, now(group[name]), f'param_groups[{i}]["{name}"]', rule=rule)
            parts = {f"[{k}]": part for k, part in enumerate(value)} if isinstance(value, tuple) else {"": value}
            suffix = f"/{i}" * (len(groups) > 1)
            found.update({name + part + suffix: number for part, number in parts.items() if number is not None})
    return found
