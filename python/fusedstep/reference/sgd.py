"""Gradient descent with momentum in its two forms."""

from __future__ import annotations

from ._arithmetic import power
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient, rule

__all__ = ["momentum", "sgd"]


@rule(State("momentum_buffer", "signed", when="momentum"), rows_without=("momentum", "weight_decay"), decay=in_gradient)
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
    **options: Unpack[StepOptions],
) -> None:
    """One step of stochastic gradient descent, in place, as ``torch.optim.SGD``.

    The formula and its source are in `fusedstep.SGD`.

    Parameters
    ----------
    momentum_buffer
        Velocity :math:`v`, of the parameter's shape; needed with `momentum`.

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


@rule(State("exp_avg", "signed"), decay=in_gradient)
def momentum(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    beta: float = 0.9,
    bias_correction: bool = False,
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step along the exponentially weighted average of the gradients, in place.

    The formula and its source are in `fusedstep.Momentum`.

    Parameters
    ----------
    exp_avg
        Average :math:`m`, of the parameter's shape.

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
