"""Whether the memory of a torch tensor is there: torch and NumPy read and write beyond its end."""

from __future__ import annotations

import sys
from typing import Any

__all__ = ["check_held", "check_storage"]


def check_held(value: Any, name: str) -> None:
    """Check the memory of a value that may be a tensor; other classes of tensors may keep their elements elsewhere."""
    torch = sys.modules.get("torch")
    if not issubclass(type(value), getattr(torch, "Tensor", ())):  # nothing is one before torch is there
        return
    assert torch is not None
    tensor = getattr(value, "_local_tensor", value)
    dense = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if dense and not tensor.is_meta and not tensor.is_nested:
        check_storage(tensor, name)


def check_storage(tensor: Any, name: str) -> None:
    """Check the memory of a strided tensor."""
    reach = sum(stride * (size - 1) for stride, size in zip(tensor.stride(), tensor.shape, strict=True)) + 1
    needed = (tensor.storage_offset() + reach) * tensor.element_size()
    if tensor.numel() and tensor.untyped_storage().nbytes() < needed:
        raise ValueError(f"{name}: got memory that was freed or resized, needs the bytes of all its elements")
