"""Adafactor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ._arithmetic import advance, det_pow, larger, squares_of_columns, squares_of_rows, sum_of_squares
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["adafactor"]


@rule(
    State("row_var", "exact", form="rows"),
    State("col_var", "exact", form="columns"),
    State("variance", "exact", form="vector"),
    norms=("param", "grad", "variance"),
)
def adafactor(
    param: Tensors,
    grad: Tensors,
    row_var: Tensors = None,
    col_var: Tensors = None,
    variance: Tensors = None,
    *,
    step: Steps,
    shape: tuple[int, ...],
    lr: float = 0.01,
    beta2_decay: float = -0.8,
    eps: tuple[float | None, float] = (None, 0.001),
    d: float = 1.0,
    weight_decay: float = 0.0,
    relative_step: bool = True,
    scale_parameter: bool = True,
    like_transformers: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Adafactor, in place, as ``torch.optim.Adafactor``. The formula is in `fusedstep.Adafactor`.

    Parameters
    ----------
    row_var, col_var
        Row means and column means of the second moment, of the parameter's shape with 1 in the place of its last axis,
        or of its last but one. None for a parameter of less than two axes.
    variance
        Second moment of a parameter of less than two axes, of its shape. None for all others.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adafactor
    >>> p, rows, columns = np.ones((2, 2)), np.zeros((2, 1)), np.zeros((1, 2))
    >>> adafactor(p, np.array([[1.0, -2.0], [2.0, 4.0]]), rows, columns, None, step=1)
    True
    >>> rows, columns
    (array([[ 2.5],
           [10. ]]), array([[ 2.5, 10. ]]))
    >>> p.round(4)
    array([[0.99, 1.01],
           [0.99, 0.99]])
    """
    if not param.size:
        return
    T, tiny = param.dtype.type, float(np.finfo(param.dtype).tiny)
    take = det_pow(float(step), beta2_decay)
    least = float(np.finfo(param.dtype).eps) if eps[0] is None else eps[0]
    inside, floor = (least, 0.0) if like_transformers else (0.0, least * least)
    if variance is None:
        matrices = grad.reshape(-1, *shape[-2:])
        advance(row_var, squares_of_rows(matrices) / shape[-1] + inside, 1.0 - take, take)
        advance(col_var, squares_of_columns(matrices) / shape[-2] + inside, 1.0 - take, take)
        inverse = _inverse_roots(row_var.reshape(-1, shape[-2]), col_var.reshape(-1, shape[-1]), max(least, tiny))
        update = grad * np.minimum(inverse, T(1.0 / math.sqrt(max(floor, tiny))))
    else:
        variance[...] = T(1.0 - take) * variance + T(take) * (grad * grad + T(inside))
        update = grad / np.sqrt(larger(variance, T(max(floor, tiny))))
    excess = math.sqrt(sum_of_squares(update) / update.size) / d
    size = math.sqrt(sum_of_squares(param) / param.size)
    rate = min(lr, 1.0 / math.sqrt(step)) if relative_step else lr
    if scale_parameter:
        rate *= size if size > eps[1] or size != size else eps[1]
    shrink = 1.0 - (rate if like_transformers else lr) * weight_decay
    param[...] = param * T(shrink) - T(rate / (excess if excess > 1.0 or excess != excess else 1.0)) * update


def _inverse_roots(rows: Any, columns: Any, least: float) -> Any:
    """Those of the second moment of matrices, flattened, from its row means and column means.

    A root and a division for every row and every column, and none for the elements.
    """
    mean = np.zeros(len(rows))
    for i in range(rows.shape[1]):
        mean += rows[:, i]
    mean /= rows.shape[1]
    mean[mean < least] = least
    by_row, by_column = (
        (1.0 / np.sqrt(means.astype(np.float64))).astype(columns.dtype)
        for means in (rows * (1.0 / mean)[:, None], columns)
    )
    return (by_row[:, :, None] * by_column[:, None, :]).reshape(-1)
