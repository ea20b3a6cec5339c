"""Adagrad and Adadelta."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Adadelta", "Adagrad"]


class Adagrad(Optimizer):
    r"""Gradients divided by the root of the sum of all their squares, as ``torch.optim.Adagrad``.

    .. math::
        g &\leftarrow g + \lambda p \\
        s &\leftarrow s + g^2 \\
        p &\leftarrow p - \frac{\eta}{1 + (t - 1) \gamma} \, g / (\sqrt{s + \epsilon_{root}} + \epsilon)

    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization", figure 1 (diagonal case).

    Parameters
    ----------
    lr_decay
        Decay :math:`\gamma` of the learning rate.
    weight_decay
        L2 penalty :math:`\lambda`.
    initial_accumulator_value
        First value of every :math:`s`.
    eps, eps_root
        Added to the square root, and to what it is taken of.
    """

    rule = "adagrad"


class Adadelta(Optimizer):
    r"""Gradients scaled by the root mean square of past steps over that of gradients, as ``torch.optim.Adadelta``.

    .. math::
        g &\leftarrow g + \lambda p \\
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        d &= \sqrt{u + \epsilon} / \sqrt{v + \epsilon} \cdot g \\
        u &\leftarrow \rho u + (1 - \rho) d^2 \\
        p &\leftarrow p - \eta d

    Zeiler (2012), "ADADELTA: an adaptive learning rate method", algorithm 1.

    Parameters
    ----------
    rho
        Weight :math:`\rho` of the old means, in [0, 1].
    eps
        Added to what the square roots are taken of.
    weight_decay
        L2 penalty :math:`\lambda`.
    """

    rule = "adadelta"
