"""States as torch tensors: where they lie, how they begin and how they change their storage format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .. import formats
from .._arguments import number as one_number
from .._held import check_storage
from .._names import needs
from .._pieces import BLOCK_8BIT
from ..reference import State

__all__ = [
    "States",
    "check_states",
    "check_tensor",
    "compute_dtype",
    "convert",
    "fresh",
    "holds_values",
    "is_dense",
    "is_small",
    "local",
    "new_step",
    "state_like",
    "whole_number",
]

Made = TypeVar("Made", bound=Callable[..., Any])

PARAMETERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)

PIECE = 4096 * BLOCK_8BIT  # elements that are converted at a time

COMPUTE = {torch.float64: torch.float64, torch.complex64: torch.complex64, torch.complex128: torch.complex128}


class States(defaultdict[Any, dict[str, Any]]):
    """``Optimizer.state``: remembers in `changed` that an entry was put in or taken out since the last step."""

    changed: bool = True
    owner: Callable[[], Any] = staticmethod(lambda: None)
    """Returns the optimizer, whose native model must not keep what is taken out."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(args or (dict,)))

    @contextmanager
    def completed(self) -> Iterator[None]:
        """Take out again, on an error, what was put in meanwhile: where torch keeps no count, it tells of a step."""
        before = {key: set(state) for key, state in self.items() if isinstance(state, dict)}
        try:
            yield
        except BaseException:
            for key, state in [(key, state) for key, state in self.items() if isinstance(state, dict)]:
                for name in state.keys() - before.get(key, ()):
                    del state[name]
                if key not in before:
                    del self[key]
            raise

    def _taken_out(self) -> None:
        self.changed = True
        if (optimizer := self.owner()) is not None:
            optimizer._stale()

    def __setitem__(self, key: Any, value: dict[str, Any]) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self._taken_out()
        super().__delitem__(key)

    def clear(self) -> None:
        """Forget all states."""
        self._taken_out()
        super().clear()

    def pop(self, *args: Any) -> Any:
        """Take out the state of one parameter."""
        self._taken_out()
        return super().pop(*args)

    def popitem(self) -> tuple[Any, dict[str, Any]]:
        """Take out the state that was put in last."""
        self._taken_out()
        return super().popitem()

    def setdefault(self, key: Any, default: Any = None) -> dict[str, Any]:
        """Return the state of a parameter, after putting it in if there was none."""
        self.changed = True
        return super().setdefault(key, default)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Put in many states."""
        self.changed = True
        super().update(*args, **kwargs)

    def __ior__(self, other: Any) -> States:  # type: ignore[override, misc]
        self.update(other)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict,), None, None, iter(self.items())


def local(tensor: Tensor) -> Tensor:
    """The tensor that holds this process's elements: a DTensor's own part, else the tensor itself."""
    return getattr(tensor, "_local_tensor", tensor)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one piece of memory in some order of the dimensions, without gaps and overlaps."""
    if tensor.numel() == 0 or tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True


def holds_values(tensor: Tensor) -> bool:
    """Whether the memory holds the tensor's numbers, and not their conjugates or negatives."""
    return not (tensor.is_neg() or tensor.is_conj())


def flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory, without a copy; complex ones as pairs."""
    tensor = local(tensor).detach()
    tensor = tensor.as_strided((tensor.numel(),), (1,))
    return torch.view_as_real(tensor).view(-1) if tensor.is_complex() else tensor


def compute_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's states in the format ``"float32"``."""
    return COMPUTE.get(param.dtype, torch.float32)


def is_small(param: Tensor, group: dict[str, Any]) -> bool:
    """Whether the states of this parameter keep the compute type whatever the format."""
    return param.is_complex() or local(param).numel() < group["min_quantized_size"]


def ordinary(make: Made) -> Made:
    """Have a function make ordinary tensors in inference mode as well, as others change them out of it later."""
    made: Made = torch.inference_mode(False)(torch.no_grad()(make))
    return made


@ordinary
def new_step() -> Tensor:
    """A step count, as torch keeps it."""
    return torch.zeros((), dtype=torch.float32, device="cpu")


