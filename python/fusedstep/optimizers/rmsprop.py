"""RMSprop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    r"""The gradient over the root of its running mean square, as ``torch.optim.RMSprop``.

    .. math::
        s &\leftarrow \alpha s + (1 - \alpha) g^2 \\
        p &\leftarrow p - \eta\, g / (\sqrt{s + \epsilon_{root}} + \epsilon)

    Centred, :math:`s` less the square of the mean gradient takes its place; with momentum, the quotient enters a
    velocity. Tieleman and Hinton (2012), "Neural networks for machine learning", lecture 6.5; Graves (2013),
    "Generating sequences with recurrent neural networks", equations 38 to 41.

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    alpha
        Weight :math:`\alpha` of the old mean square.
    eps
        Added outside the square root.
    weight_decay
        L2 penalty, added to the gradient.
    momentum
        Weight of the old velocity; 0 keeps none.
    centered
        Divide by an estimate of the standard deviation rather than the root mean square.
    eps_root
        Added inside the square root.
    lr_in_momentum
        Let the velocity hold changes, with the learning rate in them, as Keras does.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "rmsprop"

    def __init__(
        self,
        params: Structure,
        lr: Number = 1e-2,
        alpha: Number = 0.99,
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        momentum: Number = 0.0,
        centered: bool = False,
        *,
        eps_root: Number = 0.0,
        lr_in_momentum: bool = False,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "eps_root": eps_root,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "lr_in_momentum": lr_in_momentum,
        }
        super().__init__(params, defaults, options)
