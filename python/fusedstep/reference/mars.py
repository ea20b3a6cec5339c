"""MARS, with the update of AdamW and with that of Lion."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import power, sign, sum_of_squares
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["mars", "mars_lion"]


def _shrinkage(clipping: bool, gradient: Tensors) -> float:
    """What a corrected gradient is multiplied by, so that its norm is 1 at most."""
    norm = math.sqrt(sum_of_squares(gradient))
    return 1.0 / norm if clipping and norm > 1.0 else 1.0


@rule(
    State("exp_avg", "signed"),
    State("exp_avg_sq", "unsigned"),
    State("last_grad", "signed", when="gamma"),
    norms=("grad", "last_grad"),
    decay=of_parameter,
)
def mars(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    last_grad: Tensors = None,
    *,
    step: Steps,
    lr: float = 0.003,
    betas: tuple[float, float] = (0.95, 0.99),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    gamma: float = 0.025,
    clipping: bool = True,
    **options: Unpack[StepOptions],
) -> None:
    """One step of MARS in its AdamW form, in place, as the authors' code.

    The formula and its source are in `fusedstep.MARS`.

    Parameters
    ----------
    last_grad
        Gradient :math:`g'` of the step before, of the parameter's shape; needed with `gamma`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import mars
    >>> p, m, v, last = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2), np.zeros(2)
    >>> mars(p, np.array([0.5, -1.0]), m, v, last, step=1, lr=0.1)
    True
    >>> p, last
    (array([0.9, 2.1]), array([ 0.5, -1. ]))
    >>> float(np.linalg.norm(m / 0.05).round(6))  # of the clipped gradient
    1.0
    """
    T = param.dtype.type
    beta1, beta2 = betas
    corrected = grad
    if gamma:
        corrected = grad + T(gamma * (beta1 / (1.0 - beta1))) * (grad - last_grad)
        last_grad[...] = grad
    change = T(_shrinkage(clipping, corrected)) * corrected
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * change
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (change * change)
    root = np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta2, step)))) + T(eps)
    param[...] = param * T(1.0 - lr * weight_decay) - T(lr / (1.0 - power(beta1, step))) * (exp_avg / root)


@rule(State("exp_avg", "signed"), State("last_grad", "signed"), norms=("grad", "last_grad"), decay=of_parameter)
def mars_lion(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    last_grad: Tensors,
    *,
    step: Steps,
    lr: float = 0.0003,
    beta: float = 0.95,
    weight_decay: float = 0.0,
    gamma: float = 0.025,
    clipping: bool = True,
    **options: Unpack[StepOptions],
) -> None:
    """One step of MARS in its Lion form, in place, as the authors' code.

    The formula and its source are in `fusedstep.MARSLion`.

    Parameters
    ----------
    exp_avg
        Moment :math:`m`, of the parameter's shape.
    last_grad
        Gradient :math:`g'` of the step before, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import mars_lion
    >>> p, m, last = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> mars_lion(p, np.array([0.5, -1.0]), m, last, step=1, lr=0.1)
    True
    >>> p
    array([0.9, 2.1])
    """
    T = param.dtype.type
    corrected = grad + T(gamma * (beta / (1.0 - beta))) * (grad - last_grad)
    last_grad[...] = grad
    change = T(_shrinkage(clipping, corrected)) * corrected
    exp_avg[...] = T(beta) * exp_avg + T(1.0 - beta) * change
    param[...] = param * T(1.0 - lr * weight_decay) - T(lr) * sign(exp_avg)
