"""A parameter and where its elements lie: in its own memory, or in a copy that takes the step in its place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .._bounds import overlaps_itself
from .._held import check_storage
from ._states import PARAMETERS, holds_values, is_dense, local

__all__ = ["TensorSlot", "check_initialized", "check_memory", "check_places", "make_slot"]


@dataclass
class TensorSlot:
    """An optimizer's entry for one parameter, and where its elements lie.

    Attributes
    ----------
    param
        The entry of its group.
    like
        What its states are shaped like: the parameter, or `work`; an empty tensor where there is nothing to step.
    work
        A dense copy on the host that takes the step in the parameter's place: of a parameter with gaps between its
        elements, of a conjugate or negative view, or on an accelerator.
    name
        What messages call it.
    group
        Number of its group.
    untouched
        Weak references to the states of zeros that it was given and that count for none before a step, where torch
        keeps no count, by name.
    used
        Whether there is anything to step: it has a gradient, or had one.
    """

    param: Tensor
    like: Tensor
    work: Tensor | None
    name: str
    group: int = 0
    untouched: dict[str, ref[Tensor]] = field(default_factory=dict)
    used: bool = True

    @property
    def path(self) -> str:
        """Where the parameter is among all."""
        return self.name.removeprefix("params")


def make_slot(param: Tensor, name: str) -> TensorSlot:
    """The slot of a parameter that the step is taken on where it lies, or on a dense copy if it has gaps.

    Raises
    ------
    TypeError, ValueError
        No step can be taken on it.
    """
    mine = local(param)
    if mine.device.type != "cpu":
        raise ValueError(
            f"{name}: got a tensor on {mine.device}, needs one on the CPU; fusedstep.torch.CPUOffload steps "
            "on the CPU for parameters that live elsewhere"
        )
    if mine.layout is not torch.strided:
        raise TypeError(f"{name}: got a sparse tensor ({mine.layout}), needs a dense one")
    check_memory(mine, name)
    if is_dense(mine) and holds_values(mine) and not param.is_inference():
        return TensorSlot(param, param, None, name)
    if mine is not param:
        raise ValueError(
            f"{name}: got a distributed tensor whose local part has gaps, or is a conjugate view, needs a dense one"
        )
    check_places(mine, name)
    with torch.inference_mode(False), torch.no_grad():
        work = torch.empty_like(param.detach(), memory_format=torch.preserve_format).copy_(param.detach())
    return TensorSlot(param, work, work, name)


def check_initialized(param: Any, name: str) -> None:
    """Check that a parameter has a shape yet, as those of lazy modules do after a first call."""
    if is_lazy(param):
        raise ValueError(f"{name}: got {type(param).__name__}, needs one with a shape; call the module once before")


def check_places(tensor: Tensor, name: str) -> None:
    """Check that every element of what a step writes has memory of its own."""
    if overlaps_itself(tensor.stride(), tensor.shape):
        raise ValueError(
            f"{name}: got an expanded tensor, several of whose elements share memory, needs one of its own"
        )


def check_memory(tensor: Tensor, name: str) -> None:
    """Check a parameter's dtype, and that its memory is there."""
    if tensor.dtype not in PARAMETERS:
        raise TypeError(f"{name}: got dtype {tensor.dtype}, needs one of {', '.join(str(d) for d in PARAMETERS)}")
    check_storage(tensor, name)
