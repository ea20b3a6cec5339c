"""Sparse gradients: a step on the rows that have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _core
from .._hyper import check_hyper
from ..reference import RULES
from ._building import Slot, complete
from ._options import plain
from ._states import address

if TYPE_CHECKING:
    from ._base import FusedOptimizer

__all__ = ["prepare"]

ABLE = ("sgd", "adagrad", "sparse_adam")


def prepare(optimizer: FusedOptimizer, slot: Slot, group: dict[str, Any]) -> Callable[[], None]:
    """Check a parameter's sparse gradient; return the function that takes its step.

    Raises
    ------
    TypeError
        The rule has no sparse form, or none with these options.
    ValueError
        The gradient does not fit, or an option needs the gradients of the whole model or states in the compute type.
    """
    param, grad = slot.param, slot.param.grad
    assert grad is not None
    rule = optimizer.rule
    if rule not in ABLE or grad.layout is not torch.sparse_coo:
        raise TypeError(
            f"the gradient of {slot.name} is sparse ({grad.layout}), and {rule} does not support sparse gradients; "
            "SparseAdam and Adagrad do (torch.sparse_coo), and so does SGD without momentum"
        )
    for name in ("weight_decay", "momentum"):
        if plain(group.get(name, 0.0)):
            raise TypeError(
                f"the gradient of {slot.name} is sparse, needs {name}=0, got {plain(group[name])!r}, "
                "which would touch every row"
            )
    for name in ("max_grad_norm", "skip_nonfinite"):
        if getattr(optimizer, name):
            raise ValueError(f"{name}: the gradient of {slot.name} is sparse, needs dense gradients")
    if group["state_format"] != "float32" or group["master"] is not None or group["ema_decay"] is not None:
        raise ValueError(
            f"the gradient of {slot.name} is sparse, needs state_format='float32', no master and no ema_decay"
        )
    if grad.shape != param.shape or grad.dtype != param.dtype:
        raise ValueError(
            f"the gradient of {slot.name} has shape {tuple(grad.shape)} and dtype {grad.dtype}, "
            f"needs {tuple(param.shape)} and {param.dtype}"
        )

    def take() -> None:
        with torch.no_grad():
            _step(optimizer, slot, group, grad.coalesce())

    return take


def _step(optimizer: FusedOptimizer, slot: Slot, group: dict[str, Any], grad: Tensor) -> None:
    rule = RULES[optimizer.rule]
    state = optimizer._all_states().get(slot.param, {})
    complete(optimizer, state, slot.like, group)
    if state:
        optimizer._all_states()[slot.param] = state
    where, values = tuple(grad.indices()), grad.values().resolve_conj().resolve_neg().contiguous()
    whole = [slot.param.detach()] + [state[kept.name] for kept in rule.states if kept.name in state]
    rows = [tensor[where].contiguous() for tensor in whole]
    states: list[Any] = [None] * len(rule.states)
    for i, part in enumerate(rows[1:]):
        states[i] = address(part)

    def check(number: int, name: str, value: Any) -> Any:
        return check_hyper(name, plain(value), f'param_groups[..]["{name}"]', rule=optimizer.rule)

    model = _core.Model(optimizer.rule, check, None)
    model.configure(0.0, False, False, optimizer.seed)
    model.add_group(group)
    step = int(state["step"]) if "step" in state else 0
    model.add(0, address(rows[0]), states, step=step)
    model.finish()
    model.step_list([address(values)], 1.0)
    for tensor, part in zip(whole, rows, strict=True):
        tensor.index_put_(where, part)
    if isinstance(state.get("step"), Tensor):
        state["step"] += 1
    elif rule.name == "sparse_adam":
        state["step"] = step + 1
    if optimizer.zero_grads:
        assert slot.param.grad is not None
        slot.param.grad.zero_()
