"""Muon: momentum whose matrices are made orthogonal."""

from __future__ import annotations

import math

import numpy as np

from ._arithmetic import sum_of_squares
from ._newton_schulz import as_matrices, lr_factor, newton_schulz
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["muon"]


@rule(
    State("momentum_buffer", "signed"),
    norms=("grad", "momentum_buffer"),
    outside=("ns_coefficients", "ns_steps", "adjust_lr_fn", "reshape"),
)
def muon(
    param: Tensors,
    grad: Tensors,
    momentum_buffer: Tensors,
    *,
    step: Steps,
    shape: tuple[int, ...],
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    ns_steps: int = 5,
    adjust_lr_fn: str | None = None,
    reshape: str | None = None,
    **options: Unpack[StepOptions],
) -> None:
    """One step of Muon on matrices, in place, as ``torch.optim.Muon``.

    The formula and its source are in `fusedstep.Muon`.

    Parameters
    ----------
    param, grad
        Parameter and gradient of two axes or more (see `reshape`), or lists of them.
    momentum_buffer
        Average :math:`m` of the gradients, of the parameter's shape.

    Notes
    -----
    The matrix product is NumPy's, and its bits depend on the machine. Given the same product, the native step leaves
    the same bytes.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import muon
    >>> p, g, m = np.eye(2), np.array([[1.0, 0.0], [0.0, 4.0]]), np.zeros((2, 2))
    >>> muon(p, g, m, step=1, lr=0.1)
    True
    >>> p.round(4)
    array([[0.9157, 0.    ],
           [0.    , 0.9163]])
    """
    T = param.dtype.type
    part = T(1.0 - momentum) * grad
    momentum_buffer[...] = T(momentum) * momentum_buffer + part
    direction = part + T(momentum) * momentum_buffer if nesterov else momentum_buffer.copy()
    found = as_matrices(shape, reshape)
    assert found is not None  # checked before
    count, rows, columns = found
    if direction.size:
        norm = math.sqrt(sum_of_squares(direction))
        divisor = T(max(norm, eps))
        direction = direction / (divisor if divisor else T(1))
        newton_schulz(
            direction.reshape(found),
            steps=ns_steps,
            coefficients=ns_coefficients,
            factor=lr_factor(adjust_lr_fn, rows, columns),
            lowest=np.full(count, eps / max(norm, eps)) if count > 1 else None,
        )
    param[...] = param * T(1.0 - lr * weight_decay) - T(lr) * direction
