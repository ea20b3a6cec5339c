"""Schedule-free SGD and AdamW."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._floats import default_floats
from ._arithmetic import det_pow, power
from ._rule import PARAM
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["schedule_free_adamw", "schedule_free_average", "schedule_free_interpolation", "schedule_free_sgd"]

Array = NDArray[Any]


def _weigh(
    step: int, lr: float, warmup_steps: float, r: float, power: float, lr_max: Any, weight_sum: Any
) -> tuple[float, float]:
    """The learning rate after warm-up, and the weight of this step's z in the average."""
    rate = lr * (step / warmup_steps) if step < warmup_steps else lr
    largest = max(float(lr_max), rate)
    count = det_pow(float(step), r) * det_pow(largest, power)
    total = float(weight_sum) + count
    lr_max[...], weight_sum[...] = largest, total
    return rate, count / total if total else 0.0


@default_floats()
def schedule_free_average(param: Array, z: Array, *, beta: float) -> Array:
    r"""Where a schedule-free model is evaluated and saved.

    .. math:: x = y + (1 - 1 / \beta) (z - y)

    Parameters
    ----------
    param, z
        The parameter :math:`y` and the state :math:`z`, of one dtype and shape.
    beta
        ``momentum`` of `schedule_free_sgd`, ``betas[0]`` of `schedule_free_adamw`.

    Returns
    -------
    array
        A new array. `schedule_free_interpolation` is the way back, within rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import schedule_free_average
    >>> schedule_free_average(np.array([1.0, 2.0]), np.array([1.0, 1.0]), beta=0.5)
    array([1., 3.])
    """
    average: Array = param + param.dtype.type(1.0 - 1.0 / beta) * (z - param)
    return average


@default_floats()
def schedule_free_interpolation(average: Array, z: Array, *, beta: float) -> Array:
    r"""Where the gradients of a schedule-free model are taken.

    .. math:: y = x + (1 - \beta) (z - x)

    Parameters
    ----------
    average, z
        The average :math:`x` and the state :math:`z`, of one dtype and shape.
    beta
        ``momentum`` of `schedule_free_sgd`, ``betas[0]`` of `schedule_free_adamw`.

    Returns
    -------
    array
        A new array.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import schedule_free_interpolation
    >>> schedule_free_interpolation(np.array([1.0, 3.0]), np.array([1.0, 1.0]), beta=0.5)
    array([1., 2.])
    """
    interpolation: Array = average + average.dtype.type(1.0 - beta) * (z - average)
    return interpolation


@rule(State("z", "exact", initial=PARAM), scalars={"lr_max": 0.0, "weight_sum": 0.0})
def schedule_free_sgd(
    param: Tensors,
    grad: Tensors,
    z: Tensors,
    lr_max: Tensors,
    weight_sum: Tensors,
    *,
    step: Steps,
    lr: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    **options: Unpack[StepOptions],
) -> None:
    r"""One step of schedule-free SGD, in place; the parameter is :math:`y`, where gradients are taken.

    The formula and its source are in `fusedstep.ScheduleFreeSGD`.

    Parameters
    ----------
    z
        Sequence :math:`z` of plain steps, of the parameter's shape; a copy of the parameter before the first
        step.
    lr_max, weight_sum
        Largest learning rate :math:`\eta_{max}` so far, and sum :math:`W` of the weights: float64 arrays of
        shape (), 0 before the first step.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import schedule_free_sgd
    >>> y, g = np.array([1.0, 2.0]), np.array([0.5, -1.0])
    >>> z, lr_max, weight_sum = y.copy(), np.zeros(()), np.zeros(())
    >>> schedule_free_sgd(y, g, z, lr_max, weight_sum, step=1, lr=0.1)
    True
    >>> y, z
    (array([0.95, 2.1 ]), array([0.95, 2.1 ]))
    """
    T = param.dtype.type
    rate, weight = _weigh(step, lr, warmup_steps, r, weight_lr_power, lr_max, weight_sum)
    if weight_decay:
        grad = grad + T(weight_decay) * param
    param[...] = param + T(weight) * (z - param) - T(rate * (1.0 - momentum * (1.0 - weight))) * grad
    z[...] = z - T(rate) * grad


@rule(State("z", "exact", initial=PARAM), State("exp_avg_sq", "unsigned"), scalars={"lr_max": 0.0, "weight_sum": 0.0})
def schedule_free_adamw(
    param: Tensors,
    grad: Tensors,
    z: Tensors,
    exp_avg_sq: Tensors,
    lr_max: Tensors,
    weight_sum: Tensors,
    *,
    step: Steps,
    lr: float = 2.5e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
    **options: Unpack[StepOptions],
) -> None:
    r"""One step of schedule-free AdamW, in place; the parameter is :math:`y`, where gradients are taken.

    The formula and its source are in `fusedstep.ScheduleFreeAdamW`.

    Parameters
    ----------
    z, exp_avg_sq
        Sequence :math:`z` of Adam's steps (a copy of the parameter before the first step) and second moment
        :math:`v`, of the parameter's shape.
    lr_max, weight_sum
        Largest learning rate :math:`\eta_{max}` so far, and sum :math:`W` of the weights: float64 arrays of
        shape (), 0 before the first step.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import schedule_free_adamw
    >>> y, g, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> z, lr_max, weight_sum = y.copy(), np.zeros(()), np.zeros(())
    >>> schedule_free_adamw(y, g, z, v, lr_max, weight_sum, step=1, lr=0.1)
    True
    >>> y.round(6), z.round(6)
    (array([0.9, 2.1]), array([0.9, 2.1]))
    """
    T = param.dtype.type
    beta1, beta2 = betas
    rate, weight = _weigh(step, lr, warmup_steps, r, weight_lr_power, lr_max, weight_sum)
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    change = grad / (np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta2, step)))) + T(eps))
    if weight_decay:
        change = change + T(weight_decay) * param
    param[...] = param + T(weight) * (z - param) - T(rate * (1.0 - beta1 * (1.0 - weight))) * change
    z[...] = z - T(rate) * change
