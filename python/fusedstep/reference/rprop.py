"""Resilient backpropagation."""

from __future__ import annotations

import numpy as np

from ._arithmetic import clamp, sign
from ._step import State, StepOptions, Steps, Tensors, Unpack, rule

__all__ = ["rprop"]


@rule(State("prev", "signed"), State("step_size", "exact", initial="lr"), starts={"lr": 1e-2})
def rprop(
    param: Tensors,
    grad: Tensors,
    prev: Tensors,
    step_size: Tensors,
    *,
    step: Steps,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
    **options: Unpack[StepOptions],
) -> None:
    r"""One step of resilient backpropagation, in place, as ``torch.optim.Rprop``.

    The formula and its source are in `fusedstep.Rprop`.

    Parameters
    ----------
    prev, step_size
        Previous gradient :math:`g'` (zeros before the first step) and step sizes :math:`\eta` (the learning
        rate before the first step), of the parameter's shape.

    Examples
    --------
    >>> import numpy as np
    >>> from fusedstep.reference import rprop
    >>> p, g, prev, size = np.array([1.0, 2.0]), np.array([0.5, -1.0]), np.array([1.0, 1.0]), np.full(2, 0.1)
    >>> rprop(p, g, prev, size, step=2)
    True
    >>> p, size
    (array([0.88, 2.  ]), array([0.12, 0.05]))
    """
    T = param.dtype.type
    agreement = grad * prev
    factor = np.where(agreement > 0, T(etas[1]), np.where(agreement < 0, T(etas[0]), T(1.0)))
    step_size[...] = clamp(step_size * factor, T(step_sizes[0]), T(step_sizes[1]))
    grad = np.where(agreement < 0, T(0.0), grad)
    param[...] = param - sign(grad) * step_size
    prev[...] = grad
