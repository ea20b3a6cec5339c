"""The optimizers of ``torch.optim`` that this package has, with their constructors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._base import FusedOptimizer
from ._options import Options, Own

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SGD", "Adam", "AdamW", "RMSprop"]

Params = Any  # what torch.optim takes: tensors, (name, tensor) pairs, or dicts of groups


class SGD(FusedOptimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum: ``torch.optim.SGD``, faster.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As in ``torch.optim.SGD``; the formula is that of `fusedstep.SGD`.
    **options
        See `Options`.
    """

    rule = "sgd"
    counts_steps = False

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, hypers, options)


class RMSprop(FusedOptimizer, torch.optim.RMSprop):
    """RMSprop: ``torch.optim.RMSprop``, faster.

    Parameters
    ----------
    params, lr, alpha, eps, weight_decay, momentum, centered, capturable, foreach, maximize, differentiable
        As in ``torch.optim.RMSprop``; the formula is that of `fusedstep.RMSprop`.
    **options
        See `Options`.
    """

    rule = "rmsprop"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None:
        hypers = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
        }
        chosen = {"capturable": capturable, "maximize": maximize, "differentiable": differentiable}
        super().__init__(params, hypers, {**options, **chosen})


class Adam(FusedOptimizer, torch.optim.Adam):
    """Adam: ``torch.optim.Adam``, faster.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay
        As in ``torch.optim.Adam``; the formula is that of `fusedstep.Adam`.
    **options
        See `Options`.
    """

    rule = "adam"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, hypers, options)

    def _rule_of(self, group: dict[str, Any]) -> str:
        return "adamw" if group["decoupled_weight_decay"] else "adam"


class AdamW(FusedOptimizer, torch.optim.AdamW):
    """AdamW: ``torch.optim.AdamW``, faster.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, amsgrad
        As in ``torch.optim.AdamW``; the formula is that of `fusedstep.AdamW`.
    **options
        See `Options`.
    """

    rule = "adamw"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, hypers, options)
