"""Adamax."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Adamax"]


class Adamax(Optimizer):
    r"""Adam that divides by the largest of recent gradients, as ``torch.optim.Adamax``.

    .. math::
        g &\leftarrow g + \lambda p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        u &\leftarrow \max(\beta_2 u, |g| + \epsilon) \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} m / (u + \epsilon_{norm})

    Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 2. The paper has no epsilon;
    it keeps the norm from being zero. Keras adds its own to the norm instead, here `eps_norm`.

    Parameters
    ----------
    betas
        Weights :math:`\beta_1, \beta_2` of the old moment and norm, in [0, 1).
    eps
        Added to the gradient's magnitude.
    weight_decay
        L2 penalty :math:`\lambda`.
    eps_norm
        Added to the weighted largest magnitude.
    """

    rule = "adamax"
