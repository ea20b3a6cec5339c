"""Lion."""

from __future__ import annotations

from ._arithmetic import sign
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["lion"]


@rule(State("exp_avg", "signed"), decay=of_parameter)
def lion(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    *,
    step: Steps,
    lr: float = 1e-4,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Lion, in place, as ``optax.lion``. The formula and its source are in `fusedstep.Lion`.

    Parameters
    ----------
    exp_avg
        Moment :math:`m`, of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import lion
    >>> p, g, m = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> lion(p, g, m, step=1, lr=0.1)
    True
    >>> p
    array([0.9, 2.1])
    """
    T = param.dtype.type
    beta1, beta2 = betas
    direction = sign(T(beta1) * exp_avg + T(1.0 - beta1) * grad)
    param[...] = param * T(1.0 - lr * weight_decay) - T(lr) * direction
    exp_avg[...] = T(beta2) * exp_avg + T(1.0 - beta2) * grad
