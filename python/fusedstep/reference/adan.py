"""Adan."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import power
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["adan"]


def _decay(*arrays: Any, lr: float, weight_decay: float, no_prox: bool, **hypers: Any) -> tuple[float, float]:
    return 0.0, 1.0 - lr * weight_decay if no_prox else 1.0 / (1.0 + lr * weight_decay)


@rule(
    State("exp_avg", "signed"),
    State("exp_avg_diff", "signed"),
    State("exp_avg_sq", "unsigned"),
    State("pre_grad", "signed"),
    decay=_decay,
)
def adan(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_diff: Tensors,
    exp_avg_sq: Tensors,
    pre_grad: Tensors,
    *,
    step: Steps,
    lr: float = 0.001,
    betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    no_prox: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adan, in place, as the authors' package. The formula and its source are in `fusedstep.Adan`.

    Parameters
    ----------
    exp_avg, exp_avg_diff, exp_avg_sq
        Averages :math:`m` of gradients, :math:`v` of their differences and :math:`n` of squares, of the
        parameter's shape.
    pre_grad
        Gradient :math:`g'` of the step before, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adan
    >>> p, g = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    >>> m, v, n, before = np.zeros(2), np.zeros(2), np.zeros(2), np.zeros(2)
    >>> adan(p, g, m, v, n, before, step=1, lr=0.1)
    True
    >>> p, before
    (array([0.9, 2.1]), array([ 0.5, -1. ]))
    """
    T = param.dtype.type
    beta1, beta2, beta3 = betas
    change = np.zeros_like(grad) if step == 1 else grad - pre_grad
    pre_grad[...] = grad
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_diff[...] = T(beta2) * exp_avg_diff + T(1.0 - beta2) * change
    ahead = grad + T(beta2) * change
    exp_avg_sq[...] = T(beta3) * exp_avg_sq + T(1.0 - beta3) * (ahead * ahead)
    root = np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta3, step)))) + T(eps)
    along = T(lr / (1.0 - power(beta1, step))) * exp_avg + T(lr * beta2 / (1.0 - power(beta2, step))) * exp_avg_diff
    before = 1.0 - lr * weight_decay if no_prox else 1.0
    after = 1.0 if no_prox else 1.0 / (1.0 + lr * weight_decay)
    param[...] = (param * T(before) - along / root) * T(after)
