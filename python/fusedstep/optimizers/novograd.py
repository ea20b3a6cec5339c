"""NovoGrad."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["NovoGrad"]


class NovoGrad(Optimizer):
    r"""Momentum of gradients divided by the average norm of their tensor, as ``optax.novograd``.

    .. math::
        v &\leftarrow \beta_2 v + (1 - \beta_2) \|g\|^2 \text{ for each tensor} \quad
            (\|g\|^2 \text{ in the first step}) \\
        m &\leftarrow \beta_1 m + \alpha \left( \frac{g}{\sqrt v + \epsilon} + \lambda p \right) \\
        p &\leftarrow p - \eta m

    Ginsburg et al. (2019), "Stochastic gradient methods with layer-wise adaptive moments for training of deep
    networks", algorithm 1. There :math:`\alpha` is 1. The second moment is one float64 number for each tensor.

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, added to the normalized gradient.
    grad_averaging
        Let :math:`\alpha` be :math:`1 - \beta_1` after the first step.
    """

    rule = "novograd"
