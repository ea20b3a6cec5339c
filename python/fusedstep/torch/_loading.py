"""State dicts, this package's and torch's, into an optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._saving import STORAGE
from ..reference import RULES
from ._building import complete
from ._options import check_group
from ._states import States, is_dense, local

if TYPE_CHECKING:
    from ._base import FusedOptimizer

__all__ = ["load"]


def load(optimizer: FusedOptimizer, state_dict: dict[str, Any]) -> None:
    """What ``load_state_dict`` does: check and convert everything, then put it in place."""
    state_dict = dict(state_dict)
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        if (changed := pre_hook(optimizer, state_dict)) is not None:
            state_dict = changed
    groups, saved_groups = optimizer.param_groups, deepcopy(state_dict["param_groups"])
    if len(groups) != len(saved_groups):
        raise ValueError(
            "loaded state dict has a different number of parameter groups: "
            f"got {len(saved_groups)}, needs {len(groups)}"
        )
    merged: list[dict[str, Any]] = []
    state = States()
    params: dict[Any, tuple[Tensor, dict[str, Any]]] = {}
    for i, (group, saved) in enumerate(zip(groups, saved_groups, strict=True)):
        if len(group["params"]) != len(saved["params"]):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {i} has {len(saved['params'])} parameters, needs {len(group['params'])}"
            )
        kept = {key: group[key] for key in ("params", "param_names", *STORAGE) if key in group}
        if "param_names" in saved:
            kept.pop("param_names", None)
        new = {**{name: group[name] for name in optimizer._own if name in group}, **saved, **kept}
        check_group(optimizer.rule, new, f'state_dict["param_groups"][{i}]["{{}}"]')
        merged.append(new)
        params.update(zip(saved["params"], ((param, new) for param in group["params"]), strict=True))
    for key, values in state_dict["state"].items():
        if key not in params:
            state[key] = values
            continue
        param, group = params[key]
        state[param] = _converted(optimizer, param, group, values, f'state_dict["state"][{key!r}]')

    optimizer.__setstate__({"state": state, "param_groups": merged})
    optimizer._expose(False)  # all tensors are copies that nobody else has
    own = state_dict.get("fusedstep", {})
    optimizer.skipped_steps = int(own.get("skipped_steps", optimizer.skipped_steps))
    optimizer._settings = optimizer._settings | {k: own[k] for k in optimizer._settings if k in own}
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _converted(
    optimizer: FusedOptimizer, param: Tensor, group: dict[str, Any], values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """A copy of one parameter's state in the formats of its group."""
    kinds = {state.name for state in RULES[optimizer.rule].states}
    state: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            if value is not None:
                state[name] = deepcopy(value)
            continue
        if name in kinds | {"master", "remainder", "ema"} and value.shape != param.shape:
            raise ValueError(f'{where}["{name}"] has shape {tuple(value.shape)}, needs {tuple(param.shape)}')
        on_cpu = name == "step" or name.endswith("_scales") or value is not local(value)
        state[name] = value.detach().clone() if on_cpu else value.detach().to(local(param).device, copy=True)
    if any(isinstance(value, Tensor) for value in state.values()):
        like = param if is_dense(local(param)) else torch.empty_like(param.detach())
        complete(optimizer, state, like, group)
    return state
