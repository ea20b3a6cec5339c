"""Gradients that do not lie in memory as their parameters do: what is wrong with them, or a copy that fits."""

from __future__ import annotations

import torch
from torch import Tensor

from ._slots import check_memory
from ._states import local

__all__ = ["check_gradient", "fitting_copy"]


def fitting_copy(param: Tensor, like: Tensor, name: str) -> Tensor:
    """A copy of a parameter's gradient in the order of memory of `like`.

    Parameters
    ----------
    param
        The parameter, with a gradient.
    like
        The tensor whose strides the copy gets: the parameter, or its dense copy.
    name
        What to call the parameter in messages.

    Raises
    ------
    TypeError
        A gradient of a dtype that is wider than the parameter's.
    ValueError
        A gradient on another device or of another shape, or without memory.
    """
    grad = param.grad
    assert grad is not None
    check_gradient(param, grad, name)
    placements = getattr(param, "placements", None)
    if placements is not None and getattr(grad, "placements", None) != placements:
        grad = grad.redistribute(placements=placements)  # type: ignore[attr-defined]
    mine = _own(grad)
    if mine.device.type != "cpu":
        raise ValueError(f"the gradient of {name}: got a tensor on {mine.device}, needs one on the CPU")
    out = torch.empty_like(local(like).detach(), dtype=grad.dtype, memory_format=torch.preserve_format)
    return out.copy_(mine)


def check_gradient(param: Tensor, grad: Tensor, name: str) -> None:
    """Check that a dense gradient has its parameter's shape, a dtype that fits it, and memory."""
    if grad.shape != param.shape:
        raise ValueError(f"the gradient of {name}: got shape {tuple(grad.shape)}, needs {tuple(param.shape)}")
    narrow = {torch.float16, torch.bfloat16, torch.float32}
    fits = grad.dtype == param.dtype or (grad.dtype in narrow and param.dtype in narrow | {torch.float64})
    if not fits:
        raise TypeError(f"the gradient of {name}: got dtype {grad.dtype}, needs {param.dtype} or a narrower one")
    check_memory(_own(grad), f"the gradient of {name}")


def _own(grad: Tensor) -> Tensor:
    """This process's part of a gradient, once it is there: a collective that makes it may still be under way."""
    mine = local(grad)
    return mine.wait() if hasattr(mine, "wait") else mine
