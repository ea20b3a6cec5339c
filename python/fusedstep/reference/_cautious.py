"""Cautious steps: only where the step goes against the gradient.

Liang et al. (2024), "Cautious optimizers: improving training with one line of code", algorithm 1, with the scale of the
authors' code for AdamW (https://github.com/kyleliang919/C-Optim, ``c_adamw.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decay", "in_gradient", "in_gradient_or_apart", "of_parameter", "step_cautiously"]

Array = NDArray[Any]

Decay = Callable[..., tuple[float, float]]
"""How a rule's weight decay enters, from the arguments of its maths without the parameter: what times the parameter is
added to the gradient (L2), and what the parameter is multiplied by."""

LEAST_SHARE = 1e-3
"""Steps are made longer by at most the inverse of this."""


def in_gradient(*arrays: Array, weight_decay: float, **hypers: Any) -> tuple[float, float]:
    """The decay of a rule that adds an L2 penalty."""
    return weight_decay, 1.0


def of_parameter(*arrays: Array, lr: float, weight_decay: float, **hypers: Any) -> tuple[float, float]:
    """The decay of a rule that shrinks the parameter."""
    return 0.0, 1.0 - lr * weight_decay


def in_gradient_or_apart(*arrays: Array, decoupled_weight_decay: bool, **hypers: Any) -> tuple[float, float]:
    """The decay of a rule that does one or the other."""
    return of_parameter(**hypers) if decoupled_weight_decay else in_gradient(**hypers)


def step_cautiously(
    maths: Callable[..., None], decay: Decay, param: Array, grad: Array, *states: Any, **hypers: Any
) -> None:
    r"""Take a rule's step where it goes against the gradient, in place.

    .. math::
        g &\leftarrow g + \lambda_2 p \\
        u &= \text{what the rule, with } g \text{, makes of parameters that are } 0 \\
        m &= [u g < 0], \quad \alpha = 1 / \max(\mathrm{mean}(m), 10^{-3}) \\
        p &\leftarrow \gamma p + \alpha m u

    :math:`\lambda_2` is the L2 penalty and :math:`\gamma` the factor of a decoupled decay, which is not masked. Signs
    are compared, so that no product can underflow. NaN and infinite steps that are masked make NaN.

    Parameters
    ----------
    maths, decay
        The rule.
    param, grad
        Flat arrays of the compute type.
    *states
        States and scalars of the rule.
    **hypers
        Hyper-parameters and ``step``.
    """
    T = param.dtype.type
    l2, shrink = decay(grad, *states, **hypers)
    if T(l2):
        grad = grad + T(l2) * param
    step = np.zeros_like(param)
    maths(step, grad, *states, **hypers)
    descends = ((step < 0) & (grad > 0)) | ((step > 0) & (grad < 0))
    share = np.count_nonzero(descends) / param.size if param.size else 0.0
    scale = 1.0 / (share if share > LEAST_SHARE else LEAST_SHARE)
    param[...] = param * T(shrink) + step * (T(scale) * descends.astype(T))
