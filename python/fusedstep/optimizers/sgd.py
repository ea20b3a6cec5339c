"""Gradient descent with momentum."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Momentum", "SGD"]


class SGD(Optimizer):
    r"""Stochastic gradient descent, with heavy-ball or Nesterov momentum, as ``torch.optim.SGD``.

    .. math::
        g &\leftarrow g + \lambda p \\
        v &\leftarrow \mu v + (1 - \tau) g \quad (v \leftarrow g \text{ in the first step}) \\
        p &\leftarrow p - \eta v, \quad \text{or with Nesterov } p - \eta (g + \mu v)

    Polyak (1964), "Some methods of speeding up the convergence of iteration methods"; Sutskever et al. (2013), "On the
    importance of initialization and momentum in deep learning", equations 1 to 4, which have the learning rate inside
    the velocity (`lr_in_momentum`): :math:`v \leftarrow \mu v - \eta (1 - \tau) g` and :math:`p \leftarrow p + v`, with
    Nesterov :math:`p + \mu v - \eta g`.

    Parameters
    ----------
    momentum
        :math:`\mu`; 0 is plain gradient descent and keeps no state.
    dampening
        :math:`\tau`: how little of the gradient enters the velocity.
    weight_decay
        L2 penalty :math:`\lambda`.
    nesterov
        Step along the velocity as it will be.
    lr_in_momentum
        Let the velocity hold changes, with the learning rate in them, as Keras does: the same steps until the learning
        rate changes, which then leaves the momentum gathered so far as it is.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> w = np.array([1.0, 2.0])
    >>> fs.SGD(w, lr=0.1).step(np.array([1.0, -1.0]))
    True
    >>> w
    array([0.9, 2.1])
    """

    rule = "sgd"


class Momentum(Optimizer):
    r"""Gradient descent along the exponentially weighted average of the gradients.

    .. math::
        v \leftarrow \beta v + (1 - \beta) g, \qquad p \leftarrow p - \eta v

    or :math:`p - \eta v / (1 - \beta^t)` with bias correction. `SGD` has the other convention, in which the gradient
    enters the velocity whole. Ng, "Improving deep neural networks", week 2; Qian (1999), "On the momentum term in
    gradient descent learning algorithms".

    Parameters
    ----------
    beta
        Weight :math:`\beta` of the old average; it spans about :math:`1 / (1 - \beta)` steps.
    bias_correction
        Divide by :math:`1 - \beta^t`, so that the first steps are not too short.
    weight_decay
        L2 penalty, added to the gradient.
    """

    rule = "momentum"
