"""Adagrad and Adadelta: learning rates from all, or from the latest, squared gradients."""

from __future__ import annotations

import numpy as np

from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["adadelta", "adagrad"]


@rule(
    State("sum", "exact", initial="initial_accumulator_value"),
    starts={"initial_accumulator_value": 0.0},
    rows_without=("weight_decay",),
)
def adagrad(
    param: Tensors,
    grad: Tensors,
    sum: Tensors,
    *,
    step: Steps,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    eps_root: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adagrad, in place, as ``torch.optim.Adagrad``.

    The formula and its source are in `fusedstep.Adagrad`.

    Parameters
    ----------
    sum
        Sum :math:`s` of squared gradients, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adagrad
    >>> p, g, s = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> adagrad(p, g, s, step=1, lr=0.1)
    True
    >>> p.round(6), s
    (array([0.9, 2.1]), array([0.25, 1.  ]))
    """
    T = param.dtype.type
    if weight_decay:
        grad = grad + T(weight_decay) * param
    sum[...] = sum + grad * grad
    param[...] = param - T(lr / (1.0 + (step - 1) * lr_decay)) * (grad / (np.sqrt(sum + T(eps_root)) + T(eps)))


@rule(State("square_avg", "unsigned"), State("acc_delta", "unsigned"))
def adadelta(
    param: Tensors,
    grad: Tensors,
    square_avg: Tensors,
    acc_delta: Tensors,
    *,
    step: Steps,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adadelta, in place, as ``torch.optim.Adadelta``.

    The formula and its source are in `fusedstep.Adadelta`.

    Parameters
    ----------
    square_avg, acc_delta
        Running mean squares of the gradient, :math:`v`, and of the change, :math:`u`, of the parameter's
        shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adadelta
    >>> p, g, v, u = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adadelta(p, g, v, u, step=1)
    True
    >>> p.round(6)
    array([0.996838, 2.003162])
    """
    T = param.dtype.type
    if weight_decay:
        grad = grad + T(weight_decay) * param
    square_avg[...] = T(rho) * square_avg + T(1.0 - rho) * (grad * grad)
    delta = np.sqrt(acc_delta + T(eps)) / np.sqrt(square_avg + T(eps)) * grad
    acc_delta[...] = T(rho) * acc_delta + T(1.0 - rho) * (delta * delta)
    param[...] = param - T(lr) * delta
