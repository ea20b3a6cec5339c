"""An optimizer's groups, parameters and states as the native model takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import _core
from .._hyper import check_hyper, check_hypers
from ..reference import RULES
from ._options import WATCHED, check_group, plain
from ._reading import exchange_table, field_functions
from ._states import (
    PARAMETERS,
    address,
    compute_dtype,
    convert,
    fresh,
    is_dense,
    is_small,
    is_stored_as,
    local,
    new_step,
    overlaps_itself,
)

if TYPE_CHECKING:
    from ._base import FusedOptimizer

__all__ = ["Slot", "build", "complete"]


@dataclass
class Slot:
    """A parameter and where its elements lie.

    Attributes
    ----------
    param
        The entry of its group.
    like
        What its states are shaped like: the parameter, or `work`.
    work
        A dense copy of a parameter with gaps between its elements, which takes the step in its place.
    name
        What messages call it.
    """

    param: Tensor
    like: Tensor
    work: Tensor | None
    name: str


def build(
    optimizer: FusedOptimizer, before: dict[int, tuple[int, list[float]]]
) -> tuple[_core.TensorModel, list[Slot]]:
    """Make the native model; parameters that have a gradient get their states.

    Parameters
    ----------
    optimizer
        Its groups and states are kept and read again at every step.
    before
        Exact step counts and scalar states by the identity of the parameter.

    Raises
    ------
    TypeError, ValueError
        A parameter or state that no step can be taken on.
    """
    rule, groups = optimizer.rule, optimizer.param_groups

    def check(group: int, name: str, value: Any) -> Any:
        return check_hyper(name, plain(value), f'param_groups[{group}]["{name}"]', rule=rule)

    def cross_check(group: int) -> None:
        values = {name: plain(groups[group][name]) for name in RULES[rule].hypers}
        check_hypers(rule, values, f'param_groups[{group}]["{{}}"]')

    model = _core.TensorModel(
        rule,
        check,
        cross_check,
        exchange_table(),
        torch.utils.dlpack.to_dlpack,  # type: ignore[attr-defined]
        field_functions(),
        WATCHED,
    )
    slots = []
    for number, group in enumerate(groups):
        check_group(rule, group, f'param_groups[{number}]["{{}}"]')
        model.add_group(group)
        model.set_rule(number, optimizer._rule_of(group))
        names = group.get("param_names") or [None] * len(group["params"])
        for i, (param, called) in enumerate(zip(group["params"], names, strict=True)):
            path = f"[{number}][{i}]" if called is None else f'["{called}"]'
            slot = _slot(param, "params" + path)
            _check_sharding(optimizer, slot)
            state = optimizer._all_states().get(param, {})
            begun = _has_begun(optimizer.rule, state, group)
            if param.grad is not None or optimizer.eager:
                complete(optimizer, state, slot.like, group)
                if state:
                    optimizer._all_states()[param] = state
            step, scalars = before.get(id(param), (0, []))
            # Where torch keeps no count, a step was taken if there is a state.
            _add(optimizer, model, slot, number, path, max(step, 1) if begun else 0, scalars)
            slots.append(slot)
    model.finish()
    model.changed = increment_version
    return model, slots


def _has_begun(rule: str, state: dict[str, Any], group: dict[str, Any]) -> bool:
    used = RULES[rule].used({name: plain(group[name]) for name in RULES[rule].hypers})
    return all(isinstance(state.get(kept.name), Tensor) for kept in used)


def _slot(param: Tensor, name: str) -> Slot:
    mine = local(param)
    if mine.device.type != "cpu":
        raise ValueError(
            f"{name} is on {mine.device}, needs the CPU; fusedstep.torch.CPUOffload steps on the CPU for parameters "
            "that live elsewhere"
        )
    if mine.layout is not torch.strided:
        raise TypeError(f"{name} is sparse ({mine.layout}), needs a dense tensor")
    if param.dtype not in PARAMETERS:
        raise TypeError(f"{name} has dtype {param.dtype}, needs one of {', '.join(str(d) for d in PARAMETERS)}")
    reach = sum(stride * (size - 1) for stride, size in zip(mine.stride(), mine.shape, strict=True)) + 1
    if mine.numel() and mine.untyped_storage().nbytes() < (mine.storage_offset() + reach) * mine.element_size():
        raise ValueError(f"the memory of {name} was freed or resized: it holds fewer bytes than the parameter needs")
    if is_dense(mine):
        return Slot(param, param, None, name)
    if mine is not param:
        raise ValueError(f"{name} is a distributed tensor whose local part has gaps, needs a dense one")
    if overlaps_itself(mine):
        raise ValueError(f"{name} is an expanded tensor: several of its elements share memory; needs one of its own")
    work = torch.empty_like(param.detach(), memory_format=torch.preserve_format).copy_(param.detach())
    return Slot(param, work, work, name)


def _check_sharding(optimizer: FusedOptimizer, slot: Slot) -> None:
    if local(slot.param) is slot.param:
        return
    for name in ("max_grad_norm", "skip_nonfinite"):
        if getattr(optimizer, name):
            raise ValueError(
                f"{name}: {slot.name} is a distributed tensor, of which this process sees only its own part; "
                "use torch.nn.utils.clip_grad_norm_, which knows them all"
            )
    if optimizer.needs_whole_tensors:
        raise ValueError(f"{slot.name} is a distributed tensor, of whose norm {optimizer.rule} needs all parts")


def _is_number(value: Any) -> bool:
    """Whether a step count or scalar is a tensor that the native step can read and write."""
    return (
        isinstance(value, Tensor)
        and value.numel() == 1
        and value.dtype in (torch.float32, torch.float64)
        and value.device.type == "cpu"
    )


def complete(optimizer: FusedOptimizer, state: dict[str, Any], like: Tensor, group: dict[str, Any]) -> None:
    """Give a parameter's state what is missing, and the format of the group what has another one."""
    rule = RULES[optimizer.rule]
    state_format, small = group["state_format"], is_small(like, group)
    counted = optimizer.counts_steps or group["rounding"] == "stochastic"
    step = state.get("step")
    if counted and not _is_number(step):
        state["step"] = new_step()
        if step is not None:
            state["step"].fill_(float(step))
    for kept in rule.used({name: plain(group[name]) for name in rule.hypers}):
        value, scales = state.get(kept.name), state.get(f"{kept.name}_scales")
        if value is None:
            made = fresh(like, kept.kind, state_format, small)
            first = optimizer._initial_state(kept.name, like, group)
            if isinstance(first, Tensor) or first != 0.0:
                plane = first if isinstance(first, Tensor) else _filled(like, first)
                made = convert(like, plane, None, kept.kind, state_format, small)
        elif is_stored_as(like, value, kept.kind, state_format, small):
            continue
        elif value.shape != like.shape or (value.dtype == torch.uint8) != (scales is not None):
            raise ValueError(
                f"the state {kept.name} has shape {tuple(value.shape)} and dtype {value.dtype}, needs shape "
                f"{tuple(like.shape)} and a float dtype, or 8-bit codes with their scales"
            )
        else:
            made = convert(like, value, scales, kept.kind, state_format, small)
        state.pop(f"{kept.name}_scales", None)
        if isinstance(made, tuple):
            state[kept.name], state[f"{kept.name}_scales"] = made
        else:
            state[kept.name] = made
    for name, number in zip(rule.scalars, optimizer._initial_scalars(group), strict=True):
        value = state.get(name)
        if not _is_number(value):
            state[name] = new_step().fill_(number if value is None else float(value))
    _complete_copies(state, like, group)


