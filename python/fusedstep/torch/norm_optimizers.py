"""Optimizers with norms of whole tensors that ``torch.optim`` has not, as optimizers for torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._options import Options
from .own_optimizers import OwnOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["MARS", "MARSLion", "NovoGrad"]


class MARS(OwnOptimizer):
    """MARS in its AdamW form, with a correction by the last gradient (see `fusedstep.MARS`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, gamma, clipping
        As in `fusedstep.MARS`.
    **options
        See `Options`.
    """

    rule = "mars"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.003,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "gamma": gamma,
            "clipping": clipping,
        }
        super().__init__(params, hypers, options)


class MARSLion(OwnOptimizer):
    """MARS in its Lion form, with a correction by the last gradient (see `fusedstep.MARSLion`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, beta, weight_decay, gamma, clipping
        As in `fusedstep.MARSLion`.
    **options
        See `Options`.
    """

    rule = "mars_lion"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0003,
        beta: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "beta": beta, "weight_decay": weight_decay, "gamma": gamma, "clipping": clipping}
        super().__init__(params, hypers, options)


class NovoGrad(OwnOptimizer):
    """NovoGrad, momentum of gradients divided by an average of their tensor's norm (see `fusedstep.NovoGrad`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, grad_averaging
        As in `fusedstep.NovoGrad`.
    **options
        See `Options`.
    """

    rule = "novograd"
    scalar_dtype = torch.float64

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
        }
        super().__init__(params, hypers, options)
