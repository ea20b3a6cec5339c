"""Directions of matrices as torch's tensors, and the Newton-Schulz iterations with torch's matrix product."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .._arguments import needs_entries
from .._directions import Directions, Matrices
from ..reference import RULES
from ..reference._newton_schulz import check_matrices
from ._cuts import Cut, cut_of, has_whole_matrices
from ._options import plain
from ._slots import TensorSlot
from ._states import is_dense, local
from ._wholes import Batch, Wholes

__all__ = ["TensorDirections", "check_matrix", "make_directions", "multiplies_bfloat16", "product_dtype"]


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, and torch uses them."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if platform.machine() in ("aarch64", "arm64"):
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)


def product_dtype(param: torch.dtype, ns_dtype: torch.dtype | None) -> torch.dtype:
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
    groups: list[dict[str, Any]],
    slots: Iterable[TensorSlot],
    ns_dtype: torch.dtype | None,
    agree: Callable[[BaseException | None], None],
) -> TensorDirections:
    """Memory for the directions of all parameters whose group has the rule ``"muon"``.

    Raises
    ------
    ValueError
        A parameter that is no matrix, or a distributed one whose parts cannot be put together.
    """
    matrices, cuts = [], dict[Matrices, Cut]()
    for i, slot in enumerate(slots):
        group = groups[slot.group]
        if group["rule"] == "muon" and slot.used:
            count, rows, columns, turned = check_matrix(slot.like, group["reshape"], slot.name)
            cut, total, mine = None, 0, local(slot.like)
            if mine is not slot.like:
                cut = cut_of(slot.like, slot.name)
                if has_whole_matrices(cut, group["reshape"]):
                    cut, total = None, count
                    count, rows, columns, turned = check_matrix(mine, group["reshape"], slot.name)
            dtype = product_dtype(slot.like.dtype, ns_dtype)
            one = Matrices(i, slot.group, count, rows, columns, dtype, turned, cut is not None, total)
            matrices.append(one)
            if cut is not None:
                cuts[one] = cut

    def options(number: int) -> dict[str, Any]:
        names = ("eps", *RULES["muon"].outside)
        needs_entries(f"param_groups[{number}]", groups[number], *names)
        return {name: plain(groups[number][name], f'param_groups[{number}]["{name}"]') for name in names}

    return TensorDirections(matrices, options, 'param_groups[{}]["{}"]', cuts, agree)


class TensorDirections(Directions[Tensor]):
    """Directions as torch's tensors, in bfloat16 or the compute type."""

    together = 1 << 20  # 2 MiB in bfloat16: what the second-level cache holds

    def __init__(
        self,
        matrices: Iterable[Matrices],
        options: Callable[[int], Mapping[str, Any]],
        where: str,
        cuts: dict[Matrices, Cut],
        agree: Callable[[BaseException | None], None],
    ) -> None:
        super().__init__(matrices, options, where)
        self._wholes, self._agree = Wholes(cuts, self._together, self._empty), agree
        for dtype in {one.dtype for one in cuts}:  # the parts are put together in the last of these
            wide, narrow = self._work[dtype]
            self._work[dtype] = wide, narrow, self._empty(wide.shape, dtype)

    @property
    def arrays(self) -> list[Tensor]:
        """All memory that is held."""
        return super().arrays + self._wholes.parts

    def like(self, index: int, param: Tensor) -> Tensor | None:
        """The memory of a parameter's direction, with its shape and strides; None if it is no matrix."""
        param = local(param)
        if index in self._wholes:
            return self._wholes.like(index, param)
        found = self.of(index, (-1,))
        return None if found is None else found.as_strided(param.shape, param.stride())

    def __call__(self, active: list[tuple[int, float]]) -> None:
        # Code that ran in a product of a step before may have freed what it worked on.
        for dtype, work in self._work.items():
            if not all(tensor.untyped_storage().nbytes() >= tensor.nbytes for tensor in work):
                self._work[dtype] = tuple(self._empty(tensor.shape, dtype) for tensor in work)
        shared = tuple(index for index, _ in active if index in self._wholes)
        if not shared:
            super().__call__(active)
            return
        # The others wait for this process: an error is raised when all have come to the end, and then in all.
        failure = _error_of(lambda: super(TensorDirections, self).__call__(active))
        with torch.no_grad():
            for batches in self._wholes.rounds(shared):
                failure = self._round(batches, dict(active), failure)
        self._agree(failure)
        if failure is not None:
            raise failure

    def _round(
        self, batches: list[Batch], norms: Mapping[int, float], failure: BaseException | None
    ) -> BaseException | None:
        """Make some distributed matrices orthogonal, of which this process works on one batch at most."""
        mine = next((batch for batch in batches if batch.owner == self._wholes.rank), None)
        whole = None if mine is None else self._work[mine.units[0].matrices.dtype][2]
        self._wholes.carry(batches, whole, back=False)
        if mine is not None and whole is not None and failure is None:
            run = [unit.matrices for unit in mine.units]
            count, rows, columns = sum(one.count for one in run), run[0].rows, run[0].columns
            memory = whole[: count * rows * columns].view(count, rows, columns)
            failure = _error_of(
                lambda: self._orthogonalize(memory, 0, run, norms, self._checked()[run[0].group]),
            )
        self._wholes.carry(batches, whole, back=True)
        return failure

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


def _error_of(work: Callable[[], None]) -> BaseException | None:
    """What a call raises."""
    try:
        work()
    except BaseException as error:
        return error
    return None


def _reciprocal_norms(gram: Tensor, lowest: NDArray[np.float64]) -> Tensor:
    """One by the norm of every matrix, or by `lowest` if that is more; of shape [k, 1, 1]."""
    wide = torch.float64 if gram.dtype == torch.float64 else torch.float32
    norms = gram.diagonal(dim1=1, dim2=2).sum(1, dtype=wide).sqrt_()
    norms = torch.maximum(norms, torch.from_numpy(lowest).to(wide))
    return norms.masked_fill_(norms == 0, 1.0).reciprocal_()[:, None, None]
