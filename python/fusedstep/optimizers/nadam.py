"""Adam with Nesterov momentum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["NAdam"]


class NAdam(Optimizer):
    r"""NAdam, as ``torch.optim.NAdam``.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad \Pi \leftarrow \Pi \mu_t \\
        g &\leftarrow g + \lambda p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \left( \frac{1 - \mu_t}{1 - \Pi} g
            + \frac{\mu_{t+1}}{1 - \Pi \mu_{t+1}} m \right)
            / \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    Dozat (2016), "Incorporating Nesterov momentum into Adam", algorithm 2 with the momentum schedule of
    Sutskever et al. (2013).

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1).
    eps
        Added to the square root.
    weight_decay
        L2 penalty :math:`\lambda`.
    momentum_decay
        Rate :math:`\psi` at which the momentum rises.
    decoupled_weight_decay
        Shrink the parameter instead, as `adamw` does.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "nadam"

    def __init__(
        self,
        params: Structure,
        lr: Number = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        momentum_decay: Number = 4e-3,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, options)
