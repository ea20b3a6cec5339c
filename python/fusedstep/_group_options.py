"""The options of parameter groups, their defaults and checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, TypedDict

from ._arguments import choice
from ._hyper import GROUP_VALUES, check_hypers
from ._memory import Memory
from ._slots import STATE_FORMATS
from .reference import RULES

__all__ = ["GROUP_OPTIONS", "Number", "Options", "StepOptions", "StorageOptions", "Structure", "check_group"]

Number: TypeAlias = float | Callable[[int], float]  # a hyper-parameter: its value, or a schedule of the steps completed
Structure = Any  # an array, or any nesting of containers of arrays (see `Optimizer`)

MASTERS = (None, "float32", "split")
ROUNDINGS = ("nearest", "stochastic")


class StorageOptions(TypedDict, total=False):
    """Options that the optimizers of every face take by keyword."""

    state_format: Literal["float32", "bfloat16", "8bit"]
    min_quantized_size: int
    master: Literal["float32", "split"] | None
    rounding: Literal["nearest", "stochastic"]
    skip_nonfinite: bool
    seed: int


class StepOptions(StorageOptions, total=False):
    """Those of NumPy's and torch's optimizers."""

    max_grad_norm: float | None
    clip_value: float | None
    ema_decay: float | None
    cautious: bool
    zero_grads: bool


class Options(StepOptions, total=False):
    """Options that every optimizer takes by keyword (see `Optimizer`)."""

    grads: Structure
    cast_grads: bool
    accumulate_steps: int
    maximize: bool
    memory: Memory


# Options that a parameter group may have for itself, and those of the whole optimizer.
GROUP_OPTIONS: dict[str, Any] = {
    "maximize": False,
    "clip_value": None,
    "ema_decay": None,
    "cautious": False,
    "state_format": "float32",
    "min_quantized_size": 4096,
    "master": None,
    "rounding": "nearest",
}


def check_group(rule: str, group: Mapping[str, Any], where: str) -> None:
    """Check a group's options; values of schedules are checked when they are known."""
    names = [*RULES[rule].hypers, *GROUP_VALUES]
    check_hypers(rule, {n: group[n] for n in names if not callable(group[n])}, where)
    choice(where.format("state_format"), group["state_format"], STATE_FORMATS)
    choice(where.format("master"), group["master"], MASTERS)
    choice(where.format("rounding"), group["rounding"], ROUNDINGS)
    size = group["min_quantized_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{where.format('min_quantized_size')}: got {size!r}, needs an integer of at least 0")
    narrow = group["state_format"] != "float32"
    if narrow and all(state.kind == "exact" for state in RULES[rule].states) and RULES[rule].states:
        able = sorted(r.name for r in RULES.values() if any(s.kind != "exact" for s in r.states))
        raise ValueError(
            f"{where.format('state_format')}: got {group['state_format']!r}, but the states of {rule} need the "
            f"compute type; rules that can store theirs so: {', '.join(able)}"
        )
