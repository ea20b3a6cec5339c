"""AdaBelief."""

from __future__ import annotations

import numpy as np

from ._arithmetic import power
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["adabelief"]


@rule(State("exp_avg", "signed"), State("exp_avg_var", "unsigned"), decay=of_parameter)
def adabelief(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_var: Tensors,
    *,
    step: Steps,
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-16,
    eps_root: float = 1e-16,
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of AdaBelief, in place, as ``optax.adabelief``.

    The formula and its source are in `fusedstep.AdaBelief`.

    Parameters
    ----------
    exp_avg, exp_avg_var
        First moment :math:`m`, and second moment :math:`s` around it, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adabelief
    >>> p, g, m, s = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adabelief(p, g, m, s, step=1, lr=0.1)
    True
    >>> p.round(6)
    array([0.888889, 2.111111])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    param[...] = param * T(1.0 - lr * weight_decay)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    surprise = grad - exp_avg
    exp_avg_var[...] = T(beta2) * exp_avg_var + T(1.0 - beta2) * (surprise * surprise) + T(eps_root)
    root = np.sqrt(exp_avg_var * T(1.0 / (1.0 - power(beta2, step)))) + T(eps)
    param[...] = param - T(lr / (1.0 - power(beta1, step))) * (exp_avg / root)
