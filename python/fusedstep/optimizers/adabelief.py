"""AdaBelief."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["AdaBelief"]


class AdaBelief(Optimizer):
    r"""Adam that divides by how far gradients are from their average, as ``optax.adabelief``.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        s &\leftarrow \beta_2 s + (1 - \beta_2) (g - m)^2 + \epsilon_{root} \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} m / \left( \sqrt{s / (1 - \beta_2^t)} + \epsilon \right)

    Zhuang et al. (2020), "AdaBelief optimizer: adapting stepsizes by the belief in observed gradients",
    algorithm 2. The algorithm's epsilon enters twice, in the recursion of :math:`s` (`eps_root`, which stays
    in the state) and beside the square root (`eps`).

    Parameters
    ----------
    eps, eps_root
        Added to the square root, and to the state at every step.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    """

    rule = "adabelief"
