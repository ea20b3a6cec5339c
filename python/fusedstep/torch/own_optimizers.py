"""The optimizers of this package that ``torch.optim`` has not, as optimizers for torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._base import FusedOptimizer
from ._options import Options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["LAMB", "LARS", "AdaBelief", "Lion", "Momentum"]


class OwnOptimizer(FusedOptimizer):
    """An optimizer without a class of torch's behind it."""

    def _make(self, params: Params, hypers: dict[str, Any]) -> None:
        torch.optim.Optimizer.__init__(self, params, hypers)


class Momentum(OwnOptimizer):
    """Gradient descent along the exponentially weighted average of the gradients (see `fusedstep.Momentum`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, beta, bias_correction, weight_decay
        As in `fusedstep.Momentum`.
    **options
        See `Options`.
    """

    rule = "momentum"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        beta: float = 0.9,
        bias_correction: bool = False,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "bias_correction": bias_correction, "weight_decay": weight_decay}
        super().__init__(params, hypers, options)


class Lion(OwnOptimizer):
    """Lion, which steps along the sign of an average (see `fusedstep.Lion`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, weight_decay
        As in `fusedstep.Lion`.
    **options
        See `Options`.
    """

    rule = "lion"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay}, options)


class AdaBelief(OwnOptimizer):
    """AdaBelief, which divides by how far gradients are from their average (see `fusedstep.AdaBelief`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay
        As in `fusedstep.AdaBelief`.
    **options
        See `Options`; `eps_root` is one of this rule's.
    """

    rule = "adabelief"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, options)


class LAMB(OwnOptimizer):
    """LAMB, Adam with a trust ratio per tensor (see `fusedstep.LAMB`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay
        As in `fusedstep.LAMB`.
    **options
        See `Options`; `eps_root` is one of this rule's.
    """

    rule = "lamb"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, options)


class LARS(OwnOptimizer):
    """LARS, momentum with a trust ratio per tensor (see `fusedstep.LARS`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, momentum, weight_decay, trust_coefficient, eps, nesterov
        As in `fusedstep.LARS`.
    **options
        See `Options`.
    """

    rule = "lars"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "nesterov": nesterov,
        }
        super().__init__(params, hypers, options)
