"""An optimizer's groups, parameters and states as the native model takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from .. import _core
from .._arguments import escaped
from .._arguments import number as one_number
from .._hyper import check_hyper, check_hypers
from ..reference import RULES, State
from ._data_parallel import check_flat
from ._directions import check_matrix
from ._making import Making
from ._options import WATCHED, check_group, plain
from ._parts import check_placements
from ._reading import memory, quiet, reader
from ._slots import TensorSlot
from ._states import (
    check_tensor,
    compute_dtype,
    convert,
    fresh,
    holds_values,
    increment_versions,
    is_small,
    is_stored_as,
    local,
    new_step,
    ordinary,
    state_like,
    whole_number,
)

__all__ = ["build", "complete", "named"]


def build(
    optimizer: Making, before: dict[int, tuple[int, list[float], dict[str, ref[Tensor]]]]
) -> tuple[_core.Model, _core.TorchModel, list[TensorSlot]]:
    """Make the native model, and the one that has it step tensors; parameters that have a gradient get their states.

    Parameters
    ----------
    optimizer
        Its groups and states are kept and read again at every step.
    before
        Exact step counts, scalar states and `TensorSlot.untouched` by the identity of the parameter.

    Raises
    ------
    TypeError, ValueError
        A parameter or state that no step can be taken on.
    """
    groups, states = optimizer.param_groups, optimizer._all_states()
    rules = [optimizer._rule_of(group) for group in groups]
    nothing = torch.empty(0, device="cpu")  # whatever the default device is

    def check(group: int, name: str, value: Any) -> Any:
        where = f'param_groups[{group}]["{name}"]'
        return check_hyper(name, plain(value, where), where, rule=rules[group])

    def cross_check(group: int) -> None:
        names, where = (*RULES[rules[group]].hypers, "cautious"), f'param_groups[{group}]["{{}}"]'
        values = {name: plain(groups[group][name], where.format(name)) for name in names}
        check_hypers(rules[group], values, where)

    model = _core.Model(optimizer.rule, check, cross_check)
    tensors = _core.TorchModel(model, reader(), WATCHED)
    for number, group in enumerate(groups):
        check_group(rules[number], group, f'param_groups[{number}]["{{}}"]')
        model.add_group(group, rules[number])
    check_flat(groups, rules, optimizer._settings)
    slots = list(_slots(optimizer, nothing))
    directions = optimizer._directions(slots)
    if directions is not None:
        model.set_product(directions)
    for i, slot in enumerate(slots):
        param, group, rule = slot.param, groups[slot.group], RULES[rules[slot.group]]
        direction = None if directions is None else directions.like(i, slot.like)
        if not slot.used:  # it keeps its number, and whatever it is does not matter
            empty = memory(nothing, slot.name)
            model.add(slot.group, empty, [None] * len(rule.states), path=slot.path, direction=empty)
            tensors.watch(param, nothing)
            continue
        state = states.get(param, {})
        used = rule.used({name: plain(group[name]) for name in rule.hypers}, tuple(slot.like.shape), slot.name)
        kept = [state.name for state in used]
        step, scalars, untouched = before.get(id(param), (0, [], {}))
        # Where torch keeps no count, a step was taken if there is a state, other than one made for the first.
        begun = all(isinstance(state.get(name), Tensor) for name in kept)
        if begun and step == 0 and kept and all(name in untouched for name in kept):
            begun = any(untouched[name]() is not state[name] for name in kept)
        complete(optimizer, state, slot.like, group, slot.name)
        if state and param not in states:
            states[param] = state
        if kept:
            step = max(step, 1) if begun else 0
        scalars = scalars or [float(state[name]) for name in rule.scalars if state]
        with quiet():
            _add(optimizer, model, tensors, slot, used, step, scalars, direction)
        if not begun:
            slot.untouched = {name: ref(state[name]) for name in kept if name in state}
    tensors.finish()
    tensors.changed = increment_versions
    return model, tensors, slots


def _slots(optimizer: Making, nothing: Tensor) -> Iterator[TensorSlot]:
    """The slots of all parameters."""
    states = optimizer._all_states()
    for number, group in enumerate(optimizer.param_groups):
        for param, name in named(group, number):
            slot = _used_slot(optimizer, param, group, states.get(param, {}), name)
            slot = slot or TensorSlot(param, nothing, None, name, used=False)
            slot.group = number
            yield slot


def named(group: dict[str, Any], number: int) -> Iterator[tuple[Tensor, str]]:
    """The parameters of a group, each with what messages call it."""
    names = group.get("param_names") or ()
    if len(names) != len(group["params"]):  # parameters were put in or taken out by hand
        names = [None] * len(group["params"])
    for i, (param, called) in enumerate(zip(group["params"], names, strict=True)):
        yield param, f"params[{number}][{i}]" if called is None else escaped(f'params["{called}"]')


def _used_slot(
    optimizer: Making, param: Tensor, group: dict[str, Any], state: dict[str, Any], name: str
) -> TensorSlot | None:
    """The slot of a parameter that has a gradient, or had one; None for others, and if no step could be taken on it."""
    active = optimizer._is_active(param)
    if not active and not any(isinstance(value, Tensor) for value in state.values()):
        return None
    try:
        slot = optimizer._make_slot(param, name)
        rule = optimizer._rule_of(group)
        if local(param) is not param:
            check_placements(rule, param, slot.name)
        if RULES[rule].matrices:
            check_matrix(slot.like, group["reshape"], name)
        if RULES[rule].factored:
            slot = _contiguous(slot, rule)
    except (TypeError, ValueError):
        if active:
            raise
        return None
    return slot


def _contiguous(slot: TensorSlot, rule: str) -> TensorSlot:
    """The slot of a parameter whose rows and columns are summed; a contiguous copy takes the step if it is none."""
    if slot.like.is_complex():
        raise TypeError(f"{slot.name}: got {slot.like.dtype}, needs a real dtype for {rule}")
    if slot.like.is_contiguous():
        return slot
    with torch.inference_mode(False), torch.no_grad():
        work = slot.like.detach().clone(memory_format=torch.contiguous_format)
    return TensorSlot(slot.param, work, work, slot.name)


def _is_number(value: Any) -> bool:
    """Whether a step count or scalar is a tensor that the native step can read and write."""
    return (
        isinstance(value, Tensor)
        and value.numel() == 1
        and value.dtype in (torch.float32, torch.float64)
        and value.device.type == "cpu"
    )


@ordinary
def complete(optimizer: Making, state: dict[str, Any], like: Tensor, group: dict[str, Any], name: str) -> None:
    """Give a parameter's state what is missing, and the format of the group what has another one.

    Raises
    ------
    TypeError, ValueError
        A state that does not fit the parameter, which messages call `name`.
    """
    rule = RULES[optimizer._rule_of(group)]
    state_format, small = group["state_format"], is_small(like, group)
    counted = optimizer._has_count(group) or group["rounding"] == "stochastic"
    step = state.get("step")
    if counted and not _is_number(step):
        state["step"] = new_step()
        if step is not None:
            state["step"].fill_(whole_number(step, f"{name} step"))
    param, shape = like, tuple(like.shape)
    hypers = {name: plain(group[name]) for name in rule.hypers}
    for kept in rule.states:
        if kept.shape(shape, hypers, name) is None and (value := state.get(kept.name)) is not None:
            check_tensor(value, f"{name} {kept.name}")
            raise _other_shape(name, kept.name, param, value, "none of that name")
    for kept in rule.used(hypers, shape):
        like = state_like(kept, param, hypers)
        value, scales = state.get(kept.name), state.get(f"{kept.name}_scales")
        if value is not None:
            check_tensor(value, f"{name} {kept.name}")
        if value is None:
            made = fresh(like, kept.kind, state_format, small)
            first = optimizer._initial_state(kept.name, param, group)
            if isinstance(first, Tensor) or first != 0.0:
                plane = first if isinstance(first, Tensor) else _filled(like, first)
                made = convert(like, plane, None, kept.kind, state_format, small)
        elif is_stored_as(like, value, kept.kind, state_format, small):
            continue
        elif value.shape != like.shape:
            raise _other_shape(name, kept.name, param, value, f"shape {tuple(like.shape)}")
        elif (value.dtype == torch.uint8) != (scales is not None):
            raise ValueError(
                f"{name} {kept.name}: got {value.dtype} with{'' if scales is not None else 'out'} scales, needs a "
                "float dtype, or 8-bit codes with their scales"
            )
        else:
            made = convert(like, value, scales, kept.kind, state_format, small)
        state.pop(f"{kept.name}_scales", None)
        if isinstance(made, tuple):
            state[kept.name], state[f"{kept.name}_scales"] = made
        else:
            state[kept.name] = made
    for scalar, start in zip(rule.scalars, optimizer._initial_scalars(group), strict=True):
        value = state.get(scalar)
        if not _is_number(value):
            first_one = start if value is None else one_number(f"{name} {scalar}", value)
            # In float64, as the step computes it: torch's float32 would resume with other bits.
            state[scalar] = torch.tensor(first_one, dtype=torch.float64, device="cpu")
    _complete_copies(state, param, group, name)


def _other_shape(name: str, state: str, param: Tensor, value: Tensor, needed: str) -> ValueError:
    """The error for a state that was made for a parameter of another shape."""
    return ValueError(
        f"{name}: got shape {tuple(param.shape)} now, and its state {state} has shape {tuple(value.shape)} from "
        f"before, needs {needed}; set .data to a tensor of the shape before, or "
        "del optimizer.state[param] to begin its states anew"
    )


def _filled(like: Tensor, number: float) -> Tensor:
    """A parameter's shape with one number in every element; in both parts of complex ones, as torch does."""
    filling = complex(number, number) if like.is_complex() else number
    return torch.full_like(like.detach(), filling, dtype=compute_dtype(like), memory_format=torch.preserve_format)