def _filled(like: Tensor, number: float) -> Tensor:
    """A parameter's shape with one number in every element; in both parts of complex ones, as torch does."""
    filling = complex(number, number) if like.is_complex() else number
    return torch.full_like(like.detach(), filling, dtype=compute_dtype(like), memory_format=torch.preserve_format)


def _complete_copies(state: dict[str, Any], like: Tensor, group: dict[str, Any]) -> None:
    """The master and the average, which begin as the parameter."""
    brief = like.dtype in (torch.float16, torch.bfloat16)
    master = group["master"] if brief else None
    if master == "split" and like.dtype != torch.bfloat16:
        raise TypeError(f"master: got 'split' for a parameter of {like.dtype}, needs torch.bfloat16")
    wanted = {}
    if master == "float32":
        wanted["master"] = torch.float32
    if group["ema_decay"] is not None:
        wanted["ema"] = compute_dtype(like)
    for name, dtype in wanted.items():
        value = state.get(name)
        if not isinstance(value, Tensor):
            value = like
        elif value.dtype == dtype and local(value).stride() == local(like).stride():
            continue
        state[name] = torch.empty_like(like.detach(), dtype=dtype, memory_format=torch.preserve_format)
        with torch.no_grad():
            state[name].copy_(value)
    if master == "split" and not isinstance(state.get("remainder"), Tensor):
        state["remainder"] = torch.zeros_like(like.detach(), dtype=torch.int16, memory_format=torch.preserve_format)


def _add(
    optimizer: FusedOptimizer,
    model: _core.TensorModel,
    slot: Slot,
    number: int,
    path: str,
    step: int,
    scalars: list[float],
) -> None:
    group, rule = optimizer.param_groups[number], RULES[optimizer.rule]
    state = optimizer._all_states().get(slot.param)
    param = address(slot.like)
    used = rule.used({name: plain(group[name]) for name in rule.hypers})
    inner = None if local(slot.param) is slot.param else "_local_tensor"
    if not state or not any(isinstance(value, Tensor) for value in state.values()):
        ready: dict[str, Any] | None = (
            {} if slot.param.grad is not None or optimizer.eager else None
        )  # a rule without states needs none
        model.add(number, param, [None] * len(rule.states), path=path, step=step)
        model.watch(slot.param, local(slot.like), inner, ready, [], None, [])
        return
    complete(optimizer, state, slot.like, group)
    names: list[str] = []
    states: list[Any] = []
    for kept in rule.states:
        if kept not in used:
            states.append(None)
            continue
        names.append(kept.name)
        if (scales := state.get(f"{kept.name}_scales")) is not None:
            names.append(f"{kept.name}_scales")
            states.append((address(state[kept.name]), address(scales)))
        else:
            states.append(address(state[kept.name]))
    names += [name for name in ("step", "master", "remainder", "ema", *rule.scalars) if name in state]
    whole = state.get("master") if group["master"] == "float32" else None
    model.add(
        number,
        param if whole is None else address(whole),
        states,
        path=path,
        copy=None if whole is None else param,
        remainder=address(state["remainder"]) if "remainder" in state else None,
        stochastic=group["rounding"] == "stochastic" and group["master"] is None,
        ema=address(state["ema"]) if group["ema_decay"] is not None else None,
        step=step,
        scalars=scalars or [float(state[name]) for name in rule.scalars],
    )
    numbers = [state[name] for name in rule.scalars]
    counted = state["step"] if isinstance(state.get("step"), Tensor) else None
    model.watch(slot.param, local(slot.like), inner, state, names, counted, numbers)
