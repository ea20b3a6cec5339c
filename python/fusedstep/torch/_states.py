"""States as torch tensors: where they lie, how they begin and how they change their storage format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import formats
from .._slots import QUANT_BLOCK

__all__ = ["States", "address", "compute_dtype", "convert", "fresh", "is_dense", "is_small", "local", "new_step"]

NAMES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
    torch.complex64: "float32",
    torch.complex128: "float64",
    torch.uint8: "uint8",
    torch.int16: "int16",
}
PARAMETERS = tuple(dtype for dtype in NAMES if dtype.is_floating_point or dtype.is_complex)

COMPUTE = {torch.float64: torch.float64, torch.complex64: torch.complex64, torch.complex128: torch.complex128}


class States(defaultdict[Any, dict[str, Any]]):
    """``Optimizer.state``: remembers in `changed` that an entry was put in or taken out since the last step."""

    changed: bool = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*(args or (dict,)))

    def __setitem__(self, key: Any, value: dict[str, Any]) -> None:
        self.changed = True
        super().__setitem__(key, value)

    def __delitem__(self, key: Any) -> None:
        self.changed = True
        super().__delitem__(key)

    def clear(self) -> None:
        """Forget all states."""
        self.changed = True
        super().clear()

    def pop(self, *args: Any) -> Any:
        """Take out the state of one parameter."""
        self.changed = True
        return super().pop(*args)

    def popitem(self) -> tuple[Any, dict[str, Any]]:
        """Take out the state that was put in last."""
        self.changed = True
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


def overlaps_itself(tensor: Tensor) -> bool:
    """Whether several elements share memory, as in an expanded tensor."""
    dims = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
    reach = 0
    for stride, size in dims:
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor in the order of memory, without a copy; complex ones as pairs."""
    tensor = local(tensor).detach()
    tensor = tensor.as_strided((tensor.numel(),), (1,))
    return torch.view_as_real(tensor).view(-1) if tensor.is_complex() else tensor


def address(tensor: Tensor) -> tuple[int, int, str]:
    """What the native side takes in an array's place: address, number of real elements, dtype."""
    tensor = local(tensor)
    size = tensor.numel() * (2 if tensor.is_complex() else 1)
    return tensor.data_ptr() if size else 0, size, NAMES[tensor.dtype]


def compute_dtype(param: Tensor) -> torch.dtype:
    """The dtype of a parameter's states in the format ``"float32"``."""
    return COMPUTE.get(param.dtype, torch.float32)


def is_small(param: Tensor, group: dict[str, Any]) -> bool:
    """Whether the states of this parameter keep the compute type whatever the format."""
    return param.is_complex() or local(param).numel() < group["min_quantized_size"]


def new_step() -> Tensor:
    """A step count, as torch keeps it."""
    return torch.zeros((), dtype=torch.float32, device="cpu")


def fresh(param: Tensor, kind: str, state_format: str, small: bool) -> Tensor | tuple[Tensor, Tensor]:
    """A state of zeros for a parameter, a pair of codes and scales in 8 bits."""
    keep = torch.preserve_format
    if kind == "exact" or small or state_format == "float32":
        return torch.zeros_like(param.detach(), dtype=compute_dtype(param), memory_format=keep)
    if state_format == "bfloat16":
        return torch.zeros_like(param.detach(), dtype=torch.bfloat16, memory_format=keep)
    codes, scales = formats.encode_8bit(np.zeros(QUANT_BLOCK, np.float32), signed=kind == "signed")
    blocks = -(-local(param).numel() // QUANT_BLOCK)
    return (
        torch.full_like(param.detach(), int(codes[0]), dtype=torch.uint8, memory_format=keep),
        torch.full((blocks,), float(scales[0]), dtype=torch.float32, device="cpu"),
    )


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
    if scales is not None:
        codes = torch.empty_like(param.detach(), dtype=torch.uint8, memory_format=torch.preserve_format)
        codes.copy_(value)
        if isinstance(out, tuple):
            return codes, scales.detach().clone()
        values = formats.decode_8bit(flat(codes).numpy(), scales.detach().numpy(), signed=kind == "signed")
        flat(out).copy_(torch.from_numpy(values))
        return out
    if isinstance(out, tuple):
        whole = torch.empty_like(param.detach(), dtype=compute_dtype(param), memory_format=torch.preserve_format)
        whole.copy_(value)
        encoded = formats.encode_8bit(flat(whole).numpy(), signed=kind == "signed")
        flat(out[0]).copy_(torch.from_numpy(encoded[0]))
        return out[0], torch.from_numpy(encoded[1])
    out.copy_(value)
    return out


def is_stored_as(param: Tensor, value: Any, kind: str, state_format: str, small: bool) -> bool:
    """Whether a state lies as a step needs it: the right dtype, the parameter's order in memory."""
    if not isinstance(value, Tensor) or value.shape != param.shape or local(value).device.type != "cpu":
        return False
    wide = kind == "exact" or small or state_format == "float32"
    dtype = compute_dtype(param) if wide else torch.bfloat16 if state_format == "bfloat16" else torch.uint8
    mine, its = local(param), local(value)
    lies = all(size == 1 or a == b for a, b, size in zip(its.stride(), mine.stride(), mine.shape, strict=True))
    return value.dtype == dtype and (lies or value.numel() == 0)


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors of this process hold."""
    return sum(local(tensor).numel() * local(tensor).element_size() for tensor in tensors)
