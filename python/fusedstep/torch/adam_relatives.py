"""Relatives of Adam that ``torch.optim`` has not, as optimizers for torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ._options import Options
from .own_optimizers import OwnOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["ADOPT", "AdEMAMix", "Adan", "StableAdamW", "Yogi"]


class Adan(OwnOptimizer):
    """Adan, Adam with a Nesterov momentum of gradient differences (see `fusedstep.Adan`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, no_prox
        As in `fusedstep.Adan`.
    **options
        See `Options`.
    """

    rule = "adan"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        no_prox: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "no_prox": no_prox}
        super().__init__(params, hypers, options)


class AdEMAMix(OwnOptimizer):
    """AdEMAMix, Adam with a fast and a slow first moment (see `fusedstep.AdEMAMix`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, alpha, eps, weight_decay, alpha_warmup, beta3_warmup
        As in `fusedstep.AdEMAMix`.
    **options
        See `Options`.
    """

    rule = "ademamix"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        alpha_warmup: float = 0.0,
        beta3_warmup: float = 0.0,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha_warmup": alpha_warmup,
            "beta3_warmup": beta3_warmup,
        }
        super().__init__(params, hypers, options)


class ADOPT(OwnOptimizer):
    """ADOPT, Adam that divides by the second moment of the step before (see `fusedstep.ADOPT`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, decoupled_weight_decay, clipping
        As in `fusedstep.ADOPT`.
    **options
        See `Options`.
    """

    rule = "adopt"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "clipping": clipping,
        }
        super().__init__(params, hypers, options)


class Yogi(OwnOptimizer):
    """Yogi, Adam whose second moment grows and shrinks by bounded amounts (see `fusedstep.Yogi`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, initial_accumulator_value
        As in `fusedstep.Yogi`.
    **options
        See `Options`.
    """

    rule = "yogi"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.001,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-06,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
        }
        super().__init__(params, hypers, options)


class StableAdamW(OwnOptimizer):
    """StableAdamW, AdamW that takes smaller steps while its second moment is too small (see `fusedstep.StableAdamW`).

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay
        As in `fusedstep.StableAdamW`.
    **options
        See `Options`.
    """

    rule = "stable_adamw"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        **options: Unpack[Options],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, hypers, options)