@ordinary
def fresh(param: Tensor, kind: str, state_format: str, small: bool) -> Tensor | tuple[Tensor, Tensor]:
    """A state of zeros for a parameter, a pair of codes and scales in 8 bits."""
    keep = torch.preserve_format
    if kind == "exact" or small or state_format == "float32":
        return torch.zeros_like(param.detach(), dtype=compute_dtype(param), memory_format=keep)
    if state_format == "bfloat16":
        return torch.zeros_like(param.detach(), dtype=torch.bfloat16, memory_format=keep)
    codes, scales = formats.encode_8bit(np.zeros(BLOCK_8BIT, np.float32), signed=kind == "signed")
    blocks = -(-local(param).numel() // BLOCK_8BIT)
    return (
        torch.full_like(param.detach(), int(codes[0]), dtype=torch.uint8, memory_format=keep),
        torch.full((blocks,), float(scales[0]), dtype=torch.float32, device="cpu"),
    )


@ordinary
def state_like(state: State, param: Tensor, hypers: Mapping[str, Any]) -> Tensor:
    """What a state is shaped like: the parameter, or where it has another shape an empty tensor of that."""
    shape = state.shape(tuple(param.shape), hypers)
    assert shape is not None
    if state.form == "full":
        return param
    return torch.empty(shape, dtype=param.dtype, device="cpu")


@ordinary
def convert(
    param: Tensor, value: Tensor, scales: Tensor | None, kind: str, state_format: str, small: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """A state in the format that this parameter's states have, from another one; always a copy.

    Parameters
    ----------
    param
        The parameter; the copy has its shape and its order in memory.
    value
        The state in any float dtype, or its 8-bit codes.
    scales
        One scale per 256 codes, None for a float dtype.
    kind, state_format, small
        As for `fresh`.
    """
    out = fresh(param, kind, state_format, small)
    if scales is None and not isinstance(out, tuple):
        out.copy_(value)
        return out
    if not is_dense(local(value)):
        value = value.clone()  # `_in_pieces` reads codes as they lie
    mine, its = local(param), local(value)
    same_order = all(size == 1 or a == b for a, b, size in zip(its.stride(), mine.stride(), mine.shape, strict=True))
    if scales is not None and same_order and isinstance(out, tuple):
        out[0].copy_(value)
        out[1].copy_(scales)
        return out
    if not same_order:  # codes belong to blocks in the order of memory
        ordered = torch.empty_like(param.detach(), dtype=compute_dtype(param), memory_format=torch.preserve_format)
        if scales is not None:
            value = _in_pieces(value, scales, torch.empty_like(value, dtype=torch.float32), kind)
        value, scales = ordered.copy_(value), None
    return _in_pieces(value, scales, out, kind)


def _in_pieces(value: Tensor, scales: Tensor | None, out: Any, kind: str) -> Any:
    """Convert between codes and numbers a piece at a time; both in the same order of memory."""
    signed, source, blocks = kind == "signed", flat(value), PIECE // BLOCK_8BIT
    for number, start in enumerate(range(0, source.numel(), PIECE)):
        here, of_scales = slice(start, start + PIECE), slice(number * blocks, (number + 1) * blocks)
        piece = source[here]
        if scales is not None:
            piece = torch.from_numpy(formats.decode_8bit(piece.numpy(), scales[of_scales].numpy(), signed=signed))
        if isinstance(out, tuple):
            codes, new = formats.encode_8bit(piece.float().numpy(), signed=signed)
            flat(out[0])[here] = torch.from_numpy(codes)
            out[1][of_scales] = torch.from_numpy(new)
        else:
            flat(out)[here] = piece
    return out


def is_stored_as(param: Tensor, value: Any, kind: str, state_format: str, small: bool) -> bool:
    """Whether a state lies as a step needs it: the right dtype, the parameter's order in memory."""
    if not isinstance(value, Tensor) or value.shape != param.shape or local(value).device.type != "cpu":
        return False
    wide = kind == "exact" or small or state_format == "float32"
    dtype = compute_dtype(param) if wide else torch.bfloat16 if state_format == "bfloat16" else torch.uint8
    mine, its = local(param), local(value)
    lies = all(size == 1 or a == b for a, b, size in zip(its.stride(), mine.stride(), mine.shape, strict=True))
    return value.dtype == dtype and (lies or value.numel() == 0) and holds_values(its)


def _one_by_one(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        increment_version(tensor)


def _takes_several() -> bool:
    try:
        increment_version([torch.zeros(1)])
    except RuntimeError:  # torch 2.4
        return False
    return True


increment_versions: Callable[[Any], None] = increment_version if _takes_several() else _one_by_one
"""Tells autograd that tensors were changed in place."""


def check_mode(name: str) -> None:
    """Check that a tensor made in inference mode is written in it: torch's operations write first and fail then."""
    if not torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{name}: got a tensor made in inference mode, needs torch.inference_mode() around this call as well"
        )


def set_to_zero(grad: Tensor) -> None:
    """Set a gradient to zero after a step; one that was made in inference mode as well."""
    with torch.inference_mode(grad.is_inference()), torch.no_grad():
        grad.zero_()


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors of this process hold."""
    return sum(local(tensor).numel() * local(tensor).element_size() for tensor in tensors)


def whole_number(value: Any, where: str) -> int:
    """A count, from a number, array or tensor of one element."""
    count = one_number(where, value)
    if not 0 <= count < 2**63 or count != int(count):
        raise ValueError(f"{where}: got {count:g}, needs a whole number of at least 0")
    return int(value) if isinstance(value, int) else int(count)


def check_tensor(value: Any, where: str) -> None:
    """Check what stands for a state: others may put anything there."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{where}: got {type(value).__name__}, needs a tensor")
    if local(value).layout is not torch.strided:
        raise TypeError(f"{where}: got a tensor of {local(value).layout}, needs a dense one")
    if value.is_meta:
        raise ValueError(f"{where}: got a tensor on the meta device, needs one with memory")
    if value.is_nested:
        raise TypeError(f"{where}: got a nested tensor, needs a dense one")
    check_storage(local(value), where)


def check_states(states: Mapping[Any, Any]) -> None:
    """Check that every parameter has a dict: anyone may put anything there."""
    for param, state in states.items():
        if isinstance(param, Tensor):
            needs(state, dict, "state", "a dict of dicts")
