"""Adam-mini."""

from __future__ import annotations

import numpy as np

from ._arithmetic import advance, power, squares_of_rows
from ._step import State, StepOptions, Steps, Tensors, Unpack, of_parameter, rule

__all__ = ["adam_mini"]


@rule(State("exp_avg", "signed"), State("exp_avg_sq", "exact", form="blocks"), decay=of_parameter)
def adam_mini(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    *,
    step: Steps,
    shape: tuple[int, ...],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    blocks: int = 0,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adam-mini, in place. The formula and its source are in `fusedstep.AdamMini`.

    Parameters
    ----------
    exp_avg_sq
        Second moment :math:`v` of every block, of shape ``(blocks,)``. With ``blocks=0``, ``(n,)`` for a parameter of
        two axes or more whose first has n indices, and ``(1,)`` for all others.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adam_mini
    >>> p, g = np.ones((2, 2)), np.array([[3.0, -4.0], [0.0, 2.0]])
    >>> m, v = np.zeros((2, 2)), np.zeros(2)
    >>> adam_mini(p, g, m, v, step=1, lr=0.1)
    True
    >>> v.round(6), p.round(4)
    (array([0.0125, 0.002 ]), array([[0.9151, 1.1131],
           [1.    , 0.8586]]))
    """
    if not param.size:
        return
    T = param.dtype.type
    rows = grad.reshape(exp_avg_sq.size, -1)
    advance(exp_avg_sq, squares_of_rows(rows) / rows.shape[1], betas[1], 1.0 - betas[1])
    exp_avg[...] = T(betas[0]) * exp_avg + T(1.0 - betas[0]) * grad
    root = np.sqrt(exp_avg_sq.astype(np.float64) * (1.0 / (1.0 - power(betas[1], step)))) + eps
    update = exp_avg * np.repeat((1.0 / root).astype(T), rows.shape[1])
    param[...] = param * T(1.0 - lr * weight_decay) - T(lr / (1.0 - power(betas[0], step))) * update
