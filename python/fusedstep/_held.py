"""Whether the memory of a tensor or an array is there: torch and NumPy read and write it all the same."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = ["check_held", "check_released", "check_storage"]


def check_released(memory: Any, name: str) -> None:
    """Check that what an array lies in was not closed, as `SharedMemory` is when nobody holds it.

    NumPy holds a map (``numpy.ndarray(shape, dtype, shared.buf)``), which does not keep it open.
    """
    while isinstance(memory, np.ndarray):
        memory = memory.base
    mapped = getattr(sys.modules.get("mmap"), "mmap", ())  # nothing is one before it is there
    try:
        gone = isinstance(memory, mapped) and memory.closed
        if isinstance(memory, memoryview):
            memory.nbytes  # noqa: B018
    except ValueError:
        gone = True
    if gone:
        raise ValueError(
            f"{name}: got memory that was closed, needs memory that stays; keep the object that it belongs to, such as "
            "a SharedMemory"
        )


def check_held(value: Any, name: str) -> None:
    """Check the memory of a value that may be a tensor; other classes of tensors may keep their elements elsewhere."""
    torch = sys.modules.get("torch")
    if not issubclass(type(value), getattr(torch, "Tensor", ())):  # nothing is one before torch is there
        return
    assert torch is not None
    tensor = getattr(value, "_local_tensor", value)
    if _is_plain(tensor) and tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_nested:
        check_storage(tensor, name)


def _is_plain(tensor: Any) -> bool:
    torch = sys.modules["torch"]
    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def check_storage(tensor: Any, name: str) -> None:
    """Check the memory of a strided tensor, and that it has any: its elements may be in tensors that it wraps."""
    try:
        storage = tensor.untyped_storage()
        if not _is_plain(tensor):
            storage.data_ptr()
    except RuntimeError:
        raise TypeError(
            f"{name}: got {type(tensor).__name__} without memory of its own, as it wraps others, needs a plain tensor"
        ) from None
    reach = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)) + 1
    needed = (tensor.storage_offset() + reach) * tensor.element_size()
    if tensor.numel() and storage.nbytes() < needed:
        raise ValueError(f"{name}: got memory that was freed or resized, needs the bytes of all its elements")
