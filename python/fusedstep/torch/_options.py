"""The arguments that every optimizer for torch takes beside its hyper-parameters."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Literal, TypedDict

from torch import Tensor

from .._group_options import check_group as _check_group
from .._hyper import OTHER_NAMES, check_hyper
from .._step_options import GROUP_OPTIONS, GROUP_VALUES, STORAGE
from ..reference import RULES

__all__ = [
    "GROUPS",
    "Options",
    "Own",
    "check_group",
    "check_implementation",
    "check_is_group",
    "likely_meant",
    "plain",
]

# How a group's states were made: another value makes the native model anew.
WATCHED = (
    "rule",
    "reshape",
    "blocks",
    "decoupled_weight_decay",
    *STORAGE,
    "ema_decay",
    "differentiable",
    "capturable",
)


class Own(TypedDict, total=False):
    """This package's own options by keyword; see `fusedstep.Optimizer`.

    `eps_root`, `lr_in_momentum` and `eps_norm` belong to those rules whose class in `fusedstep` has them.
    """

    # the table of step options, by tools/stubs.py
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
    eps_root: float
    eps_norm: float
    lr_in_momentum: bool


class Options(Own, total=False):
    """Options of this package's own optimizers: all of `Own`, and torch's arguments that choose an implementation.

    ``foreach`` and ``fused`` are accepted and ignored, since there is one implementation; ``capturable`` and
    ``differentiable`` may only be False.
    """

    maximize: bool
    foreach: bool | None
    fused: bool | None
    capturable: bool
    differentiable: bool


def check_implementation(options: Any, where: str = "{}") -> None:
    """Refuse what a step outside of autograd and of CUDA graphs cannot be.

    Raises
    ------
    ValueError
        ``differentiable`` or ``capturable`` is True.
    """
    if plain(options.get("differentiable"), where.format("differentiable")):
        raise ValueError(
            f"{where.format('differentiable')}: got True, needs False: the step is taken outside of autograd; "
            "torch.optim has a differentiable one"
        )
    if plain(options.get("capturable"), where.format("capturable")):
        raise ValueError(
            f"{where.format('capturable')}: got True, needs False: the step runs on the CPU and cannot be captured "
            "in a CUDA graph"
        )


def plain(value: Any, where: str = "a hyper-parameter") -> Any:
    """A hyper-parameter without torch: tensors of one element become numbers."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(f"{where}: got a tensor of {value.numel()} elements, needs one element")
        try:
            return value.item()
        except RuntimeError:  # of the meta device
            raise ValueError(f"{where}: got a tensor on {value.device}, needs one with memory") from None
    if isinstance(value, (list, tuple)):
        return tuple(plain(part, where) for part in value)
    return value


GROUPS = 'a list of dicts with an entry "params"'


def check_is_group(group: Any, where: str) -> None:
    """Check that a parameter group is one: they are in a list that anyone can change."""
    if not isinstance(group, dict) or "params" not in group:
        got = "a dict without it" if isinstance(group, dict) else type(group).__name__
        raise TypeError(f'{where}: got {got}, needs a dict with an entry "params"')


def check_group(rule: str, group: dict[str, Any], where: str) -> None:
    """Check the options and hyper-parameters of a parameter group; other entries are the user's."""
    check_implementation(group, where)
    facts = RULES[rule]
    known = (*facts.hypers, *GROUP_OPTIONS)
    _check_group(rule, {name: plain(group[name], where.format(name)) for name in known}, where)
    for first in (*(state.initial for state in facts.states), *facts.initial_scalars.values()):
        if isinstance(first, str) and first in group:  # a first step reads it
            check_hyper(first, plain(group[first], where.format(first)), where.format(first), rule=rule)
    for name in (*facts.hypers, *GROUP_VALUES):
        if callable(group[name]):  # schedules are torch's own here; the other faces take functions
            check_hyper(name, group[name], where.format(name), rule=rule)


def likely_meant(name: str, options: Collection[str]) -> str | None:
    """The option that an attribute was very likely meant to be; None for the user's own names."""
    meant = OTHER_NAMES.get(name.lower())
    if meant in options:
        return meant
    near = difflib.get_close_matches(name.lower(), sorted(options), 1, cutoff=0.8)
    begun = [option for option in sorted(options) if len(option) > 2 and name.lower().startswith(option)]
    return next(iter(near + begun), None)
