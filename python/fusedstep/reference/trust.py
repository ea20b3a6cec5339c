"""LAMB and LARS: learning rates scaled for each tensor by the ratio of two norms."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import power, sum_of_squares
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["lamb", "lars"]


@rule(
    State("exp_avg", "signed"),
    State("exp_avg_sq", "unsigned"),
    norms=("param", "grad", "exp_avg", "exp_avg_sq"),
)
def lamb(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    eps_root: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of LAMB, in place, as ``optax.lamb``. The formula and its source are in `fusedstep.LAMB`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import lamb
    >>> p, g, m, v = np.array([3.0, 4.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> lamb(p, g, m, v, step=1, lr=0.1)
    True
    >>> p.round(5)
    array([2.64645, 4.35355])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    correction1, correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    root = np.sqrt(exp_avg_sq * T(1.0 / correction2) + T(eps_root)) + T(eps)
    direction = exp_avg * T(1.0 / correction1) / root
    if weight_decay:
        direction = direction + T(weight_decay) * param
    param_norm, norm = math.sqrt(sum_of_squares(param)), math.sqrt(sum_of_squares(direction))
    ratio = param_norm / norm if param_norm and norm else 1.0
    param[...] = param - T(lr * ratio) * direction


@rule(State("momentum_buffer", "signed", when="momentum"), norms=("param", "grad"))
def lars(
    param: Tensors,
    grad: Tensors,
    momentum_buffer: Tensors = None,
    *,
    step: Steps,
    lr: float = 1e-3,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    trust_coefficient: float = 1e-3,
    eps: float = 0.0,
    nesterov: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of LARS, in place. The formula and its source are in `fusedstep.LARS`.

    Parameters
    ----------
    momentum_buffer
        Velocity :math:`v`, of the parameter's shape; needed with `momentum`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import lars
    >>> p, g, v = np.array([3.0, 4.0]), np.array([0.6, -0.8]), np.zeros(2)
    >>> lars(p, g, v, step=1, lr=0.1, trust_coefficient=0.5)
    True
    >>> p
    array([2.85, 4.2 ])
    """
    T = param.dtype.type
    param_norm, norm = math.sqrt(sum_of_squares(param)), math.sqrt(sum_of_squares(grad))
    ratio = 1.0
    if param_norm and norm:
        ratio = trust_coefficient * param_norm / (norm + weight_decay * param_norm + eps)
    if weight_decay:
        grad = grad + T(weight_decay) * param
    change = T(lr * ratio) * grad
    if momentum:
        momentum_buffer[...] = T(momentum) * momentum_buffer + change
        change = change + T(momentum) * momentum_buffer if nesterov else momentum_buffer
    param[...] = param - change
