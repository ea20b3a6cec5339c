"""ADOPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ADOPT"]


class ADOPT(Optimizer):
    r"""ADOPT, as the authors' package.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p \text{ if decoupled}, \quad g \leftarrow g + \lambda p \text{ otherwise} \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) \, \mathrm{clip}(g / \max(\sqrt v, \epsilon), \pm (t - 1)^{1/4}) \\
        p &\leftarrow p - \eta m \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2

    The first step only sets :math:`v \leftarrow g^2`, and a decoupled decay begins with the second. Taniguchi et al.
    (2024), "ADOPT: modified Adam can converge with any beta2 with the optimal rate", algorithm 2.

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1).
    eps
        Smallest divisor.
    weight_decay
        Decay :math:`\lambda`: an L2 penalty, or decoupled from the gradient.
    decoupled_weight_decay
        Shrink the parameter instead of adding to the gradient.
    clipping
        Clip normed gradients to :math:`(t - 1)^{1/4}`.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "adopt"

    def __init__(
        self,
        params: Structure,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: Number = 1e-06,
        weight_decay: Number = 0.0,
        decoupled_weight_decay: bool = False,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "clipping": clipping,
        }
        super().__init__(params, defaults, options)
