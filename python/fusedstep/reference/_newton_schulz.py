"""Matrices made orthogonal by products alone, and which parameters are matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["as_matrices", "check_matrices", "lr_factor", "newton_schulz"]

Array = NDArray[Any]


def as_matrices(shape: tuple[int, ...], reshape: str | None) -> tuple[int, int, int] | None:
    """How many matrices a parameter is, and their rows and columns; None for what is no matrix.

    Parameters
    ----------
    shape
        Of the parameter.
    reshape
        None takes two axes as a matrix, and four or five, a convolution's, as one with the first axis as its rows.
        ``"flatten"`` does so for any number of axes from three on. ``"batch"`` takes the last two axes as matrices and
        those before as a batch of them.

    Examples
    --------
    >>> as_matrices((8, 4, 3, 3), None), as_matrices((6, 8, 4), None), as_matrices((6, 8, 4), "batch")
    ((1, 8, 36), None, (6, 8, 4))
    """
    if len(shape) == 2:
        return 1, *shape
    if len(shape) < 2 or (reshape is None and len(shape) not in (4, 5)):
        return None
    if reshape == "batch":
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    return 1, shape[0], math.prod(shape[1:])


def check_matrices(shape: tuple[int, ...], reshape: str | None, where: str) -> tuple[int, int, int]:
    """The same, with a ValueError for what is no matrix."""
    found = as_matrices(shape, reshape)
    if found is None:
        meant = "; reshape='batch' takes the first axis as experts, reshape='flatten' as rows" * (len(shape) > 2)
        raise ValueError(
            f"{where}: got shape {shape}, needs a matrix{meant}. Give other parameters another rule, such as AdamW"
        )
    return found


def lr_factor(adjust_lr_fn: str | None, rows: int, columns: int) -> float:
    """What the learning rate of a matrix is multiplied by: `adjust_lr_fn` of Muon.

    ``"original"`` (or None) is Jordan et al. (2024), ``"match_rms_adamw"`` Liu et al. (2025), "Muon is scalable for LLM
    training", equation 4.

    Examples
    --------
    >>> lr_factor("original", 400, 100), lr_factor("match_rms_adamw", 400, 100)
    (2.0, 4.0)
    """
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / max(1, columns)))


def newton_schulz(
    x: Array,
    *,
    steps: int,
    coefficients: tuple[float, float, float],
    factor: float = 1.0,
    lowest: Array | None = None,
    work: Sequence[Array] | None = None,
) -> None:
    r"""Take the singular values of matrices to about 1, in place.

    .. math::
        A &= X X^T \\
        X &\leftarrow (a I + b A + c A^2) X

    Jordan et al. (2024), "Muon: an optimizer for hidden layers in neural networks", section "Newton-Schulz iteration".
    With more rows than columns the smaller :math:`X^T X` takes the place of :math:`X X^T`.

    Parameters
    ----------
    x
        Matrices of shape [k, rows, columns] in float32 or float64, C-contiguous, with singular values up to 1.
    steps
        Number of iterations, from 1.
    coefficients
        :math:`a, b, c`.
    factor
        The result is multiplied by it.
    lowest
        Divide every matrix by its Frobenius norm first, but by no less than this (of shape [k]).
    work
        Memory: one array like `x`, and two of shape [k, n, n] with n the smaller of rows and columns.

    Notes
    -----
    The bits of NumPy's matrix product depend on the machine and its BLAS library. All else here does not.
    """
    a, b, c = coefficients
    count, rows, columns = x.shape
    tall = rows > columns
    small = (count, min(rows, columns), min(rows, columns))
    other, gram, poly = work if work is not None else (np.empty_like(x), *np.empty((2, *small), x.dtype))
    T = x.dtype.type
    source, target = x, other
    for step in range(steps):
        across = source.swapaxes(1, 2)
        np.matmul(across, source, out=gram) if tall else np.matmul(source, across, out=gram)
        scale = None
        if step == 0 and lowest is not None:
            norms = np.maximum(np.sqrt(np.einsum("kii->k", gram)), lowest.astype(x.dtype))
            scale = (T(1) / np.where(norms == 0, T(1), norms))[:, None, None]
            gram *= scale * scale
        np.matmul(gram, gram.swapaxes(1, 2), out=poly)  # of a symmetric matrix with itself: half the work
        poly *= T(c)
        gram *= T(b)
        poly += gram
        diagonal = np.einsum("kii->ki", poly)
        diagonal += T(a)
        if scale is not None:
            poly *= scale
        if step == steps - 1 and factor != 1.0:
            poly *= T(factor)
        np.matmul(source, poly, out=target) if tall else np.matmul(poly, source, out=target)
        source, target = target, source
    if source is not x:
        x[...] = source
