"""What must be the same on all ranks, by name: options, a step's gradients, parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .._slots import Slot
from ..sparse import SparseRows
from ._part import Part

__all__ = ["group_facts", "option_facts", "parameter_facts", "step_facts"]

Fact = tuple[str, str]


def option_facts(part: Part) -> list[Fact]:
    """The options of an optimizer; of a schedule what it has returned in this step."""
    groups = [fact for i, group in enumerate(part._groups) for fact in group_facts(part, f"param_groups[{i}]", group)]
    summed = ("accumulate_steps", f"{part.accumulate_steps} with {part.accumulated} summed")
    return [*groups, summed, *((name, repr(value)) for name, value in part._settings.items())]


def group_facts(part: Part, where: str, group: Mapping[str, Any]) -> list[Fact]:
    """The options of one group of an optimizer."""
    return [(f'{where}["{name}"]', part.described(value)) for name, value in group.items() if name != "params"]


def parameter_facts(slots: Iterable[Slot]) -> list[Fact]:
    """Dtypes and shapes of parameters."""
    return [(f"params{slot.path}", f"{slot.param.dtype.name} of shape {np.shape(slot.param)}") for slot in slots]


def step_facts(slots: Sequence[Slot], grads: Sequence[Any], grad_scale: float, part: Part) -> list[Fact]:
    """The gradients and options of a step."""
    found = [(f"grads{slot.path}", _described(grad)) for slot, grad in zip(slots, grads, strict=True)]
    return [*found, ("grad_scale", repr(grad_scale)), *option_facts(part)]


def _described(grad: Any) -> str:
    if isinstance(grad, SparseRows):
        return f"SparseRows of dtype {grad.values.dtype.name}"
    return "None" if grad is None else f"dtype {grad.dtype.name}"
