"""Adagrad and Adadelta: learning rates from all, or from the latest, squared gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._frame import Around, State, Steps, Tensors, rule

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["adadelta", "adagrad"]


@rule(State("sum", "exact", initial="initial_accumulator_value"), rows_without=("weight_decay",))
def adagrad(
    param: Tensors,
    grad: Tensors,
    sum: Tensors,
    *,
    step: Steps,
    lr: float = 1e-2,
    lr_decay: float = 0.0,
    weight_decay: float = 0.0,
    eps: float = 1e-10,
    eps_root: float = 0.0,
    **around: Unpack[Around],
) -> None:
    r"""One step of Adagrad, in place, as ``torch.optim.Adagrad``.

    .. math::
        g &\leftarrow g + \lambda p \\
        s &\leftarrow s + g^2 \\
        p &\leftarrow p - \frac{\eta}{1 + (t - 1) \gamma} \, g / (\sqrt{s + \epsilon_{root}} + \epsilon)

    Duchi, Hazan and Singer (2011), "Adaptive subgradient methods for online learning and stochastic
    optimization", figure 1 (diagonal case).

    Parameters
    ----------
    param, grad
        Parameter and gradient, or lists of them.
    sum
        Sum :math:`s` of squared gradients, of the parameter's shape.
    step
        Number :math:`t` of this step, from 1; a list for a list of parameters of different ages.
    lr
        Learning rate :math:`\eta`.
    lr_decay
        Decay :math:`\gamma` of the learning rate.
    weight_decay
        L2 penalty :math:`\lambda`.
    eps, eps_root
        Added to the square root, and to what it is taken of.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adagrad
    >>> p, g, s = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2)
    >>> adagrad(p, g, s, step=1, lr=0.1)
    True
    >>> p.round(6), s
    (array([0.9, 2.1]), array([0.25, 1.  ]))
    """
    T = param.dtype.type
    if weight_decay:
        grad = grad + T(weight_decay) * param
    sum[...] = sum + grad * grad
    param[...] = param - T(lr / (1.0 + (step - 1) * lr_decay)) * (grad / (np.sqrt(sum + T(eps_root)) + T(eps)))


@rule(State("square_avg", "unsigned"), State("acc_delta", "unsigned"))
def adadelta(
    param: Tensors,
    grad: Tensors,
    square_avg: Tensors,
    acc_delta: Tensors,
    *,
    step: Steps,
    lr: float = 1.0,
    rho: float = 0.9,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    **around: Unpack[Around],
) -> None:
    r"""One step of Adadelta, in place, as ``torch.optim.Adadelta``.

    .. math::
        g &\leftarrow g + \lambda p \\
        v &\leftarrow \rho v + (1 - \rho) g^2 \\
        d &= \sqrt{u + \epsilon} / \sqrt{v + \epsilon} \cdot g \\
        u &\leftarrow \rho u + (1 - \rho) d^2 \\
        p &\leftarrow p - \eta d

    Zeiler (2012), "ADADELTA: an adaptive learning rate method", algorithm 1.

    Parameters
    ----------
    param, grad
        Parameter and gradient, or lists of them.
    square_avg, acc_delta
        Running mean squares of the gradient, :math:`v`, and of the change, :math:`u`, of the parameter's
        shape.
    step
        Number :math:`t` of this step, from 1; a list for a list of parameters of different ages.
    lr
        Learning rate :math:`\eta`.
    rho
        Weight :math:`\rho` of the old means, in [0, 1].
    eps
        Added to what the square roots are taken of.
    weight_decay
        L2 penalty :math:`\lambda`.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import adadelta
    >>> p, g, v, u = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.zeros(2), np.zeros(2)
    >>> adadelta(p, g, v, u, step=1)
    True
    >>> p.round(6)
    array([0.996838, 2.003162])
    """
    T = param.dtype.type
    if weight_decay:
        grad = grad + T(weight_decay) * param
    square_avg[...] = T(rho) * square_avg + T(1.0 - rho) * (grad * grad)
    delta = np.sqrt(acc_delta + T(eps)) / np.sqrt(square_avg + T(eps)) * grad
    acc_delta[...] = T(rho) * acc_delta + T(1.0 - rho) * (delta * delta)
    param[...] = param - T(lr) * delta
