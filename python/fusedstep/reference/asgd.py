"""Averaged stochastic gradient descent."""

from __future__ import annotations

from ._arithmetic import det_pow
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["asgd"]


@rule(State("ax", "exact"), scalars={"eta": "lr", "mu": 1.0})
def asgd(
    param: Tensors,
    grad: Tensors,
    ax: Tensors,
    eta: Tensors,
    mu: Tensors,
    *,
    step: Steps,
    lr: float = 1e-2,
    lambd: float = 1e-4,
    alpha: float = 0.75,
    t0: float = 1e6,
    weight_decay: float = 0.0,
    **options: Unpack[StepOptions],
) -> None:
    r"""One step of averaged stochastic gradient descent, in place, as ``torch.optim.ASGD``.

    The formula and its source are in `fusedstep.ASGD`.

    Parameters
    ----------
    ax
        Average :math:`\bar p` of the parameter, of its shape.
    eta, mu
        Step size :math:`\eta_t` and weight :math:`\mu_t` of this step, replaced by those of the next: float64
        arrays of shape (), `lr` and 1 before the first step.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import asgd
    >>> p, g, ax = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> eta, mu = np.array(0.1), np.array(1.0)
    >>> asgd(p, g, ax, eta, mu, step=1, lr=0.1)
    True
    >>> p, ax
    (array([0.94999, 2.09998]), array([0.94999, 2.09998]))
    """
    T = param.dtype.type
    rate, weight = float(eta), float(mu)
    if weight_decay:
        grad = grad + T(weight_decay) * param
    param[...] = param * T(1.0 - lambd * rate) - T(rate) * grad
    ax[...] = param if T(weight) == T(1.0) else ax + T(weight) * (param - ax)
    eta[...] = lr / det_pow(1.0 + lambd * lr * step, alpha)
    mu[...] = 1.0 / max(1.0, step - t0)
