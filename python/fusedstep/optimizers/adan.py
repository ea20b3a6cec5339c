"""Adan."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Adan"]


class Adan(Optimizer):
    r"""Adam with a Nesterov momentum of gradient differences, as the authors' package.

    .. math::
        d &= g - g', \quad g' \leftarrow g \quad (d = 0 \text{ in the first step}) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) d \\
        n &\leftarrow \beta_3 n + (1 - \beta_3) (g + \beta_2 d)^2 \\
        u &= \left( \frac{m}{1 - \beta_1^t} + \frac{\beta_2 v}{1 - \beta_2^t} \right) /
            \left( \sqrt{n / (1 - \beta_3^t)} + \epsilon \right) \\
        p &\leftarrow (p - \eta u) / (1 + \eta \lambda)

    Xie et al. (2022), "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models", algorithm 1.
    The betas are the weights of the old averages, as in the authors' package; the paper's are one minus these.

    Parameters
    ----------
    betas
        Weights :math:`\beta_1, \beta_2, \beta_3` of the old averages, in [0, 1).
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    no_prox
        Shrink the parameter by :math:`1 - \eta \lambda` before the step, as AdamW, instead of the division after it.
    """

    rule = "adan"
