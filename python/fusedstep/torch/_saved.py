"""The saved state of one parameter: how it is written, and how it is read back, checked and converted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import formats
from .._arguments import number as one_number
from .._held import check_held
from .._names import needs
from .._pieces import BLOCK_8BIT
from .._stored import Stored
from ..reference import RULES, Rule
from ._building import complete
from ._making import Making
from ._options import plain
from ._states import check_tensor, convert, is_small, local, new_step, ordinary, state_like, whole_number

__all__ = ["converted", "packed", "without"]

COUNT = "steps_taken"  # the name of "step" beside 8-bit codes, for which torch's classes look in vain


# ---- writing ----


def packed(
    optimizer: Making, param: Tensor, group: dict[str, Any], state: dict[str, Any], state_format: str | None
) -> dict[str, Any]:
    """A parameter's state as it is saved.

    With a `state_format`, all states are converted to it. States in 8 bits and their step count get names of their own,
    so that no class of torch's takes the codes for numbers. SGD of torch needs no count and starts anew without a
    state: it is given codes of a dtype that it cannot convert.
    """
    if state_format is None and not any(name.endswith("_scales") for name in state):
        return state
    out = dict(state)
    for kept in RULES[optimizer._rule_of(group)].states:
        value, scales = out.get(kept.name), out.pop(f"{kept.name}_scales", None)
        if not isinstance(value, Tensor):
            continue
        if state_format is not None:
            like = torch.empty_like(value, dtype=param.dtype)
            new = convert(like, value, scales, kept.kind, state_format, is_small(param, group))
            out[kept.name], scales = new if isinstance(new, tuple) else (new, None)
        if scales is None:
            continue
        out[f"{kept.name}_scales"] = scales
        if not optimizer.counts_steps and local(value) is value:
            out[kept.name] = out[kept.name].view(torch.bits8)
        else:
            out[f"{kept.name}_codes"] = out.pop(kept.name)
            if "step" in out:
                out[COUNT] = out.pop("step")
    return out


def without(state: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A state without some entries, and their scales."""
    if not names:
        return state
    dropped = {*names, *(f"{name}_scales" for name in names)}
    return {name: value for name, value in state.items() if name not in dropped}


# ---- reading ----


@ordinary
def converted(optimizer: Making, param: Tensor, group: dict[str, Any], saved: Any, where: str) -> dict[str, Any]:
    """A copy of one parameter's saved state in the formats of its group.

    Raises
    ------
    TypeError, ValueError
        An entry of the wrong kind, dtype or shape, or a step count that is none.
    """
    needs(saved, Mapping, where, "a dict")
    rule = RULES[optimizer._rule_of(group)]
    kinds = {state.name for state in rule.states}
    state: dict[str, Any] = {}
    coded = {f"{kind}{ending}" for kind in kinds for ending in ("_codes", "_scales")}
    left_out = coded | {"master", "remainder", "ema"}  # torch.distributed.checkpoint puts {} for what a flat dict lacks
    empty = {name for name in left_out & saved.keys() if isinstance(saved[name], dict) and not saved[name]}
    saved = {name: None if name in empty else value for name, value in saved.items()}
    for name in coded & saved.keys():
        if name.endswith("_codes") and saved[name] is not None:
            saved = {**saved, name.removesuffix("_codes"): saved[name]}
    for name, value in saved.items():
        place = f'{where}["{name}"]'
        check_held(value, place)
        if value is None or name in coded:
            continue
        if name in kinds:
            scales = saved.get(f"{name}_scales")
            state[name] = _values(_beside(rule, name, param, group, place), value, place, codes=scales is not None)
            if scales is not None:
                state[f"{name}_scales"] = _scales(param, scales, f'{where}["{name}_scales"]')
        elif name in ("step", COUNT):
            count = whole_number(value, place)
            state["step"] = _tensor(value, place).clone() if isinstance(value, Tensor) else new_step().fill_(count)
        elif name in rule.scalars:
            state[name] = one_number(place, value)
        elif name in ("master", "ema"):
            state[name] = _values(param, value, place)
        elif name == "remainder":
            state[name] = _remainder(param, value, place)
        elif isinstance(value, Tensor):  # nothing of this rule's: of any kind, also one without memory
            state[name] = value.detach().clone()
        else:
            state[name] = _tensor(value, place) if isinstance(value, Stored) else deepcopy(value)
    if any(isinstance(value, Tensor) for value in state.values()):
        try:
            like = optimizer._make_slot(param, where).like
            if rule.factored:  # as a step has it: see _contiguous()
                like = like.contiguous()
        except (TypeError, ValueError):
            if param.requires_grad:
                raise
            return state  # of a parameter that was frozen and turned into something else
        _change_master(state, param, group)
        complete(optimizer, state, like, group, where)
    return state


