"""Optimizers on the CPU for parameters that live on an accelerator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ._base import FusedOptimizer

__all__ = ["CPUOffload"]


@dataclass
class Mirror:
    """What the host keeps of one parameter.

    Attributes
    ----------
    host
        The parameter that the optimizer on the CPU steps, in pinned memory where the original is on an accelerator.
    buffer
        Where its gradient arrives.
    source, source_version
        The gradient that was copied last, and which of its versions.
    param_version
        Version of the original when both were last equal.
    pending
        Whether a gradient has arrived since the last step.
    """

    host: torch.nn.Parameter
    buffer: Tensor | None = None
    source: Tensor | None = None
    source_version: int = -1
    param_version: int = -1
    pending: bool = False


class CPUOffload(torch.optim.Optimizer):
    """Keep states and masters in the memory of the host and take the step there.

    Each gradient is copied to pinned host memory as soon as ``backward()`` has produced it, on a stream of its own,
    while the rest of the backward pass runs. ``step`` takes one fused step on the CPU over the whole model, which for
    16-bit parameters writes the rounded parameter in the same pass as the float32 master, and copies the parameters
    back.

    Parameters
    ----------
    optimizer_class
        One of this package's optimizers for torch.
    params
        Parameters on any device, or groups of them, in float32, float16 or bfloat16.
    free_gradients
        Drop the gradient on the device once it is copied; further backward passes before the step add to the copy on
        the host. Then only this optimizer's own `max_grad_norm` and `zero_grad` see the gradients.
    **options
        Arguments of the class. For 16-bit parameters `master` is ``"float32"`` unless it is given.

    Raises
    ------
    TypeError
        `optimizer_class` is not one of this package's.

    Notes
    -----
    Clipping by the norm of the whole model works in both ways: with ``max_grad_norm`` in the step itself, or with
    ``torch.nn.utils.clip_grad_norm_`` before it; gradients that were changed after they were copied are copied again.
    Parameters that were changed by others, say by loading a checkpoint, are copied to the host again as well.

    Examples
    --------
    >>> import torch
    >>> from fusedstep.torch import AdamW, CPUOffload
    >>> model = torch.nn.Linear(2, 1)  # .to("cuda")
    >>> opt = CPUOffload(AdamW, model.parameters(), lr=1e-3, state_format="8bit")
    >>> model(torch.ones(4, 2)).sum().backward()
    >>> opt.step()
    """

    def __init__(
        self, optimizer_class: type[FusedOptimizer], params: Any, *, free_gradients: bool = False, **options: Any
    ) -> None:
        if not (isinstance(optimizer_class, type) and issubclass(optimizer_class, FusedOptimizer)):
            raise TypeError(f"optimizer_class: got {optimizer_class!r}, needs an optimizer class of fusedstep.torch")
        options.setdefault("master", "float32")
        self.free_gradients = free_gradients
        self._mirrors: dict[Tensor, Mirror] = {}
        self._streams: dict[torch.device, Any] = {}
        params = [params] if isinstance(params, dict) else list(params)
        groups = [dict(group) for group in params] if params and isinstance(params[0], dict) else [{"params": params}]
        for group in groups:
            given = group["params"]
            group["params"] = [given] if isinstance(given, Tensor) else list(given)
        self._inner = optimizer_class([self._mirrored(group) for group in groups], **options)
        super().__init__(groups, self._inner.defaults)

    # ---- the copies ----

    def _mirrored(self, group: dict[str, Any]) -> dict[str, Any]:
        """The same group with parameters on the host."""
        named = [entry if isinstance(entry, tuple) else (None, entry) for entry in group["params"]]
        hosts = []
        for name, param in named:
            host = self._mirror(param).host
            hosts.append(host if name is None else (name, host))
        return {**group, "params": hosts}

    def _mirror(self, param: Tensor) -> Mirror:
        if param in self._mirrors:
            return self._mirrors[param]
        host = _like_on_host(param, param.dtype)
        host.copy_(param.detach())
        mirror = Mirror(torch.nn.Parameter(host, requires_grad=param.requires_grad), param_version=param._version)
        self._mirrors[param] = mirror
        if param.requires_grad:
            this = ref(self)  # a parameter keeps its hooks: they must not keep the optimizer in turn

            def hook(param: Tensor) -> None:
                if (found := this()) is not None:
                    found._collect(param)

            param.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        return mirror

    def _stream(self, device: torch.device) -> Any:
        """The stream on which gradients leave a device; None for the CPU."""
        if device.type == "cpu":
            return None
        if device not in self._streams:
            self._streams[device] = torch.Stream(device)
        return self._streams[device]

    def _collect(self, param: Tensor) -> None:
        """Bring a parameter's gradient to the host; runs inside of the backward pass."""
        mirror, grad = self._mirrors[param], param.grad
        assert grad is not None
        adding = self.free_gradients and mirror.pending and mirror.buffer is not None
        if mirror.buffer is None or mirror.buffer.dtype != grad.dtype:
            mirror.buffer = _like_on_host(param, grad.dtype)
        target = _like_on_host(param, grad.dtype) if adding else mirror.buffer
        stream = self._stream(param.device)
        with torch.no_grad():
            if stream is None:
                target.copy_(grad)
            else:
                stream.wait_stream(torch.accelerator.current_stream(param.device))
                with stream:
                    target.copy_(grad, non_blocking=True)
                grad.record_stream(stream)
            if adding:
                if stream is not None:
                    stream.synchronize()
                mirror.buffer.add_(target)
        mirror.pending, mirror.source_version = True, grad._version
        mirror.source = None if self.free_gradients else grad
        mirror.host.grad = mirror.buffer
        if self.free_gradients:
            param.grad = None

    def _gather(self) -> None:
        """Make the host's parameters and gradients those of the device."""
        for param, mirror in self._mirrors.items():
            if param._version != mirror.param_version:
                with torch.no_grad():
                    mirror.host.copy_(param)
                mirror.param_version = param._version
                self._inner.state.get(mirror.host, {}).pop("master", None)
                self._inner.state.get(mirror.host, {}).pop("remainder", None)
                self._inner._stale()
            if param.grad is not None:
                seen = mirror.source is param.grad and mirror.source_version == param.grad._version
                if not (seen and mirror.pending):
                    self._collect(param)
            elif not (self.free_gradients and mirror.pending):
                mirror.host.grad = None
        for stream in self._streams.values():
            stream.synchronize()

    # ---- what torch calls ----

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step on the CPU and copy the parameters back.

        Parameters
        ----------
        closure
            Called first, with gradients enabled, to compute them; its result is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._gather()
        for mine, group in zip(self._inner.param_groups, self.param_groups, strict=True):
            mine.update({name: value for name, value in group.items() if name not in ("params", "param_names")})
        skipped = self._inner.skipped_steps
        self._inner.step()
        for param, mirror in self._mirrors.items():
            if mirror.host.grad is not None and self._inner.skipped_steps == skipped:
                param.copy_(mirror.host, non_blocking=True)
                mirror.param_version = param._version
            mirror.pending, mirror.source = False, None
            if self.free_gradients:
                mirror.host.grad = None
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, those on the host as well."""
        super().zero_grad(set_to_none)
        for mirror in self._mirrors.values():
            mirror.pending, mirror.source, mirror.host.grad = False, None, None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see ``torch.optim.Optimizer.add_param_group``)."""
        params = param_group["params"]
        param_group["params"] = [params] if isinstance(params, Tensor) else list(params)
        if len(self.param_groups) >= len(self._inner.param_groups):
            self._inner.add_param_group(self._mirrored(param_group))
        super().add_param_group(param_group)

    @property  # type: ignore[override]
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """The state of each parameter; its tensors are on the host."""
        states = self._inner.state
        return {p: states[m.host] for p, m in self._mirrors.items() if m.host in states}

    @state.setter
    def state(self, value: Any) -> None:
        """Torch sets an empty one when it makes the optimizer."""

    @property
    def grad_norm(self) -> float:
        """Norm of the last step's gradients; needs `max_grad_norm` or `skip_nonfinite`."""
        return self._inner.grad_norm

    @property
    def skipped_steps(self) -> int:
        """Steps that `skip_nonfinite` left out."""
        return self._inner.skipped_steps

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer's own, with tensors on the host."""
        for mine, group in zip(self._inner.param_groups, self.param_groups, strict=True):
            mine.update({name: value for name, value in group.items() if name not in ("params", "param_names")})
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict`, or one of ``torch.optim``, was made."""
        self._inner.load_state_dict(state_dict)
        for mine, group in zip(self._inner.param_groups, self.param_groups, strict=True):
            group.update({name: value for name, value in mine.items() if name not in ("params", "param_names")})


def _like_on_host(param: Tensor, dtype: torch.dtype) -> Tensor:
    """Host memory for a tensor, pinned where the tensor is on an accelerator, in its order."""
    like = torch.empty_like(param.detach(), dtype=dtype, device="cpu", memory_format=torch.preserve_format)
    return like.pin_memory() if param.device.type != "cpu" else like
