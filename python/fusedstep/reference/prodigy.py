"""Prodigy."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import power
from ._rule import Whole
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["prodigy"]


FACTORS = ("step", "lr", "betas", "bias_correction", "safeguard_warmup", "d0")


def _factors(
    d: float, step: int, lr: float, betas: tuple[float, float], bias_correction: bool, safeguard_warmup: bool, d0: float
) -> tuple[float, float, float]:
    """The rate of this step, and the weights of a new gradient in the two sums over the model."""
    rate = d * lr
    if bias_correction:
        rate = rate * (math.sqrt(1.0 - power(betas[1], step)) / (1.0 - power(betas[0], step)))
    relative = d / d0
    return rate, relative * rate, relative * (d if safeguard_warmup else rate) if lr != 0.0 else 0.0


def _sums(
    param: Tensors, grad: Tensors, exp_avg: Tensors, exp_avg_sq: Tensors, s: Tensors, p0: Tensors, **given: Tensors
) -> tuple[Tensors, Tensors]:
    """What is summed over all parameters: how far they came along the gradients, and the length of the new `s`."""
    T = param.dtype.type
    _, gain, weight = _factors(given["scalars"][0], **{name: given[name] for name in FACTORS})
    keep = math.sqrt(given["betas"][1]) if given["lr"] != 0.0 else 0.0
    grad = grad + T(0.0 if given["decoupled_weight_decay"] else given["weight_decay"]) * param
    return T(gain) * grad * (p0 - param), np.abs(T(keep) * s + T(weight) * grad)


def _decay(*arrays: Tensors, **given: Tensors) -> tuple[float, float]:
    decay, whole = given["weight_decay"], given["whole"]
    if not given["decoupled_weight_decay"]:
        return decay, 1.0
    rate = _factors(whole.scalars[0], **{name: given[name] for name in FACTORS})[0] if whole.sums[1] != 0.0 else 0.0
    return 0.0, 1.0 - rate * decay


@rule(
    State("exp_avg", "signed"),
    State("exp_avg_sq", "unsigned"),
    State("s", "exact"),
    State("p0", "exact", initial="param"),
    scalars={"d": "d0", "d_max": "d0", "d_numerator": 0.0},
    norms=("param", "grad", "s", "p0"),
    sums=_sums,
    decay=_decay,
)
def prodigy(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    s: Tensors,
    p0: Tensors,
    d: Tensors,
    d_max: Tensors,
    d_numerator: Tensors,
    *,
    step: Steps,
    whole: Whole,
    lr: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-08,
    weight_decay: float = 0.0,
    decoupled_weight_decay: bool = True,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-06,
    d_coef: float = 1.0,
    growth_rate: float = math.inf,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Prodigy, in place, as the authors' package. The formula and its source are in `fusedstep.Prodigy`.

    The two sums go over all tensors of the call.

    Parameters
    ----------
    s
        Weighted sum of gradients, of the parameter's shape.
    p0
        The parameter :math:`p_0` before the first step.
    d, d_max, d_numerator
        float64 arrays of shape (): the estimate :math:`d`, its bound :math:`d_{max}` and the sum :math:`r`. The step
        goes on from those of the tensor with the largest :math:`d`, and leaves all with the same.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import prodigy
    >>> p, d, d_max, r = np.array([1.0, 2.0]), np.array(0.1), np.array(0.1), np.zeros(())
    >>> m, v, s, start = np.zeros(2), np.zeros(2), np.zeros(2), p.copy()
    >>> for t in range(1, 4):
    ...     taken = prodigy(p, 2 * p, m, v, s, start, d, d_max, r, step=t, d0=0.1)
    >>> p.round(4), d.round(4)
    (array([-0.3571,  0.5765]), np.float64(0.3528))
    """
    T = param.dtype.type
    beta1, beta2 = betas if lr != 0.0 else (1.0, 1.0)  # its states stay as they are
    estimate, largest, numerator = whole.scalars
    taken = estimate if lr != 0.0 else 0.0  # also where the estimate's square is infinite
    rate, _, weight = _factors(estimate, step, lr, betas, bias_correction, safeguard_warmup, d0)
    grad = grad + T(0.0 if decoupled_weight_decay else weight_decay) * param
    exp_avg[...] = T(beta1) * exp_avg + T(taken * (1.0 - beta1)) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(taken * taken * (1.0 - beta2)) * (grad * grad)
    s[...] = T(math.sqrt(beta2)) * s + T(weight) * grad
    shrink = 1.0 - rate * weight_decay if decoupled_weight_decay else 1.0
    progress, path = whole.sums
    if path == 0.0:  # no gradient yet: as in the authors' code, nothing moves
        rate, shrink = 0.0, 1.0
    else:
        numerator = math.sqrt(betas[1]) * numerator + progress
        found = d_coef * numerator / path
        if estimate == d0 and found > estimate:
            estimate = found
        largest = found if found > largest else largest
        grown = estimate * growth_rate
        estimate = grown if grown < largest else largest
    d[...], d_max[...], d_numerator[...] = estimate, largest, numerator
    param[...] = param * T(shrink) - T(rate) * (exp_avg / (np.sqrt(exp_avg_sq) + T(estimate * eps)))
