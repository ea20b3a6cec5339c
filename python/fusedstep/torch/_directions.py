"""Directions of matrices as torch's tensors, and the Newton-Schulz iterations with torch's matrix product."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._directions import Directions, Matrices
from ..reference import RULES
from ..reference._newton_schulz import check_matrices
from ._options import plain
from ._slots import Slot
from ._states import is_dense

__all__ = ["TensorDirections", "check_matrix", "make_directions", "multiplies_bfloat16"]


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, and torch uses them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def _product_dtype(param: torch.dtype, ns_dtype: torch.dtype | None) -> torch.dtype:
    """The dtype of a parameter's direction: bfloat16, or the compute type."""
    if ns_dtype is torch.bfloat16 or (ns_dtype is None and param != torch.float64 and multiplies_bfloat16()):
        return torch.bfloat16
    return torch.float64 if param == torch.float64 else torch.float32


def check_matrix(param: Tensor, reshape: str | None, where: str) -> tuple[int, int, int, bool]:
    """How many matrices a parameter is, their rows and columns in memory, and whether these have changed places.

    The iterations may take a matrix as its transpose, and its columns in any order.

    Raises
    ------
    TypeError
        It is complex.
    ValueError
        It is no matrix, or its strides fit none.
    """
    if param.is_complex():
        raise TypeError(f"{where}: got {param.dtype}, needs a real matrix. Give it another rule, such as AdamW")
    count, rows, columns = check_matrices(tuple(param.shape), reshape, where)
    first = param.ndim - 2 if reshape == "batch" else 0
    sizes = [(stride, axis) for axis, stride in enumerate(param.stride()) if param.shape[axis] != 1]
    order = "".join("brc"[(axis >= first) + (axis > first)] for _, axis in sorted(sizes, reverse=True))
    if param.is_contiguous() or not is_dense(param) or re.fullmatch("b*r?c*", order):
        return count, rows, columns, False
    if re.fullmatch("b*c*r?", order):
        return count, columns, rows, True
    raise ValueError(
        f"{where}: got strides {param.stride()}, of which no matrix can be made without a copy, needs those of a "
        "contiguous tensor; tensor.contiguous() has them"
    )


def make_directions(
    groups: list[dict[str, Any]], slots: Iterable[Slot], ns_dtype: torch.dtype | None
) -> TensorDirections:
    """Memory for the directions of all parameters whose group has the rule ``"muon"``."""
    matrices = []
    for i, slot in enumerate(slots):
        group = groups[slot.group]
        if group["rule"] == "muon" and slot.used:
            found = check_matrix(slot.like, group["reshape"], slot.name)
            matrices.append(Matrices(i, slot.group, *found[:3], _product_dtype(slot.like.dtype, ns_dtype), found[3]))

    def options(number: int) -> dict[str, Any]:
        return {name: plain(groups[number][name]) for name in ("eps", *RULES["muon"].outside)}

    return TensorDirections(matrices, options, 'param_groups[{}]["{}"]')


class TensorDirections(Directions[Tensor]):
    """Directions as torch's tensors, in bfloat16 or the compute type."""

    together = 1 << 20  # 2 MiB in bfloat16: what the second-level cache holds

    def like(self, index: int, param: Tensor) -> Tensor | None:
        """The memory of a parameter's direction, with its shape and strides; None if it is no matrix."""
        found = self.of(index, (-1,))
        return None if found is None else found.as_strided(param.shape, param.stride())

    def __call__(self, active: list[tuple[int, float]]) -> None:
        # Code that ran in a product of a step before may have freed what it worked on.
        for dtype, (wide, narrow) in self._work.items():
            if not all(tensor.untyped_storage().nbytes() >= tensor.nbytes for tensor in (wide, narrow)):
                self._work[dtype] = self._empty(wide.shape, dtype), self._empty(narrow.shape, dtype)
        super().__call__(active)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            return torch.empty(shape, dtype=dtype, device="cpu")

    def _iterate(
        self,
        matrices: Tensor,
        work: tuple[Tensor, Tensor, Tensor],
        factor: float,
        lowest: NDArray[np.float64] | None,
        steps: int,
        coefficients: tuple[float, float, float],
    ) -> None:
        """Newton-Schulz in place (see `fusedstep.reference._newton_schulz`)."""
        a, b, c = coefficients
        other, gram, poly = work
        tall = matrices.shape[1] > matrices.shape[2]
        source, target = matrices, other
        for step in range(steps):
            across = source.mT
            torch.bmm(across, source, out=gram) if tall else torch.bmm(source, across, out=gram)
            if step == 0 and lowest is not None:
                scale = _reciprocal_norms(gram, lowest)
                gram.mul_(scale * scale)
                source.mul_(scale)
            last = factor if step == steps - 1 else 1.0
            torch.baddbmm(gram, gram, gram, beta=last * b, alpha=last * c, out=poly)
            # The first term in one product with the others: in bfloat16, a on the diagonal would be rounded.
            pair = (source, poly) if tall else (poly, source)
            torch.baddbmm(source, *pair, beta=last * a, out=target)
            source, target = target, source
        if source is not matrices:
            matrices.copy_(source)


def _reciprocal_norms(gram: Tensor, lowest: NDArray[np.float64]) -> Tensor:
    """One by the norm of every matrix, or by `lowest` if that is more; of shape [k, 1, 1]."""
    wide = torch.float64 if gram.dtype == torch.float64 else torch.float32
    norms = gram.diagonal(dim1=1, dim2=2).sum(1, dtype=wide).sqrt_()
    norms = torch.maximum(norms, torch.from_numpy(lowest).to(wide))
    return norms.masked_fill_(norms == 0, 1.0).reciprocal_()[:, None, None]
