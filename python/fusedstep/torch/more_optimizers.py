"""The less common optimizers of ``torch.optim``, with their constructors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._base import FusedOptimizer
from ._options import Listed, Options, Own

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["ASGD", "Adadelta", "Adagrad", "Adamax", "NAdam", "RAdam", "Rprop", "SparseAdam"]


class Adagrad(FusedOptimizer, torch.optim.Adagrad):
    """Adagrad: ``torch.optim.Adagrad``, faster; gradients may be sparse.

    Parameters
    ----------
    params, lr, lr_decay, weight_decay, initial_accumulator_value, eps, foreach
        As in ``torch.optim.Adagrad``.
    **options
        See `Options`.
    """

    rule = "adagrad"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        **options: Unpack[Listed],
    ) -> None:
        hypers = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
        }
        super().__init__(params, hypers, options)


class Adadelta(FusedOptimizer, torch.optim.Adadelta):
    """Adadelta: ``torch.optim.Adadelta``, faster.

    Parameters
    ----------
    params, lr, rho, eps, weight_decay, foreach
        As in ``torch.optim.Adadelta``.
    **options
        See `Options`.
    """

    rule = "adadelta"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        **options: Unpack[Listed],
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay}, options)


class Adamax(FusedOptimizer, torch.optim.Adamax):
    """Adamax: ``torch.optim.Adamax``, faster.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, foreach
        As in ``torch.optim.Adamax``.
    **options
        See `Options`.
    """

    rule = "adamax"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        **options: Unpack[Listed],
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, options)


class NAdam(FusedOptimizer, torch.optim.NAdam):
    """NAdam: ``torch.optim.NAdam``, faster.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, momentum_decay, decoupled_weight_decay
        As in ``torch.optim.NAdam``.
    **options
        See `Options`.
    """

    rule = "nadam"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, hypers, options)


class RAdam(FusedOptimizer, torch.optim.RAdam):
    """RAdam: ``torch.optim.RAdam``, faster.

    Parameters
    ----------
    params, lr, betas, eps, weight_decay, decoupled_weight_decay
        As in ``torch.optim.RAdam``.
    **options
        See `Options`.
    """

    rule = "radam"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, hypers, options)


class ASGD(FusedOptimizer, torch.optim.ASGD):
    """Averaged stochastic gradient descent: ``torch.optim.ASGD``, faster.

    Parameters
    ----------
    params, lr, lambd, alpha, t0, weight_decay, foreach, maximize, differentiable, capturable
        As in ``torch.optim.ASGD``.
    **options
        See `Options`.
    """

    rule = "asgd"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Own],
    ) -> None:
        hypers = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay}
        chosen = {"capturable": capturable, "maximize": maximize, "differentiable": differentiable}
        super().__init__(params, hypers, {**options, **chosen})


class Rprop(FusedOptimizer, torch.optim.Rprop):
    """Resilient backpropagation: ``torch.optim.Rprop``, faster.

    Parameters
    ----------
    params, lr, etas, step_sizes
        As in ``torch.optim.Rprop``.
    **options
        See `Options`.
    """

    rule = "rprop"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        **options: Unpack[Options],
    ) -> None:
        super().__init__(params, {"lr": lr, "etas": etas, "step_sizes": step_sizes}, options)


class SparseAdam(FusedOptimizer, torch.optim.SparseAdam):
    """Adam on the rows that have a gradient: ``torch.optim.SparseAdam``.

    Parameters
    ----------
    params, lr, betas, eps, maximize
        As in ``torch.optim.SparseAdam``.
    **options
        See `Options`.
    """

    rule = "sparse_adam"
    counts_steps = False  # torch's count is an int here, advanced with the rows

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
        **options: Unpack[Own],
    ) -> None:
        hypers = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, hypers, {**options, "maximize": maximize})

    def _advance(self, closure: Callable[[], Any] | None = None) -> Any:
        def checked() -> Any:
            loss = None if closure is None else closure()
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None and not param.grad.is_sparse:
                        raise TypeError("SparseAdam needs sparse gradients, got a dense one; Adam takes those")
            return loss

        return super()._advance(checked)
