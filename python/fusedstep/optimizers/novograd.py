"""NovoGrad."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NovoGrad"]


class NovoGrad(Optimizer):
    r"""NovoGrad, as ``optax.novograd``.

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2) \|g\|^2 \text{ for each tensor} \quad
            (\|g\|^2 \text{ in the first step}) \\
        m &\leftarrow \beta_1 m + \alpha \left( \frac{g}{\sqrt v + \epsilon} + \lambda p \right) \\
        p &\leftarrow p - \eta m

    Ginsburg et al. (2019), "Stochastic gradient methods with layer-wise adaptive moments for training of deep
    networks", algorithm 1. There :math:`\alpha` is 1. The second moment is one float64 number for each tensor.

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1).
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, added to the normalized gradient.
    grad_averaging
        Let :math:`\alpha` be :math:`1 - \beta_1` after the first step.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "novograd"

    def __init__(
        self,
        params: Structure,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        grad_averaging: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "grad_averaging": grad_averaging,
        }
        super().__init__(params, defaults, options)
