"""MARS, with the update of AdamW and with that of Lion."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["MARS", "MARSLion"]


class MARS(Optimizer):
    r"""AdamW on gradients corrected by their change since the last step, as the authors' code.

    .. math::
        c &= g + \gamma \frac{\beta_1}{1 - \beta_1} (g - g'), \quad g' \leftarrow g \\
        \tilde c &= c / \max(1, \|c\|) \text{ for each tensor} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \tilde c \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) \tilde c^2 \\
        p &\leftarrow (1 - \eta \lambda) p -
            \eta \frac{m}{1 - \beta_1^t} / \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    Yuan et al. (2024), "MARS: unleashing the power of variance reduction for training large models", algorithms 1 and
    2. With the gradient of the step before as :math:`g'`, the state ``last_grad``, this is their approximate variant.
    For the exact one, write the gradient of the new batch at the parameters of the step before into that state before
    each step.

    Every parameter takes this rule, as with the authors' ``optimize_1d=True``. A group with ``gamma=0`` and
    ``clipping=False`` takes AdamW and keeps no ``last_grad``, as their vectors do by default.

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    gamma
        Strength :math:`\gamma` of the correction.
    clipping
        Scale corrected gradients down to the norm 1.
    """

    rule = "mars"


class MARSLion(Optimizer):
    r"""Lion on gradients corrected by their change since the last step, as the authors' code.

    .. math::
        c &= g + \gamma \frac{\beta}{1 - \beta} (g - g'), \quad g' \leftarrow g \\
        \tilde c &= c / \max(1, \|c\|) \text{ for each tensor} \\
        m &\leftarrow \beta m + (1 - \beta) \tilde c \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \, \mathrm{sign}(m)

    Yuan et al. (2024), "MARS: unleashing the power of variance reduction for training large models", algorithms 1 and
    3. The exact variant is that of `MARS`. The default rate is a tenth of that of `MARS`: the authors' code has one
    rate for all forms, and says to tune it for this one.

    Parameters
    ----------
    beta
        Weight :math:`\beta` of the old moment, in [0, 1).
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    gamma
        Strength :math:`\gamma` of the correction.
    clipping
        Scale corrected gradients down to the norm 1.
    """

    rule = "mars_lion"
