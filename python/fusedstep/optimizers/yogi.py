"""Yogi."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Yogi"]


class Yogi(Optimizer):
    r"""Adam whose second moment grows and shrinks by bounded amounts, as ``optax.yogi``.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow v - (1 - \beta_2) \, \mathrm{sign}(v - g^2) \, g^2 \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} m / \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    Zaheer et al. (2018), "Adaptive methods for nonconvex optimization", algorithm 2, with Adam's bias corrections as
    in optax. Both moments begin at 1e-6.

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    initial_accumulator_value
        What both moments begin with.
    """

    rule = "yogi"
