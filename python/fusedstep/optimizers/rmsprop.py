"""RMSprop."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["RMSprop"]


class RMSprop(Optimizer):
    r"""The gradient over the root of its running mean square, as ``torch.optim.RMSprop``.

    .. math::
        g &\leftarrow g + \lambda p \\
        v &\leftarrow \alpha v + (1 - \alpha) g^2 \\
        m &\leftarrow \alpha m + (1 - \alpha) g, \quad
            s = \max(v - m^2, 0) \quad (s = v \text{ unless centered}) \\
        d &= g / (\sqrt{s + \epsilon_{root}} + \epsilon) \\
        b &\leftarrow \mu b + d, \quad p \leftarrow p - \eta b

    or, with `lr_in_momentum`, :math:`b \leftarrow \mu b + \eta d` and :math:`p \leftarrow p - b`. Tieleman and Hinton
    (2012), "Neural networks for machine learning", lecture 6.5; centred and with momentum: Graves (2013), "Generating
    sequences with recurrent neural networks", equations 38 to 41, where the learning rate is inside the velocity.
    Rounding never takes :math:`s` below zero here; torch may take the root of a negative number then.

    Parameters
    ----------
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
    """

    rule = "rmsprop"
