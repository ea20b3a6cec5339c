"""Rectified Adam."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import power
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient_or_apart, rule

__all__ = ["radam"]


@rule(State("exp_avg", "signed"), State("exp_avg_sq", "unsigned"), decay=in_gradient_or_apart)
def radam(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of rectified Adam, in place, as ``torch.optim.RAdam``.

    The formula and its source are in `fusedstep.RAdam`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import radam
    >>> p, g, m, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> radam(p, g, m, v, step=1, lr=0.1)
    True
    >>> p.round(6)
    array([0.95, 2.1 ])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    param[...] = param * T(1.0 - lr * weight_decay if decoupled_weight_decay else 1.0)
    if weight_decay and not decoupled_weight_decay:
        grad = grad + T(weight_decay) * param
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    faded = power(beta2, step)
    limit = 2.0 / (1.0 - beta2) - 1.0
    length = limit - 2.0 * step * faded / (1.0 - faded)
    rate = lr / (1.0 - power(beta1, step))
    change = exp_avg
    if length > 5.0:
        rectification = (length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length)
        rate = rate * math.sqrt(rectification) * math.sqrt(1.0 - faded)
        change = exp_avg / (np.sqrt(exp_avg_sq) + T(eps))
    param[...] = param - T(rate) * change
