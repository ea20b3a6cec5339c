"""Gradients of some rows on their way into the native step: the same checks as in the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import overlapping
from .reference import Rule
from .reference._storage import check_rows, store_param
from .reference._tensors import check_rows_form, eight_bit_rows
from .sparse import SparseRows

__all__ = ["check_row_gradient"]

Array = NDArray[Any]


def check_row_gradient(
    rule: Rule,
    options: Mapping[str, Any],
    grad: Any,
    name: str,
    param: Array,
    master: Array | None,
    kept: Iterable[tuple[str, Array]],
    zero_grads: bool,
) -> tuple[Array, Array] | None:
    """Check a gradient of rows. The native step asks only where it found something that is not plain.

    Parameters
    ----------
    about, options
        The rule; its hyper-parameters, ``"rounding"`` and ``"ema_decay"``.
    grad, name
        The gradient and what to call it.
    param, master
        Its parameter.
    kept
        Names and arrays of everything else that a step writes.
    zero_grads
        Whether the given values are set to zero afterwards.

    Returns
    -------
    tuple or None
        Its indices and values; None when `grad` is no `SparseRows`.
    """
    if not isinstance(grad, SparseRows):
        return None
    check_rows_form(rule, options, {"ema": options["ema_decay"], "rounding": options["rounding"]}, name)
    stored = store_param(param, "param", master, "nearest", (0, 0, 0))
    given = check_rows(grad, name, stored, zero_grads)
    for other, array in kept:
        if other.endswith("_scales"):
            raise TypeError(eight_bit_rows(name))
        for part, memory in ((".indices", grad.indices), (".values", grad.values)):
            if np.may_share_memory(memory, array):
                raise overlapping(f"{name}{part}", other)
    return grad.indices, given
