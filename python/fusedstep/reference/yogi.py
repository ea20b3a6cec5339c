"""Yogi."""

from __future__ import annotations

import numpy as np

from ._arithmetic import power, sign
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["yogi"]


@rule(
    State("exp_avg", "signed", initial="initial_accumulator_value"),
    State("exp_avg_sq", "unsigned", initial="initial_accumulator_value"),
    starts={"initial_accumulator_value": 1e-6},
    decay=of_parameter,
)
def yogi(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 0.001,
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Yogi, in place, as ``optax.yogi``. The formula and its source are in `fusedstep.Yogi`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import yogi
    >>> p, g = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    >>> m, v = np.full(2, 1e-6), np.full(2, 1e-6)
    >>> yogi(p, g, m, v, step=1, lr=0.1)
    True
    >>> p.round(6)
    array([0.900396, 2.099849])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    param[...] = param * T(1.0 - lr * weight_decay)
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    square = grad * grad
    exp_avg_sq[...] = exp_avg_sq - T(1.0 - beta2) * (sign(exp_avg_sq - square) * square)
    root = np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta2, step)))) + T(eps)
    param[...] = param - T(lr / (1.0 - power(beta1, step))) * (exp_avg / root)
