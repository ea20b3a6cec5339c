"""Sparse gradients: a step on the rows that have one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import _core
from .._held import check_storage
from .._hyper import check_hyper
from .._rows import check_row_gradient
from ..reference import RULES
from ..sparse import SparseRows
from ._building import complete
from ._making import Making
from ._options import plain
from ._reading import memory, quiet
from ._slots import TensorSlot, check_memory
from ._states import increment_versions, set_to_zero

__all__ = ["prepare"]

ABLE = ("sgd", "adagrad", "sparse_adam")
PLAIN = (torch.float32, torch.float64)


def prepare(optimizer: Making, slot: TensorSlot, group: dict[str, Any]) -> Callable[[bool], None]:
    """Check a parameter's sparse gradient; return the function that takes its step, told whether to set it to zero.

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
            f"the gradient of {slot.name}: got a sparse tensor ({grad.layout}), needs a dense one for {rule}; "
            "SparseAdam and Adagrad take sparse ones (torch.sparse_coo), and so does SGD without momentum"
        )
    for name in ("weight_decay", "momentum"):
        if name in RULES[rule].hypers and plain(group[name]):
            raise TypeError(
                f"the gradient of {slot.name}: got a sparse tensor with {name}={plain(group[name])!r}, which would "
                f"touch every row, needs {name}=0"
            )
    for name in ("max_grad_norm", "skip_nonfinite"):
        if getattr(optimizer, name):
            raise ValueError(f"{name}: got a sparse tensor as the gradient of {slot.name}, needs dense ones")
    has_master = group["master"] is not None and param.dtype in (torch.float16, torch.bfloat16)
    if group["state_format"] != "float32" or has_master or group["ema_decay"] is not None:
        raise ValueError(
            f"the gradient of {slot.name}: got a sparse tensor, needs state_format='float32', no master and no "
            "ema_decay"
        )
    if grad.shape != param.shape or grad.dtype != param.dtype:
        raise ValueError(
            f"the gradient of {slot.name}: got shape {tuple(grad.shape)} and dtype {grad.dtype}, "
            f"needs {tuple(param.shape)} and {param.dtype}"
        )
    _check_places(slot.name, grad)

    def take(zero: bool) -> None:
        with torch.no_grad():
            _step(optimizer, slot, group, grad, zero)

    return take


def _check_places(name: str, grad: Tensor) -> None:
    """Find freed memory and places outside of the parameter before any parameter has changed: torch may not have."""
    places = grad._indices()
    check_storage(places, f"the indices of the gradient of {name}")  # torch would read what was freed
    check_storage(grad._values(), f"the values of the gradient of {name}")
    if places.numel() == 0:
        return
    for dimension, (low, high) in enumerate(zip(*(part.tolist() for part in places.aminmax(dim=1)), strict=True)):
        if low < 0 or high >= grad.shape[dimension]:
            raise ValueError(
                f"the gradient of {name}: got indices from {low} to {high} in dimension {dimension}, "
                f"needs them from 0 to {grad.shape[dimension] - 1}"
            )


def _step(optimizer: Making, slot: TensorSlot, group: dict[str, Any], grad: Tensor, zero: bool) -> None:
    rule = RULES[optimizer.rule]
    state = optimizer._all_states().get(slot.param, {})
    complete(optimizer, state, slot.like, group, slot.name)
    if state and slot.param not in optimizer._all_states():
        optimizer._all_states()[slot.param] = state
    whole = {kept.name: state[kept.name] for kept in rule.states if kept.name in state}
    step = int(state["step"]) if "step" in state else 0
    tensors = [slot.param.detach(), *whole.values()]
    rows = grad.sparse_dim() == 1 and all(t.dtype in PLAIN and t.is_contiguous() for t in tensors)
    group = group | {name: plain(group[name]) for name in rule.hypers}
    (_step_rows if rows else _step_elements)(optimizer, slot, group, grad, whole, step)
    slot.untouched.clear()
    if isinstance(state.get("step"), Tensor):
        state["step"] += 1
    elif rule.name == "sparse_adam":
        state["step"] = step + 1
    if zero:
        assert slot.param.grad is not None
        set_to_zero(slot.param.grad)


def _model(optimizer: Making, group: dict[str, Any], param: Any, states: dict[str, Any], step: int) -> _core.Model:
    """A native model of one parameter, for one step."""

    def check(number: int, name: str, value: Any) -> Any:
        return check_hyper(name, value, f'param_groups[..]["{name}"]', rule=optimizer.rule)

    model = _core.Model(optimizer.rule, check)
    model.configure(0.0, False, False, optimizer.seed)
    model.add_group(group)
    model.add(0, param, [states.get(kept.name) for kept in RULES[optimizer.rule].states], step=step)
    model.finish()
    return model


def _step_rows(
    optimizer: Making, slot: TensorSlot, group: dict[str, Any], grad: Tensor, whole: dict[str, Tensor], step: int
) -> None:
    """Step the rows where they lie; repeated ones are added up in the order in which they come."""
    rule = RULES[optimizer.rule]
    parts = slot.param.detach(), grad._values().resolve_conj().resolve_neg().contiguous()
    places = grad._indices()[0].contiguous()
    if places.numel() == 0:  # torch resizes what it adds to then, and cannot once an array was made of it
        parts, places = (parts[0], parts[1].clone()), places.clone()

    def check(index: int, rows: Any) -> Any:
        options = {name: group[name] for name in rule.hypers} | {"rounding": "nearest", "ema_decay": None}
        return check_row_gradient(rule, options, rows, f"{slot.name}.grad", param, None, states.items(), False)

    with quiet():
        param, values = (tensor.numpy() for tensor in parts)
        states = {name: tensor.numpy() for name, tensor in whole.items()}
        check_memory(slot.param, slot.name)
        for name, tensor in whole.items():
            check_memory(tensor, f"{slot.name} {name}")
        check_memory(parts[1], f"the gradient of {slot.name}")
        check_storage(places, f"the indices of the gradient of {slot.name}")
        model = _model(optimizer, group | {"rounding": "nearest"}, param, states, step)  # there is nothing to round
        model.set_row_check(check, SparseRows, rule.rows_without)
        model.step_list([SparseRows(places.numpy(), values)], 1.0)
    increment_versions([slot.param, *whole.values()])


def _step_elements(
    optimizer: Making, slot: TensorSlot, group: dict[str, Any], grad: Tensor, whole: dict[str, Tensor], step: int
) -> None:
    """Step copies of the elements that have a gradient: of any dtype and layout, and sparse in any dimensions."""
    grad = grad.coalesce()
    where, values = tuple(grad.indices()), grad.values().resolve_conj().resolve_neg().contiguous()
    parts = {name: tensor[where].contiguous() for name, tensor in whole.items()}
    param = slot.param.detach()
    part = param[where].contiguous()
    with quiet():
        states = {name: memory(tensor, f"{slot.name} {name}") for name, tensor in parts.items()}
        model = _model(optimizer, group, memory(part, slot.name), states, step)
        model.step_list([memory(values, f"{slot.name}.grad")], 1.0)
    param.index_put_(where, part)
    for name, tensor in whole.items():
        tensor.index_put_(where, parts[name])
