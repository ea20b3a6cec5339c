"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._arithmetic import larger, power
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient, of_parameter, rule

__all__ = ["adam", "adamw"]

STATES = (
    State("exp_avg", "signed"),
    State("exp_avg_sq", "unsigned"),
    State("max_exp_avg_sq", "unsigned", when="amsgrad"),
)


def _descend(
    param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, max_exp_avg_sq: Any, step: Any,
    lr: float, betas: tuple[float, float], eps: float, eps_root: float, amsgrad: bool,
) -> None:  # fmt: skip
    """What Adam and AdamW share: the moments and the step along them."""
    T = param.dtype.type
    beta1, beta2 = betas
    correction1, correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    second = exp_avg_sq
    if amsgrad:
        max_exp_avg_sq[...] = larger(max_exp_avg_sq, exp_avg_sq)
        second = max_exp_avg_sq
    root = np.sqrt(second * T(1.0 / correction2) + T(eps_root)) + T(eps)
    param[...] = param - T(lr / correction1) * (exp_avg / root)


@rule(*STATES, decay=in_gradient)
def adam(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    max_exp_avg_sq: Tensors = None,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    eps_root: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adam, in place, as ``torch.optim.Adam``. The formula and its source are in `fusedstep.Adam`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adam
    >>> p, g, m, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adam(p, g, m, v, step=1, lr=0.1)
    True
    >>> p.round(6)
    array([0.9, 2.1])
    """
    if weight_decay:
        grad = grad + param.dtype.type(weight_decay) * param
    _descend(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, eps_root, amsgrad)


@rule(*STATES, decay=of_parameter)
def adamw(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    max_exp_avg_sq: Tensors = None,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    amsgrad: bool = False,
    eps_root: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of AdamW, in place, as ``torch.optim.AdamW``. The formula and its source are in `fusedstep.AdamW`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adamw
    >>> p, g, m, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adamw(p, g, m, v, step=1, lr=0.1, weight_decay=0.5)
    True
    >>> p.round(6)
    array([0.85, 2.  ])
    """
    param[...] = param * param.dtype.type(1.0 - lr * weight_decay)
    _descend(param, grad, exp_avg, exp_avg_sq, max_exp_avg_sq, step, lr, betas, eps, eps_root, amsgrad)
