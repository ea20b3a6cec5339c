"""Adam for gradients of some rows of a table."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import power
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["sparse_adam"]


@rule(State("exp_avg", "signed"), State("exp_avg_sq", "unsigned"), rows_without=())
def sparse_adam(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adam on the rows that have a gradient, in place, as ``torch.optim.SparseAdam``.

    The formula and its source are in `fusedstep.SparseAdam`.

    Parameters
    ----------
    param, grad
        Parameter, and gradient as `SparseRows` (or as an array: then all rows have one), or lists of them.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import sparse_adam
    >>> from fusedstep.sparse import SparseRows
    >>> p, m, v = np.ones((4, 2)), np.zeros((4, 2)), np.zeros((4, 2))
    >>> sparse_adam(p, SparseRows(np.array([2]), np.array([[0.5, -1.0]])), m, v, step=1, lr=0.1)
    True
    >>> p.round(4)
    array([[1. , 1. ],
           [1. , 1. ],
           [0.9, 1.1],
           [1. , 1. ]])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    correction1, correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    param[...] = param - T(lr * math.sqrt(correction2) / correction1) * (exp_avg / (np.sqrt(exp_avg_sq) + T(eps)))
