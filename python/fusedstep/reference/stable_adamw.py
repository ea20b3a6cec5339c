"""StableAdamW."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import larger, power, sum_of_squares
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["stable_adamw"]


def _average(old: Any, new: Any, beta: float, step: int) -> Any:
    keep, T = beta * (1.0 - power(beta, step - 1)) / (1.0 - power(beta, step)), new.dtype.type
    return T(keep) * old + T(1.0 - keep) * new


def _rate(grad: Any, root: Any, lr: float, eps: float) -> float:
    square = sum_of_squares(grad / larger(root, grad.dtype.type(eps))) / grad.size if grad.size else 0.0
    return lr / (math.sqrt(square) if square > 1.0 or square != square else 1.0)


def _decay(
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> tuple[float, float]:
    root = np.sqrt(_average(exp_avg_sq, grad * grad, betas[1], step))
    return 0.0, 1.0 - _rate(grad, root, lr, eps) * weight_decay


@rule(State("exp_avg", "signed"), State("exp_avg_sq", "unsigned"), norms=("grad", "exp_avg_sq"), decay=_decay)
def stable_adamw(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 0.001,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-08,
    weight_decay: float = 0.01,
    **options: Unpack[StepOptions],
) -> None:
    """One step of StableAdamW, in place. The formula and its source are in `fusedstep.StableAdamW`.

    Parameters
    ----------
    exp_avg, exp_avg_sq
        First moment :math:`m` and second moment :math:`v`, both without bias, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import stable_adamw
    >>> p, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(2)
    >>> stable_adamw(p, np.array([0.5, -1.0]), m, v, step=1, lr=0.1, weight_decay=0.0)
    True
    >>> p
    array([0.9, 2.1])
    >>> stable_adamw(p, np.array([4.0, -1.0]), m, v, step=2, lr=0.1, weight_decay=0.0)  # a large gradient
    True
    >>> p.round(4)
    array([0.8326, 2.1822])
    """
    T = param.dtype.type
    exp_avg[...] = _average(exp_avg, grad, betas[0], step)
    exp_avg_sq[...] = _average(exp_avg_sq, grad * grad, betas[1], step)
    root = np.sqrt(exp_avg_sq)
    rate = _rate(grad, root, lr, eps)
    param[...] = param * T(1.0 - rate * weight_decay) - T(rate) * (exp_avg / (root + T(eps)))