def _complete_copies(state: dict[str, Any], like: Tensor, group: dict[str, Any], where: str) -> None:
    """The master and the average, which begin as the parameter."""
    is_half = like.dtype in (torch.float16, torch.bfloat16)
    master = group["master"] if is_half else None
    if master == "split" and like.dtype != torch.bfloat16:
        raise TypeError(f"{where}: got {like.dtype} with master='split', needs torch.bfloat16")
    wanted = {}
    if master == "float32":
        wanted["master"] = torch.float32
    if master == "split":
        wanted["remainder"] = torch.int16
    if group["ema_decay"] is not None:
        wanted["ema"] = compute_dtype(like)
    for name, dtype in wanted.items():
        value = state.get(name)
        if value is not None:
            check_tensor(value, f"{where} {name}")
            if value.shape != like.shape:
                raise _other_shape(where, name, like, value, f"shape {tuple(like.shape)}")
            if name == "remainder" and value.dtype != dtype:
                raise TypeError(f"{where} {name}: got {value.dtype}, needs {dtype}")
            lies = local(value).stride() == local(like).stride()
            if value.dtype == dtype and lies and holds_values(local(value)):
                continue
        made = torch.zeros_like(like.detach(), dtype=dtype, memory_format=torch.preserve_format)
        if value is not None or name != "remainder":
            with torch.no_grad():
                made.copy_(like if value is None else value)
        state[name] = made


