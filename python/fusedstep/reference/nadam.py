"""NAdam."""

from __future__ import annotations

import numpy as np

from ._arithmetic import det_pow, power
from ._step import State, StepOptions, Steps, Tensors, Unpack, in_gradient_or_apart, rule

__all__ = ["nadam"]


@rule(
    State("exp_avg", "signed"), State("exp_avg_sq", "unsigned"), scalars={"mu_product": 1.0}, decay=in_gradient_or_apart
)
def nadam(
    param: Tensors,
    grad: Tensors,
    exp_avg: Tensors,
    exp_avg_sq: Tensors,
    mu_product: Tensors,
    *,
    step: Steps,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum_decay: float = 4e-3,
    decoupled_weight_decay: bool = False,
    **options: Unpack[StepOptions],
) -> None:
    r"""One step of NAdam, in place, as ``torch.optim.NAdam``. The formula and its source are in `fusedstep.NAdam`.

    Parameters
    ----------
    mu_product
        Product :math:`\Pi` of the momenta so far: a float64 array of shape (), 1 before the first step.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import nadam
    >>> p, g, m, v = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> mu_product = np.ones(())
    >>> nadam(p, g, m, v, mu_product, step=1, lr=0.1)
    True
    >>> p.round(6), mu_product.round(6)
    (array([0.894355, 2.105645]), np.float64(0.450073))
    """
    T = param.dtype.type
    beta1, beta2 = betas
    param[...] = param * T(1.0 - lr * weight_decay if decoupled_weight_decay else 1.0)
    if weight_decay and not decoupled_weight_decay:
        grad = grad + T(weight_decay) * param
    exp_avg[...] = T(beta1) * exp_avg + T(1.0 - beta1) * grad
    exp_avg_sq[...] = T(beta2) * exp_avg_sq + T(1.0 - beta2) * (grad * grad)
    mu = beta1 * (1.0 - 0.5 * det_pow(0.96, step * momentum_decay))
    mu_next = beta1 * (1.0 - 0.5 * det_pow(0.96, (step + 1) * momentum_decay))
    product = float(mu_product) * mu
    mu_product[...] = product
    change = T(lr * (1.0 - mu) / (1.0 - product)) * grad + T(lr * mu_next / (1.0 - product * mu_next)) * exp_avg
    param[...] = param - change / (np.sqrt(exp_avg_sq * T(1.0 / (1.0 - power(beta2, step)))) + T(eps))
