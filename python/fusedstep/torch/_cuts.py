"""How distributed tensors are cut: the part of every process, found from the placements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from ._states import is_dense, local

__all__ = ["Box", "Cut", "check_cuts", "cut_of", "has_whole_matrices", "on_host"]

Box = tuple[tuple[int, int], ...]
"""Where a part of a tensor begins and ends along each axis."""


@dataclass(frozen=True)
class Cut:
    """How a tensor is distributed.

    Attributes
    ----------
    shape, strides
        Of the whole.
    ranks
        The processes of its mesh.
    replicas
        Of each of these, to which replica of the whole its part belongs.
    boxes
        The part of each.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    ranks: tuple[int, ...]
    replicas: tuple[int, ...]
    boxes: tuple[Box, ...]


def _order(param: Tensor, name: str) -> list[tuple[int, int]]:
    """The dimensions of the mesh and the axis that each of them cuts, in the order of the cuts.

    FSDP after tensor parallelism cuts what the latter has cut before, though its dimension comes first:
    `_StridedShard`, whose `split_factor` is the number of those cuts.
    """
    placements, mesh = param.placements, param.device_mesh  # type: ignore[attr-defined]
    plain, late = list[tuple[int, int]](), list[tuple[int, int]]()
    for dim, placement in reversed(list(enumerate(placements))):
        kind = type(placement).__name__
        if kind not in ("Shard", "Replicate", "_StridedShard"):
            break
        if kind != "Replicate":
            axis = placement.dim % param.ndim
            before = math.prod(mesh.size(other) for other, which in plain + late if which == axis)
            if kind == "_StridedShard" and placement.split_factor not in (1, before):
                break
            (late if getattr(placement, "split_factor", 1) > 1 else plain).append((dim, axis))
    else:
        return plain[::-1] + late
    raise ValueError(f"{name}: got the placements {tuple(placements)}, needs Shard or Replicate to be a matrix of Muon")


def check_cuts(param: Tensor, name: str) -> None:
    """Check that the parts of a distributed matrix can be put together.

    Raises
    ------
    ValueError
        It is distributed in another way, or no backend brings tensors of the CPU to other processes.
    """
    import torch.distributed as dist

    _order(param, name)
    if not on_host(dist.group.WORLD):
        raise ValueError(
            f"{name}: got a distributed matrix, needs a process group with a backend for the CPU, over which its parts "
            'travel; init_process_group("cpu:gloo,cuda:nccl") makes one'
        )


def on_host(group: Any) -> bool:
    """Whether processes can exchange tensors of the CPU."""
    try:
        group._get_backend(torch.device("cpu"))
    except RuntimeError:
        return False
    return True


def cut_of(param: Tensor, name: str) -> Cut:
    """How a tensor is distributed.

    Raises
    ------
    ValueError
        This process's part is another one than the placements say.
    """
    import torch.distributed as dist

    mesh, order = param.device_mesh, _order(param, name)  # type: ignore[attr-defined]
    shape, sizes = tuple(param.shape), [mesh.size(dim) for dim in range(mesh.ndim)]
    replicated = [dim for dim in range(mesh.ndim) if dim not in dict(order)]
    numbers, boxes = dict[tuple[int, ...], int](), list[Box]()
    replicas = []
    for coordinate in product(*map(range, sizes)):
        box = [(0, size) for size in shape]
        for dim, axis in order:
            begin, end = box[axis]
            chunk = -(-(end - begin) // sizes[dim])  # as torch.chunk
            first = min(begin + chunk * coordinate[dim], end)
            box[axis] = first, min(first + chunk, end)
        boxes.append(tuple(box))
        replicas.append(numbers.setdefault(tuple(coordinate[dim] for dim in replicated), len(numbers)))
    ranks = tuple(mesh.mesh.flatten().tolist())
    needed = tuple(end - begin for begin, end in boxes[ranks.index(dist.get_rank())])
    if (mine := tuple(local(param).shape)) != needed:
        raise ValueError(f"{name}: got a local part of shape {mine}, needs {needed} by its placements")
    strides = param.stride() if is_dense(param) else torch.empty(shape, device="meta").stride()
    return Cut(shape, tuple(strides), ranks, tuple(replicas), tuple(boxes))


def has_whole_matrices(cut: Cut, reshape: str | None) -> bool:
    """Whether every process has whole matrices, and none has those of another: parts of a batch."""
    if reshape != "batch" or any(cut.replicas):
        return False
    return all(box[-2:] == ((0, cut.shape[-2]), (0, cut.shape[-1])) for box in cut.boxes)
