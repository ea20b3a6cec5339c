"""Yogi."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Yogi"]


class Yogi(Optimizer):
    r"""Yogi, as ``optax.yogi``.

    .. math::
        p &\leftarrow (1 - \eta \lambda) p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow v - (1 - \beta_2) \, \mathrm{sign}(v - g^2) \, g^2 \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} m / \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    Zaheer et al. (2018), "Adaptive methods for nonconvex optimization", algorithm 2, with Adam's bias corrections as
    in optax. Both moments begin at 1e-6.

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
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    initial_accumulator_value
        What both moments begin with.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "yogi"

    def __init__(
        self,
        params: Structure,
        lr: Number = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 0.001,
        weight_decay: Number = 0.0,
        initial_accumulator_value: Number = 1e-06,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
        }
        super().__init__(params, defaults, options)
