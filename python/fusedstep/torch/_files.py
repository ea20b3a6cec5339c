"""Optimizers of torch's tensors in files: `.safetensors` and `.npz`, as the package's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..files._reading import Opened
from ..files._writing import Saving
from ..files._writing import save as write
from ._states import local

__all__ = ["load", "save"]


def save(state: dict[str, Any], path: str | os.PathLike[str], keep: int, background: bool) -> Saving | None:
    """Write a state dict, as `FusedOptimizer.save` does."""
    names = {}
    for group in state["param_groups"]:
        given = group.get("param_names") or [None] * len(group["params"])
        for number, name in zip(group["params"], given, strict=True):
            where = f"[{number}]" if name is None else f'["{name}"]'
            names["optimizer", "state", number] = f"optimizer{where}"
    return write(path, {"optimizer": _arrays(state, "optimizer")}, names, keep=keep, background=background)


def load(path: str | os.PathLike[str], take: Callable[[Any], None]) -> None:
    """Read a state dict, as `FusedOptimizer.load` does, and hand it to `take`, whose errors then name the file."""
    with Opened(path) as file, file.named():
        state = file.tree("optimizer")
        if isinstance(state, dict) and isinstance(groups := state.get("param_groups"), list):
            for group in groups:  # a learning rate may be a tensor
                for name, value in group.items() if isinstance(group, dict) else ():
                    if isinstance(value, np.ndarray):
                        group[name] = torch.from_numpy(value)
        take(state)


def _arrays(value: Any, where: str) -> Any:
    """The memory of tensors as arrays, in the same nesting."""
    if isinstance(value, dict):
        return {key: _arrays(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_arrays(entry, f"{where}[{i}]") for i, entry in enumerate(value))
    if not isinstance(value, Tensor):
        return value
    if local(value) is not value or value.layout is not torch.strided:
        raise TypeError(f"{where}: got a part of a tensor, needs whole ones; torch.distributed.checkpoint saves parts")
    if value.is_meta:
        raise ValueError(f"{where}: got a tensor on meta, needs one with memory")
    tensor = value.detach().cpu()
    if tensor.dtype == torch.bits8:
        return tensor.view(torch.uint8).numpy()
    return tensor.view(torch.int16).numpy().view("V2") if tensor.dtype == torch.bfloat16 else tensor.numpy()
