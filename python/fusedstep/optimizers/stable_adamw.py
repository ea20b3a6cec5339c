"""StableAdamW."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["StableAdamW"]


class StableAdamW(Optimizer):
    r"""StableAdamW.

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
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1), before they are corrected for the bias.
    eps
        Added to the square root, and its smallest value in the mean.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "stable_adamw"

    def __init__(
        self,
        params: Structure,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: Number = 1e-08,
        weight_decay: Number = 0.01,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, options)
