"""The options that optimizers take: their types, and the check of a group's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from ._arguments import needs_entries
from ._hyper import check_hyper, check_hypers
from ._memory import Memory
from ._step_options import GROUP_VALUES, STORAGE
from .reference import RULES

__all__ = ["Number", "Options", "Structure", "check_group"]

Number: TypeAlias = float | Callable[[int], float]  # a hyper-parameter: its value, or a schedule of the steps completed
Structure = Any  # an array, or any nesting of containers of arrays (see `Optimizer`)


class Options(TypedDict, total=False):
    """Options that every optimizer takes by keyword (see `Optimizer`)."""

    # the table of step options, by tools/stubs.py
    grads: Structure
    cast_grads: bool
    accumulate_steps: int
    maximize: bool
    max_grad_norm: float | None
    clip_value: float | None
    skip_nonfinite: bool
    ema_decay: float | None
    cautious: bool
    zero_grads: bool
    state_format: Literal["float32", "bfloat16", "8bit"]
    min_quantized_size: int
    master: Literal["float32", "split"] | None
    rounding: Literal["nearest", "stochastic"]
    seed: int
    memory: Memory


def check_group(rule: str, group: Mapping[str, Any], where: str) -> None:
    """Check a group's options; values of schedules are checked when they are known."""
    names = [*RULES[rule].hypers, *GROUP_VALUES]
    needs_entries(where.removesuffix('["{}"]'), group, *names, *STORAGE)
    check_hypers(rule, {n: group[n] for n in names if not callable(group[n])}, where)
    for name in STORAGE:
        check_hyper(name, group[name], where.format(name))
    narrow = group["state_format"] != "float32"
    if narrow and all(state.kind == "exact" for state in RULES[rule].states) and RULES[rule].states:
        able = sorted(r.name for r in RULES.values() if any(s.kind != "exact" for s in r.states))
        raise ValueError(
            f"{where.format('state_format')}: got {group['state_format']!r}, needs 'float32' for {RULES[rule].name}; "
            f"rules whose states have other formats are {', '.join(able)}"
        )
