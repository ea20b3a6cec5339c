"""Norms and decisions of a whole model whose parameters are distributed tensors: each process has a part of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._agreement import agree
from .._step_options import GROUP_OPTIONS
from ..reference import RULES
from ._cuts import check_cuts, on_host
from ._making import Making
from ._options import plain
from ._states import local

__all__ = ["Parts", "announce", "check_placements", "distributed"]


class _Axis(NamedTuple):
    """One dimension of a device mesh.

    Attributes
    ----------
    group
        The processes along it that this one belongs to.
    device
        Where tensors are that these exchange: the CPU, or the mesh's devices if they have no backend for the CPU.
    sharded
        Of the mesh's tensors, a column: whether they are cut along it. Others are the same in all its processes.
    """

    group: Any
    device: torch.device
    sharded: Tensor


class _Mesh(NamedTuple):
    numbers: list[int]
    axes: list[_Axis]


def distributed(optimizer: Making) -> bool:
    """Whether some parameter is a distributed tensor."""
    # Other things are refused where a model is made.
    lists = [group.get("params") for group in optimizer.param_groups if isinstance(group, dict)]
    return any(local(param) is not param for params in lists if isinstance(params, list) for param in params)


def check_placements(rule: str, param: Tensor, name: str) -> None:
    """Check that a step can be taken on this process's part of a distributed tensor.

    Raises
    ------
    ValueError
        It holds partial sums or is on other processes only, or the rule needs whole matrices that cannot be
        put together, or whole blocks.
    """
    if RULES[rule].factored:
        raise ValueError(f"{name}: got a distributed tensor, needs whole matrices or blocks in this process for {rule}")
    placements: Sequence[Any] = param.placements  # type: ignore[attr-defined]
    if any(placement.is_partial() for placement in placements):
        raise ValueError(
            f"{name}: got a distributed tensor of partial sums ({placements}), needs one that is sharded or "
            "replicated; param.redistribute() adds them up"
        )
    if param.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
        raise ValueError(f"{name}: got a distributed tensor of other processes, needs this one in its device mesh")
    if RULES[rule].matrices:
        check_cuts(param, name)


def _meshes(params: Sequence[Tensor]) -> list[_Mesh]:
    """The meshes of distributed tensors in the order in which they come; dimensions of one process left out."""
    numbers: dict[Any, list[int]] = {}
    for i, param in enumerate(params):
        mesh = getattr(param, "device_mesh", None)
        if mesh is not None and mesh.get_coordinate() is not None:
            numbers.setdefault(mesh, []).append(i)
    found = []
    for mesh, members in numbers.items():
        axes = []
        for dim in range(mesh.ndim):
            if mesh.size(dim) > 1:
                group = mesh.get_group(dim)
                cuts = [params[i].placements[dim] for i in members]  # type: ignore[attr-defined]
                sharded = [not placement.is_replicate() for placement in cuts]  # strided shards deny being shards
                device = torch.device("cpu" if on_host(group) else mesh.device_type)
                axes.append(_Axis(group, device, torch.tensor(sharded, device="cpu").unsqueeze(1)))
        found.append(_Mesh(members, axes))
    return found


def _gathered(values: Tensor, axis: _Axis) -> Tensor:
    """What every process along an axis has, in their order."""
    import torch.distributed as dist

    sent = values.to(axis.device)
    got = [torch.empty_like(sent) for _ in range(dist.get_world_size(axis.group))]
    dist.all_gather(got, sent, group=axis.group)
    return torch.stack(got).to(values.device)


class Parts:
    """The processes that hold the other parts of an optimizer's tensors.

    Sums over a tensor are those of its parts in float64, added up along one dimension of its mesh after the other in
    the order of the processes. Where it is replicated, the first process's value counts. So all processes have the same
    bits.

    Parameters
    ----------
    optimizer
        Returns the optimizer; it must not be kept.
    params
        All parameters, in order.
    stepped
        Returns the numbers of those that the current step changes.

    Attributes
    ----------
    agreed
        Whether the processes have agreed on the current step: from then on nothing fails in one of them alone.
    """

    def __init__(
        self, optimizer: Callable[[], Making], params: Sequence[Tensor], stepped: Callable[[], list[int]]
    ) -> None:
        self._optimizer, self._stepped = optimizer, stepped
        self._meshes = _meshes(params)
        self._numbers = {i for mesh in self._meshes for i in mesh.numbers}
        self._count = len(params)
        self._half = any(params[i].dtype == torch.float16 for i in self._numbers)
        self.agreed = False

    def joint(self) -> bool:
        """Whether a step needs the others at all: for a norm or a share, or for a decision of all."""
        optimizer = self._optimizer()
        groups = optimizer.param_groups
        sums = any(RULES[optimizer._rule_of(group)].norms or group.get("cautious") for group in groups)
        return sums or self._half or optimizer.max_grad_norm is not None or optimizer.skip_nonfinite

    def begin(self) -> None:
        """Agree on a step."""
        self.agreed = True
        if self.joint():
            self.agree(None, self._facts())

    def agree(self, error: BaseException | None, facts: Sequence[tuple[str, str]]) -> None:
        """See `fusedstep._agreement.agree`."""
        import torch.distributed as dist

        with torch.no_grad():
            agree(dist.get_rank(), error, facts, self._largest, self._exchange)

    def _facts(self) -> list[tuple[str, str]]:
        """What must be the same in all processes."""
        optimizer = self._optimizer()
        options = [
            (f'param_groups[{i}]["{name}"]', repr(plain(group.get(name))))
            for i, group in enumerate(optimizer.param_groups)
            for name in (*RULES[optimizer._rule_of(group)].hypers, "maximize", *GROUP_OPTIONS)
        ]
        stepped = ("distributed parameters with a gradient", str([i for i in self._stepped() if i in self._numbers]))
        settings = [(name, repr(value)) for name, value in optimizer._settings.items()]
        return [stepped, *options, *settings, *optimizer._facts()]

    def _axes(self) -> list[_Axis]:
        return [axis for mesh in self._meshes for axis in mesh.axes]

    def _largest(self, values: list[int]) -> list[int]:
        largest = torch.tensor(values, dtype=torch.int64, device="cpu")
        for axis in self._axes():
            largest = _gathered(largest, axis).amax(0)
        return [int(value) for value in largest]

    def _exchange(self, thing: Any) -> list[tuple[int, Any]]:
        import torch.distributed as dist

        said = {dist.get_rank(): thing}
        for axis in self._axes():
            got: list[Any] = [None] * dist.get_world_size(axis.group)
            dist.all_gather_object(got, said, group=axis.group)
            said = {rank: other for some in got for rank, other in some.items()}
        return sorted(said.items())

    def sum(self, values: memoryview, flags: int) -> None:
        """Add up the parts of tensors, in place.

        Parameters
        ----------
        values
            float64: as many for each parameter, and then the flags.
        flags
            Values of the whole model: those above 0 in one process become so in all.
        """
        every = torch.frombuffer(values, dtype=torch.float64)
        columns = (every.numel() - flags) // self._count
        sums, tail = every[: self._count * columns].view(self._count, columns), every[self._count * columns :]
        with torch.no_grad():
            for mesh in self._meshes:
                own = sums[mesh.numbers]
                for axis in mesh.axes:
                    got = _gathered(torch.cat([own.flatten(), tail]), axis)
                    tail.copy_(got[:, own.numel() :].amax(0))
                    first, *others = got[:, : own.numel()].reshape(len(got), *own.shape)
                    for other in others:
                        first = first + torch.where(axis.sharded, other, 0.0)
                    own = first
                sums[mesh.numbers] = own


def announce(optimizer: Making, parts: Parts | None, error: BaseException) -> None:
    """Tell the other processes that this one takes no step, so that they do not wait for it."""
    if parts is None:
        params = [param for group in optimizer.param_groups for param in group["params"]]
        parts = Parts(optimizer._itself, params, list)
    if not parts.agreed and parts.joint():
        with contextlib.suppress(Exception):  # this process's own error matters more
            parts.agree(error, [])
