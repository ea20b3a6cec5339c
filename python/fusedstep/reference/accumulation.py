"""Gradients summed up over several calls, for one step with their mean."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .._floats import default_floats
from .._hyper import check_hyper
from ._checks import check_array, check_overlap
from ._storage import FLOAT32, FLOAT64, Stored, check_gradient

__all__ = ["accumulate"]

Array = NDArray[Any]


@default_floats()
def accumulate(total: Array, grad: Array, *, grad_scale: float = 1.0) -> None:
    r"""Add one gradient to a sum, in place: :math:`s \leftarrow s + \frac{1}{c} g`, with :math:`1/c` rounded once.

    After `k` of them, a step with the gradient `total` and ``grad_scale=k`` is a step with their mean: it multiplies by
    :math:`1/k`, rounded once to the compute type, before it clips. That is what an optimizer with
    ``accumulate_steps=k`` does.

    Parameters
    ----------
    total : array of float32 or float64
        The sum, in the compute type of the parameter; zeros at first.
    grad : array
        Of its shape, in a dtype that the parameter's gradient may have.
    grad_scale : float
        What this gradient is divided by.

    Raises
    ------
    TypeError, ValueError
        As the rules raise for their gradient. Nothing has changed.

    Examples
    --------
    >>> import numpy as np
    >>> total = np.zeros(2)
    >>> for grad in (np.array([1.0, 2.0]), np.array([3.0, 6.0])):
    ...     accumulate(total, grad, grad_scale=2.0)
    >>> total
    array([2., 4.])
    """
    total = check_array(total, "total", (FLOAT32, FLOAT64))
    given = check_gradient(grad, "grad", Stored(total, total.dtype, "plain"), False)
    check_overlap([("total", total, True), ("grad", given, False)])
    T = total.dtype.type
    total += T(1.0 / check_hyper("grad_scale", grad_scale)) * given.astype(T)
