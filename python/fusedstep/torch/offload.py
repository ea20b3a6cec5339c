"""Optimizers on the CPU for parameters that live on an accelerator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import _core
from .._arguments import flag
from ._base import FusedOptimizer
from ._gradients import check_gradient
from ._slots import TensorSlot, check_memory, check_places
from ._states import local, ordinary

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CPUOffload"]

_CLASSES: dict[tuple[type[Any], type[Any]], type[Any]] = {}


class CPUOffload(FusedOptimizer):
    """Keep states and masters in the memory of the host and take the step there.

    ``CPUOffload(AdamW, params)`` is an `AdamW` whose parameters may be on any device. ``step`` copies gradients and
    parameters to pinned host memory, takes one fused step on the CPU over the whole model, which for 16-bit parameters
    writes the rounded parameter in the same pass as the float32 master, and copies the parameters back.

    Parameters
    ----------
    optimizer_class
        One of this package's optimizers for torch.
    params
        Parameters on any device, or groups of them.
    free_gradients
        Copy each gradient to the host as soon as ``backward()`` has produced it, on a stream of its own while the rest
        of the backward pass runs, and drop it on the device. Further backward passes before the step add to the copy.
        Then only this optimizer's own `max_grad_norm` and `zero_grad` see the gradients.
    **options
        Arguments of the class. For 16-bit parameters `master` is ``"float32"`` unless it is given.

    Raises
    ------
    TypeError
        `optimizer_class` is not one of this package's.

    Notes
    -----
    A gradient that stays on the device may be changed until the step in ways that leave no trace (gradient scalers,
    writes through ``.data``), and so may parameters: both are copied in every step. With `free_gradients` nobody else
    has the gradient, and its copy need not wait. A gradient that is assigned to ``param.grad`` replaces what arrived.

    Examples
    --------
    >>> import torch
    >>> from fusedstep.torch import AdamW, CPUOffload
    >>> model = torch.nn.Linear(2, 1)  # .to("cuda")
    >>> opt = CPUOffload(AdamW, model.parameters(), lr=1e-3, state_format="8bit")
    >>> model(torch.ones(4, 2)).sum().backward()
    >>> opt.step()
    """

    free_gradients: bool
    _pending: dict[Tensor, Tensor]
    _hosts: dict[Tensor, Tensor]
    _buffers: dict[Tensor, Tensor]
    _grouped: set[int]
    _streams: dict[torch.device, Any]

    def __new__(cls, optimizer_class: type[FusedOptimizer], *args: Any, **kwargs: Any) -> Self:
        """Make an instance of a subclass of both classes."""
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, FusedOptimizer)) or (
            issubclass(optimizer_class, CPUOffload) or not hasattr(optimizer_class, "rule")
        ):
            raise TypeError(f"optimizer_class: got {optimizer_class!r}, needs an optimizer class of fusedstep.torch")
        made: Self = super().__new__(_offloaded(cls, optimizer_class))
        return made

    def __init__(
        self, optimizer_class: type[FusedOptimizer], params: Any, *, free_gradients: bool = False, **options: Any
    ) -> None:
        options.setdefault("master", "float32")
        self.__dict__["free_gradients"] = free_gradients
        optimizer_class.__init__(self, params, **options)

    def _prepare(self, own: dict[str, Any], settings: dict[str, Any], skipped: int) -> None:
        super()._prepare(own, settings, skipped)
        this = self.__dict__
        this["_pending"] = {}  # gradients that have arrived
        this["_hosts"] = {}  # the parameters' copies
        this["_buffers"] = {}  # host memory for gradients
        this["_grouped"] = set()  # identities of the groups' parameters, since the last step
        this["_streams"] = {}
        this["eager"] = self.free_gradients

    def __reduce__(self) -> tuple[Any, ...]:
        base, optimizer_class = type(self).__bases__
        return base.__new__, (base, optimizer_class), self.__getstate__()

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"free_gradients": self.free_gradients}

    def _restore(self, state: dict[str, Any], loaded: bool) -> None:
        if "free_gradients" in state:
            self.__dict__["free_gradients"] = flag("free_gradients", state["free_gradients"])
        super()._restore(state, loaded)

    # ---- gradients that do not wait for the step ----

    def _arrived(self, param: Tensor) -> None:
        self._collect(param)

    def _collect(self, param: Tensor) -> None:
        """Bring a parameter's gradient to the host and drop it; runs inside of the backward pass."""
        grad = param.grad
        if grad is None or grad.layout is not torch.strided or grad.is_meta:
            return
        if param not in self._hosts and not self._in_groups(param):
            return
        with torch.no_grad():
            if (before := self._pending.get(param)) is None:
                self._pending[param] = self._to_host(grad, self._buffer(param, grad))
            else:
                more = self._to_host(grad, torch.empty_like(before))
                self._synchronize()
                before.add_(more)
        param.grad = None
        if param not in self._hosts:
            self._stale()

    def _in_groups(self, param: Tensor) -> bool:
        if not self._grouped:
            self._grouped = {id(p) for group in self.param_groups for p in group["params"]}
        return id(param) in self._grouped

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those on the host as well."""
        super().zero_grad(set_to_none)
        self._pending.clear()
        self._grouped.clear()

    # ---- the copies ----

    def _is_active(self, param: Tensor) -> bool:
        return param in self._pending or param.grad is not None

    def _make_slot(self, param: Tensor, name: str) -> TensorSlot:
        if local(param) is not param:
            raise TypeError(f"{name}: got a distributed tensor, needs a tensor of this process alone")
        if param.layout is not torch.strided:
            raise TypeError(f"{name}: got a sparse tensor ({param.layout}), needs a dense one")
        if param.is_meta:
            raise ValueError(f"{name}: got a tensor on meta, needs one with memory, as module.to_empty() makes")
        check_memory(param, name)
        work = self._hosts.get(param)
        if work is None or work.shape != param.shape or work.dtype != param.dtype:
            work = _like_on_host(param, param.dtype)
            self._buffers.pop(param, None)
        work.copy_(param.detach())
        return TensorSlot(param, work, work, name)

    def _build(self) -> None:
        super()._build()
        self._hosts = {slot.param: slot.work for slot in self._slots if slot.work is not None}
        self._buffers = {param: buffer for param, buffer in self._buffers.items() if param in self._hosts}
        self._grouped.clear()  # groups may have changed since the first gradient arrived
        for param in [p for p in self._pending if p not in self._hosts and not self._in_groups(p)]:
            param.grad = self._pending.pop(param).to(param.device)

    def _buffer(self, param: Tensor, grad: Tensor) -> Tensor:
        """Host memory for a gradient."""
        found = self._buffers.get(param)
        if found is None or found.dtype != grad.dtype:
            found = self._buffers[param] = _like_on_host(param, grad.dtype)
        return found

    def _stream(self, device: torch.device) -> Any:
        """The stream on which tensors leave a device; None where the copy waits."""
        if device.type == "cpu" or not hasattr(torch.Stream, "__enter__"):  # before torch 2.7
            return None
        if device not in self._streams:
            self._streams[device] = torch.Stream(device)
        return self._streams[device]

    def _to_host(self, source: Tensor, target: Tensor) -> Tensor:
        stream = self._stream(source.device)
        if stream is None:
            return target.copy_(source)
        stream.wait_stream(torch.accelerator.current_stream(source.device))
        with stream:
            target.copy_(source, non_blocking=True)
        source.record_stream(stream)
        return target

    def _synchronize(self) -> None:
        for stream in self._streams.values():
            stream.synchronize()

    def _copy_works(self) -> None:
        brought: dict[int, Tensor | None] = {}
        for i, slot in enumerate(self._slots):
            param, grad = slot.param, slot.param.grad
            if slot.work is None or not self._is_active(param):
                continue
            if grad is None:
                brought[i] = self._pending[param]
            elif grad.layout is torch.strided:
                check_gradient(param, grad, slot.name)
                brought[i] = self._to_host(grad.detach(), self._buffer(param, grad))
            elif param.device.type != "cpu":
                raise TypeError(
                    f"the gradient of {slot.name}: got a sparse tensor on {param.device}, needs a dense one"
                )
            check_memory(param, slot.name)
            check_places(local(param), slot.name)
            self._to_host(param.detach(), slot.work)
        self._synchronize()
        for i, came in brought.items():
            work = self._slots[i].work
            if work is not None and came is not None and came.stride() != work.stride():  # the rule needs another order
                brought[i] = torch.empty_like(work, dtype=came.dtype).copy_(came)
        self._brought = brought

    def _finish(self, tensors: _core.TorchModel | None, taken: bool, substitutes: dict[int, Tensor | None]) -> None:
        super()._finish(tensors, taken, substitutes)
        self._pending.clear()
        self._grouped.clear()


def _offloaded(base: type[Any], optimizer_class: type[Any]) -> type[Any]:
    """The class whose instances `base` makes."""
    pair = base, optimizer_class
    if pair not in _CLASSES:
        name = f"{base.__name__}{optimizer_class.__name__}"
        _CLASSES[pair] = type(name, pair, {"__doc__": base.__doc__, "__module__": base.__module__})
    return _CLASSES[pair]


@ordinary
def _like_on_host(param: Tensor, dtype: torch.dtype) -> Tensor:
    """Host memory for a tensor, pinned where the tensor is on an accelerator, in its order."""
    like = torch.empty_like(param.detach(), dtype=dtype, device="cpu", memory_format=torch.preserve_format)
    return like.pin_memory() if param.device.type != "cpu" else like
