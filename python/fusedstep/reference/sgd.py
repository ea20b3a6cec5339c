"""Gradient descent with momentum in its two forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._arithmetic import power
from ._frame import Around, State, Steps, Tensors, rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["momentum", "sgd"]


@rule(State("momentum_buffer", "signed", when="momentum"), rows_without=("momentum", "weight_decay"))
def sgd(
    param: Tensors,
    grad: Tensors,
    momentum_buffer: Tensors = None,
    *,
    step: Steps,
    lr: float = 1e-3,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    lr_in_momentum: bool = False,
    **around: Unpack[Around],
) -> None:
    r"""One step of stochastic gradient descent, in place, as ``torch.optim.SGD``.

    .. math::
        g &\leftarrow g + \lambda p \\
        v &\leftarrow \mu v + (1 - \tau) g \quad (v \leftarrow g \text{ at the first step}) \\
        p &\leftarrow p - \eta v \quad (p - \eta (g + \mu v) \text{ with nesterov})

    With `lr_in_momentum` the velocity is the change itself, so that a new learning rate leaves the momentum gathered
    so far as it is:

    .. math::
        v &\leftarrow \mu v - \eta (1 - \tau) g \\
        p &\leftarrow p + v \quad (p + \mu v - \eta g \text{ with nesterov})

    Heavy-ball momentum is Polyak (1964), "Some methods of speeding up the convergence of iteration methods";
    the Nesterov form is Sutskever et al. (2013), "On the importance of initialization and momentum in deep
    learning", equations 3 and 4, where the learning rate is inside the velocity (equations 1 and 2 likewise).

    Parameters
    ----------
    param, grad
        Parameter and gradient, or lists of them.
    momentum_buffer
        Velocity :math:`v`, of the parameter's shape; needed with `momentum`.
    step
        Number of this step, from 1; a list for a list of parameters of different ages.
    lr
        Learning rate :math:`\eta`.
    momentum, dampening
        Weight :math:`\mu` of the old velocity, and :math:`\tau`, by which the new gradient counts less.
    weight_decay
        L2 penalty :math:`\lambda`.
    nesterov
        Look ahead along the velocity; needs momentum and no dampening.
    lr_in_momentum
        Let the velocity hold changes, with the learning rate in them, as Keras does, instead of gradients.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import sgd
    >>> p, g, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> sgd(p, g, v, step=1, lr=0.1, momentum=0.9)
    True
    >>> p, v
    (array([0.95, 2.1 ]), array([ 0.5, -1. ]))
    """
    T = param.dtype.type
    first = step == 1
    if weight_decay:
        grad = grad + T(weight_decay) * param
    if momentum:
        keep, take, look = (0.0, 1.0, 1.0) if first else (momentum, 1.0 - dampening, 1.0)
        if lr_in_momentum:
            keep, take, look = momentum, -(lr * (1.0 - dampening)), -lr
            lr = -1.0
        momentum_buffer[...] = T(keep) * momentum_buffer + T(take) * grad
        grad = T(look) * grad + T(momentum) * momentum_buffer if nesterov else momentum_buffer
    param[...] = param - T(lr) * grad


@rule(State("exp_avg", "signed"))
def momentum(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    beta: float = 0.9,
    weight_decay: float = 0.0,
    bias_correction: bool = False,
    **around: Unpack[Around],
) -> None:
    r"""One step along the exponentially weighted average of the gradients, in place.

    .. math::
        g &\leftarrow g + \lambda p \\
        m &\leftarrow \beta m + (1 - \beta) g \\
        p &\leftarrow p - \eta m \quad (p - \eta m / (1 - \beta^t) \text{ with bias correction})

    The form taught in courses: unlike the velocity of `sgd`, the average does not grow with :math:`\beta`.
    Bias correction is that of Kingma and Ba (2015), "Adam", section 3.

    Parameters
    ----------
    param, grad
        Parameter and gradient, or lists of them.
    exp_avg
        Average :math:`m`, of the parameter's shape.
    step
        Number :math:`t` of this step, from 1; a list for a list of parameters of different ages.
    lr
        Learning rate :math:`\eta`.
    beta
        Weight of the old average, in [0, 1).
    weight_decay
        L2 penalty :math:`\lambda`.
    bias_correction
        Divide by :math:`1 - \beta^t`: the average started at zero.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import momentum
    >>> p, g, m = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> momentum(p, g, m, step=1, lr=0.1, bias_correction=True)
    True
    >>> p, m
    (array([0.95, 2.1 ]), array([ 0.05, -0.1 ]))
    """
    T = param.dtype.type
    correction = 1.0 - power(beta, step) if bias_correction else 1.0
    if weight_decay:
        grad = grad + T(weight_decay) * param
    exp_avg[...] = T(beta) * exp_avg + T(1.0 - beta) * grad
    param[...] = param - T(lr / correction) * exp_avg
