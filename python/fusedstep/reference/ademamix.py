"""AdEMAMix."""

from __future__ import annotations

import numpy as np

from ._arithmetic import det_log, det_pow, power
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["ademamix"]


@rule(
    State("exp_avg_fast", "signed"), State("exp_avg_slow", "exact"), State("exp_avg_sq", "unsigned"), decay=of_parameter
)
def ademamix(
    param: Tensors,
    grad: Tensors,
    exp_avg_fast: Tensors,
    exp_avg_slow: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 0.001,
    betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
    alpha: float = 5.0,
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    alpha_warmup: float = 0.0,
    beta3_warmup: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of AdEMAMix, in place, as the authors' package. The formula and its source are in `fusedstep.AdEMAMix`.

    Parameters
    ----------
    exp_avg_fast, exp_avg_slow, exp_avg_sq
        First moments :math:`m_1` and :math:`m_2`, second moment :math:`v`, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import ademamix
    >>> p, g = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    >>> fast, slow, v = np.zeros(2), np.zeros(2), np.zeros(2)
    >>> ademamix(p, g, fast, slow, v, step=1, lr=0.1)
    True
    >>> p
    array([0.89995, 2.10005])
    """
    T = param.dtype.type
    beta1, beta2, beta3 = betas
    if step < alpha_warmup:
        alpha = alpha * (step / alpha_warmup)
    if step < beta3_warmup and beta1 < beta3:
        done = step / beta3_warmup
        ratio = det_log(beta3) / det_log(beta1) if beta1 else 0.0
        beta3 = det_pow(beta3, 1.0 / ((1.0 - done) * ratio + done))
    param[...] = param * T(1.0 - lr * weight_decay)
    exp_avg_fast[...] = T(beta1) * exp_avg_fast + T(1.0 - beta1) * grad
    exp_avg_slow[...] = T(beta3) * exp_avg_slow + T(1.0 - beta3) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    root = np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta2, step)))) + T(eps)
    mixed = T(lr / (1.0 - power(beta1, step))) * exp_avg_fast + T(lr * alpha) * exp_avg_slow
    param[...] = param - mixed / root