def _beside(rule: Rule, name: str, param: Tensor, group: dict[str, Any], where: str) -> Tensor:
    """What a state of this name is shaped like."""
    state = next(state for state in rule.states if state.name == name)
    hypers = {name: plain(group[name]) for name in rule.hypers}
    if state.shape(tuple(param.shape), hypers, where) is None:
        needed = ", ".join(kept.name for kept in rule.used(hypers, tuple(param.shape)))
        raise ValueError(f"{where}: got a state for another shape, needs {needed} for shape {tuple(param.shape)}")
    return state_like(state, param, hypers)


def _tensor(value: Any, where: str) -> Tensor:
    """A tensor, or an array as one, read if it is in a file."""
    if isinstance(value, Stored):
        value = value.read()
    if isinstance(value, Tensor):
        check_tensor(value, where)
        return value.detach()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.array(value, order="C")
        try:
            if formats.is_bfloat16(array.dtype) or array.dtype == np.dtype("V2"):  # np.save knows no bfloat16
                return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
        except TypeError:
            raise TypeError(f"{where}: got {array.dtype}, needs a float dtype") from None
    raise TypeError(f"{where}: got {type(value).__name__}, needs a tensor")


def _copied(param: Tensor, tensor: Tensor, where: str) -> Tensor:
    """A copy on the host of a tensor that has the parameter's shape."""
    if tensor.shape != param.shape:
        raise ValueError(f"{where}: got shape {tuple(tensor.shape)}, needs {tuple(param.shape)}")
    return tensor.clone() if local(tensor) is not tensor else tensor.to("cpu", copy=True)


def _values(param: Tensor, value: Any, where: str, codes: bool = False) -> Tensor:
    tensor = _tensor(value, where)
    if codes:
        if tensor.dtype == torch.bits8:
            tensor = tensor.view(torch.uint8)
        if tensor.dtype != torch.uint8:
            raise TypeError(f"{where}: got {tensor.dtype} with scales, needs torch.uint8 codes")
    elif not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_complex() > param.is_complex():
        raise TypeError(f"{where}: got {tensor.dtype}, needs a float dtype, or codes with their scales")
    return _copied(param, tensor, where)


def _scales(param: Tensor, value: Any, where: str) -> Tensor:
    tensor, blocks = _tensor(value, where), -(-local(param).numel() // BLOCK_8BIT)
    if not tensor.is_floating_point():
        raise TypeError(f"{where}: got {tensor.dtype}, needs a float dtype")
    if tensor.numel() != blocks:
        raise ValueError(f"{where}: got {tensor.numel()} elements, needs {blocks}, one for {BLOCK_8BIT} codes")
    return tensor.to("cpu", torch.float32, copy=True).reshape(-1).contiguous()


def _remainder(param: Tensor, value: Any, where: str) -> Tensor:
    tensor = _tensor(value, where)
    if tensor.dtype != torch.int16:
        raise TypeError(f"{where}: got {tensor.dtype}, needs torch.int16")
    return _copied(param, tensor, where)


def _change_master(state: dict[str, Any], param: Tensor, group: dict[str, Any]) -> None:
    """Turn one kind of master into the other, and drop what the group has no use for."""
    wanted = group["master"] if param.dtype in (torch.float16, torch.bfloat16) else None
    if local(param) is param and param.dtype == torch.bfloat16:
        bits = param.detach().to("cpu", copy=True).contiguous().view(torch.int16).numpy()
        if wanted == "float32" and "master" not in state and "remainder" in state:
            state["master"] = torch.from_numpy(formats.join(bits, state["remainder"].contiguous().numpy()))
        elif wanted == "split" and "remainder" not in state and "master" in state:
            high, low = formats.split(state["master"].float().contiguous().numpy())
            # Halfway between two bfloat16 the two kinds of master have different ones.
            state["remainder"] = torch.from_numpy(np.where(high == bits.view(np.uint16), low, 0).astype(np.int16))
    if wanted != "float32":
        state.pop("master", None)
    if wanted != "split":
        state.pop("remainder", None)
    if group["ema_decay"] is None:
        state.pop("ema", None)
