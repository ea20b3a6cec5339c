"""Optimizers that scale the step of each tensor by a ratio of norms."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["LAMB", "LARS"]


class LAMB(Optimizer):
    r"""Adam with a learning rate for every tensor, from its norm and that of the step, as ``optax.lamb``.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad \hat m = m / (1 - \beta_1^t) \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad \hat v = v / (1 - \beta_2^t) \\
        d &= \hat m / (\sqrt{\hat v + \epsilon_{root}} + \epsilon) + \lambda p \\
        p &\leftarrow p - \eta \, \frac{\|p\|}{\|d\|} \, d

    You et al. (2020), "Large batch optimization for deep learning: training BERT in 76 minutes", algorithm 2,
    with the identity for its function of the norm. The ratio is 1 where one of the norms is zero.

    Parameters
    ----------
    eps, eps_root
        Added to the square root, and to what it is taken of.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    """

    rule = "lamb"


class LARS(Optimizer):
    r"""Momentum with a learning rate for every tensor, from its norm and that of the gradient.

    .. math::
        \kappa &= \theta \|p\| / (\|g\| + \lambda \|p\| + \epsilon) \\
        v &\leftarrow \mu v + \eta \kappa (g + \lambda p) \\
        p &\leftarrow p - v \quad (p - \eta \kappa (g + \lambda p) - \mu v \text{ with nesterov})

    You, Gitman and Ginsburg (2017), "Large batch training of convolutional networks", equation 6 and
    algorithm 1. The ratio :math:`\kappa` is 1 where one of the norms is zero. The learning rate enters the
    velocity, as in the paper. ``optax.lars`` takes the norm of :math:`g + \lambda p` instead of the sum of
    the norms; without decay both are the same.

    Parameters
    ----------
    momentum
        Weight :math:`\mu` of the old velocity.
    weight_decay
        L2 penalty :math:`\lambda`.
    trust_coefficient
        Factor :math:`\theta` of the ratio of the norms.
    eps
        Added to the denominator of the ratio.
    nesterov
        Look ahead along the velocity; needs momentum.
    """

    rule = "lars"
