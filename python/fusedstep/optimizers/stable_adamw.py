"""StableAdamW."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["StableAdamW"]


class StableAdamW(Optimizer):
    r"""AdamW that takes smaller steps while its second moment is too small.

    .. math::
        \hat\beta &= \beta (1 - \beta^{t-1}) / (1 - \beta^t) \text{ for each } \beta \\
        m &\leftarrow \hat\beta_1 m + (1 - \hat\beta_1) g \\
        v &\leftarrow \hat\beta_2 v + (1 - \hat\beta_2) g^2 \\
        \eta' &= \eta / \max\left(1, \sqrt{\mathrm{mean}(g^2 / \max(v, \epsilon^2))}\right) \text{ for each tensor} \\
        p &\leftarrow (1 - \eta' \lambda) p - \eta' m / (\sqrt v + \epsilon)

    Wortsman et al. (2023), "Stable and low-precision training for large-scale vision-language models", algorithm 2:
    AdamW with the update clipping of Shazeer and Stern (2018), "Adafactor", section 5.

    Parameters
    ----------
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1), before they are corrected for the bias.
    eps
        Added to the square root, and its smallest value in the mean.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    """

    rule = "stable_adamw"
