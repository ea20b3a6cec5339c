"""NovoGrad."""

from __future__ import annotations

import math

from ._arithmetic import sum_of_squares
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["novograd"]


@rule(State("exp_avg", "signed"), scalars={"exp_avg_sq": 0.0}, norms=("grad",))
def novograd(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    lr: float = 0.001,
    betas: tuple[float, float] = (0.95, 0.98),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    grad_averaging: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of NovoGrad, in place, as ``optax.novograd``. The formula and its source are in `fusedstep.NovoGrad`.

    Parameters
    ----------
    exp_avg_sq
        float64 array of shape (): the second moment :math:`v`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import novograd
    >>> p, m, v = np.array([1.0, 2.0]), np.zeros(2), np.zeros(())
    >>> novograd(p, np.array([3.0, -4.0]), m, v, step=1, lr=0.1)
    True
    >>> p, v
    (array([0.94, 2.08]), array(25.))
    """
    T = param.dtype.type
    beta1, beta2 = betas
    square = sum_of_squares(grad)
    if step != 1:
        square = beta2 * float(exp_avg_sq) + (1.0 - beta2) * square
    exp_avg_sq[...] = square
    root = math.sqrt(square) + eps
    take = 1.0 - beta1 if grad_averaging and step != 1 else 1.0
    change = grad * T(1.0 / root if root else math.inf) + T(weight_decay) * param
    exp_avg[...] = T(beta1) * exp_avg + T(take) * change
    param[...] = param - T(lr) * exp_avg
