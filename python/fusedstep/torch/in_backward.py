"""A step on each parameter as soon as its gradient is there, so that gradients need not all exist at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import torch

from ..reference import RULES
from ._base import FusedOptimizer

__all__ = ["apply_in_backward"]

AnyOptimizer = TypeVar("AnyOptimizer", bound=FusedOptimizer)


def apply_in_backward(
    params: torch.nn.Module | Iterable[Any], optimizer_class: type[AnyOptimizer], **options: Any
) -> AnyOptimizer:
    """Let ``backward()`` update every parameter as its gradient arrives and free the gradient.

    No more than the gradients of a layer or two are in memory at any time. ``zero_grad`` and ``step`` have nothing left
    to do, but may be called: a training loop works with or without them. Parameter groups, learning-rate schedulers and
    state dicts are those of the optimizer that is returned.

    Parameters
    ----------
    params
        A module, or what the optimizer takes.
    optimizer_class
        One of this package's optimizers for torch.
    **options
        Its arguments.

    Returns
    -------
    FusedOptimizer
        The optimizer. It must be kept: when it is deleted, ``backward()`` leaves gradients as it did before.

    Raises
    ------
    TypeError
        `optimizer_class` is not one of this package's.
    ValueError
        `max_grad_norm`, `skip_nonfinite` or `Prodigy`, which need the gradients of the whole model before the first
        step.

    Notes
    -----
    A backward pass is a step, so gradients cannot be accumulated over several of them; a parameter that is used in
    several places still gets one step with its whole gradient.

    Examples
    --------
    >>> import torch
    >>> from fusedstep.torch import AdamW, apply_in_backward
    >>> model = torch.nn.Linear(2, 1)
    >>> opt = apply_in_backward(model, AdamW, lr=1e-3)
    >>> model(torch.ones(4, 2)).sum().backward()
    >>> model.weight.grad is None
    True
    """
    if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, FusedOptimizer)):
        raise TypeError(f"optimizer_class: got {optimizer_class!r}, needs an optimizer class of fusedstep.torch")
    for name in ("max_grad_norm", "skip_nonfinite"):
        if options.get(name):
            raise ValueError(
                f"{name}: got {options[name]!r}, needs to be left out; it takes all gradients at once, of which each "
                "is used and freed as it arrives"
            )
    given = params.parameters() if isinstance(params, torch.nn.Module) else params
    optimizer = optimizer_class(given, **options)
    if RULES[optimizer.rule].whole:  # no other optimizer has a group of such a rule
        raise ValueError(
            f"optimizer_class: got {optimizer_class.__name__}, needs another rule; it takes all gradients at once, of "
            "which each is used and freed as it arrives"
        )
    optimizer.eager = True  # or every first gradient would have the native model made anew
    for group in optimizer.param_groups:
        optimizer._hook(group["params"])
    return optimizer
