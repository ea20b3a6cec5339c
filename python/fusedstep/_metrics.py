"""What an optimizer can tell of itself, as numbers by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._hyper import FLAGS, check_hyper
from .reference import RULES

if TYPE_CHECKING:
    from ._base import Optimizer

__all__ = ["metrics"]


def metrics(optimizer: Optimizer) -> dict[str, float]:
    """What `Optimizer.metrics` returns."""
    found: dict[str, float] = {
        "steps_taken": float(optimizer.steps_taken),
        "skipped_steps": float(optimizer.skipped_steps),
        "nonfinite_blocks": float(optimizer.nonfinite_blocks),
    }
    if optimizer.grad_norm is not None:
        found["grad_norm"] = optimizer.grad_norm
    if optimizer.accumulate_steps > 1:
        found["accumulated"] = float(optimizer.accumulated)
    if optimizer.max_grad_norm is not None:
        found["max_grad_norm"] = optimizer.max_grad_norm
    groups = optimizer.param_groups
    rules = [optimizer._rule_of(group) for group in groups]
    names = dict.fromkeys(name for rule in rules for name in RULES[rule].hypers)
    for name in (*names, "clip_value", "ema_decay"):
        for i, (group, rule) in enumerate(zip(groups, rules, strict=True)):
            if name in FLAGS or name not in (*RULES[rule].hypers, "clip_value", "ema_decay"):
                continue
            if name not in group:
                raise ValueError(f'param_groups[{i}]: has no entry "{name}"')
            value: Any = check_hyper(name, optimizer._now(group[name]), f'param_groups[{i}]["{name}"]', rule=rule)
            parts = {f"[{k}]": part for k, part in enumerate(value)} if isinstance(value, tuple) else {"": value}
            suffix = f"/{i}" * (len(groups) > 1)
            found.update({name + part + suffix: number for part, number in parts.items() if number is not None})
    return found
