"""ADOPT."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["ADOPT"]


class ADOPT(Optimizer):
    r"""Adam that divides by the second moment of the step before, as the authors' package.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p \text{ if decoupled}, \quad g \leftarrow g + \lambda p \text{ otherwise} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \, \mathrm{clip}(g / \max(\sqrt v, \epsilon), \pm (t - 1)^{1/4}) \\
        p &\leftarrow p - \eta m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2

    The first step only sets :math:`v \leftarrow g^2`, and a decoupled decay begins with the second. Taniguchi et al.
    (2024), "ADOPT: modified Adam can converge with any beta2 with the optimal rate", algorithm 2.

    Parameters
    ----------
    eps
        Smallest divisor.
    weight_decay
        Decay :math:`\lambda`: an L2 penalty, or decoupled from the gradient.
    decoupled_weight_decay
        Shrink the parameter instead of adding to the gradient.
    clipping
        Clip normed gradients to :math:`(t - 1)^{1/4}`.
    """

    rule = "adopt"