def _add(
    optimizer: Making,
    model: _core.Model,
    tensors: _core.TorchModel,
    slot: TensorSlot,
    used: Collection[State],
    step: int,
    scalars: list[float],
    direction: Tensor | None,
) -> None:
    """Add a parameter whose state is complete."""
    number, path, group = slot.group, slot.path, optimizer.param_groups[slot.group]
    rule = RULES[optimizer._rule_of(group)]
    state = optimizer._all_states().get(slot.param)
    param = memory(slot.like, slot.name)
    inner = None if local(slot.param) is slot.param else "_local_tensor"
    if not state or not any(isinstance(value, Tensor) for value in state.values()):
        model.add(number, param, [None] * len(rule.states), path=path, step=step)
        tensors.watch(slot.param, local(slot.like), inner=inner, state={})  # a rule without states needs none
        return

    def stored(name: str) -> _core.Memory:
        return memory(state[name], f"{slot.name} {name}")

    names: list[str] = []
    states: list[Any] = []
    for kept in rule.states:
        if kept not in used:
            states.append(None)
            continue
        names.append(kept.name)
        if state.get(f"{kept.name}_scales") is not None:
            names.append(f"{kept.name}_scales")
            states.append((stored(kept.name), stored(f"{kept.name}_scales")))
        else:
            states.append(stored(kept.name))
    names += [n for n in ("step", "master", "remainder", "ema", *rule.scalars) if isinstance(state.get(n), Tensor)]
    has_master = group["master"] == "float32" and state.get("master") is not None
    master = "master" if has_master else "remainder" if "remainder" in state else None
    model.add(
        number,
        param,
        states,
        path=path,
        master=None if master is None else stored(master),
        stochastic=group["rounding"] == "stochastic",
        ema=stored("ema") if group["ema_decay"] is not None else None,
        direction=None if direction is None else memory(direction, f"{slot.name} direction"),
        step=step,
        scalars=scalars,
    )
    numbers = [state[name] for name in rule.scalars]
    counted = state["step"] if isinstance(state.get("step"), Tensor) else None
    tensors.watch(
        slot.param,
        local(slot.like),
        inner=inner,
        state=state,
        names=names,
        step=counted,
        scalars=numbers,
        direction=direction,
    )
