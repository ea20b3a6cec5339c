"""RMSprop."""

from __future__ import annotations

import numpy as np

from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient, rule

__all__ = ["rmsprop"]


@rule(
    State("square_avg", "unsigned"),
    State("momentum_buffer", "signed", when="momentum"),
    State("grad_avg", "signed", when="centered"),
    decay=in_gradient,
)
def rmsprop(
    param: Tensors,
    grad: Tensors,
    square_avg: Tensors,
    momentum_buffer: Tensors = None,
    grad_avg: Tensors = None,
    *,
    step: Steps,
    lr: float = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    eps_root: float = 0.0,
    lr_in_momentum: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of RMSprop, in place, as ``torch.optim.RMSprop``.

    The formula and its source are in `fusedstep.RMSprop`.

    Parameters
    ----------
    square_avg
        Running mean square :math:`v`, of the parameter's shape.
    momentum_buffer
        Velocity :math:`b`; needed with `momentum`.
    grad_avg
        Running mean :math:`m`; needed with `centered`.
    step
        Number of this step, from 1; it does not enter the formula.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import rmsprop
    >>> p, g, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> rmsprop(p, g, v, step=1, lr=0.1, alpha=0.75)
    True
    >>> p.round(6), v
    (array([0.8, 2.2]), array([0.0625, 0.25  ]))
    """
    T = param.dtype.type
    if weight_decay:
        grad = grad + T(weight_decay) * param
    square_avg[...] = T(alpha) * square_avg + T(1.0 - alpha) * (grad * grad)
    variance = square_avg
    if centered:
        grad_avg[...] = T(alpha) * grad_avg + T(1.0 - alpha) * grad
        variance = square_avg - grad_avg * grad_avg
        variance[variance < 0] = 0
    change = grad / (np.sqrt(variance + T(eps_root)) + T(eps))
    if momentum:
        momentum_buffer[...] = T(momentum) * momentum_buffer + T(lr if lr_in_momentum else 1.0) * change
        change = momentum_buffer
        lr = 1.0 if lr_in_momentum else lr
    param[...] = param - T(lr) * change
