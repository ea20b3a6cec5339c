"""Adamax."""

from __future__ import annotations

import numpy as np

from ._arithmetic import larger, power
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient, rule

__all__ = ["adamax"]


@rule(State("exp_avg", "signed"), State("exp_inf", "unsigned"), decay=in_gradient)
def adamax(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_inf: Tensors,
    *,
    step: Steps,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    eps_norm: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adamax, in place, as ``torch.optim.Adamax``. The formula and its source are in `fusedstep.Adamax`.

    Parameters
    ----------
    exp_avg, exp_inf
        First moment :math:`m` and weighted largest magnitude :math:`u`, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adamax
    >>> p, g, m, u = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adamax(p, g, m, u, step=1, lr=0.1)
    True
    >>> p.round(6)
    array([0.9, 2.1])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    if weight_decay:
        grad = grad + T(weight_decay) * param
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_inf[...] = larger(T(beta2) * exp_inf, np.abs(grad) + T(eps))
    param[...] = param - T(lr / (1.0 - power(beta1, step))) * (exp_avg / (exp_inf + T(eps_norm)))
