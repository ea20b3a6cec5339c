"""Lion."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Lion"]


class Lion(Optimizer):
    r"""Steps of one size along the sign of an average gradient, as ``optax.lion``.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p - \eta \, \mathrm{sign}(\beta_1 m + (1 - \beta_1) g) \\
        m &\leftarrow \beta_2 m + (1 - \beta_2) g

    Chen et al. (2023), "Symbolic discovery of optimization algorithms", algorithm 2.

    Parameters
    ----------
    betas
        Weight :math:`\beta_1` of the moment in the sign, and :math:`\beta_2` of the old moment in the new, in
        [0, 1).
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    """

    rule = "lion"
