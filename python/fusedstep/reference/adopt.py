"""ADOPT."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import clamp, larger
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient_or_apart, rule

__all__ = ["adopt"]


def _decay(*arrays: Any, step: int, **hypers: Any) -> tuple[float, float]:
    l2, shrink = in_gradient_or_apart(**hypers)
    return l2, shrink if step > 1 else 1.0


@rule(State("exp_avg", "signed"), State("exp_avg_sq", "exact"), decay=_decay)
def adopt(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 0.001,
    betas: tuple[float, float] = (0.9, 0.9999),
    eps: float = 1e-06,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
    clipping: bool = True,
    **options: Unpack[StepOptions],
) -> None:
    """One step of ADOPT, in place, as the authors' package. The formula and its source are in `fusedstep.ADOPT`.

    Parameters
    ----------
    exp_avg, exp_avg_sq
        First moment :math:`m` of normed gradients and second moment :math:`v`, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adopt
    >>> p, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> adopt(p, np.array([0.5, -1.0]), m, v, step=1, lr=0.1)
    True
    >>> adopt(p, np.array([0.25, -2.0]), m, v, step=2, lr=0.1)
    True
    >>> p
    array([0.995, 2.01 ])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    if decoupled_weight_decay and step > 1:
        param[...] = param * T(1.0 - lr * weight_decay)
    if weight_decay and not decoupled_weight_decay:
        grad = grad + T(weight_decay) * param
    if step == 1:
        exp_avg_sq[...] = grad * grad
        return
    most = T(math.sqrt(math.sqrt(float(step - 1))) if clipping else math.inf)
    normed = clamp(grad / larger(np.sqrt(exp_avg_sq), T(eps)), -most, most)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * normed
    param[...] = param - T(lr) * exp_avg
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
