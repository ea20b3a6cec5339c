"""What torch offers to native code that reads where tensors lie; nothing is compiled against it."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["exchange_table", "field_functions"]

TYPES = (Tensor, torch.nn.Parameter)

# Of torch's C interface for compiled models, which is kept stable (torch/csrc/inductor/aoti_torch/c/shim.h).
FUNCTIONS = (
    "aoti_torch_get_data_ptr",
    "aoti_torch_get_dim",
    "aoti_torch_get_sizes",
    "aoti_torch_get_strides",
    "aoti_torch_get_dtype",
    "aoti_torch_get_device_type",
    "aoti_torch_get_layout",
    "aoti_torch_device_type_cpu",
    "aoti_torch_layout_strided",
)


def exchange_table() -> Any:
    """The table of C functions that tells where tensors lie; None before torch 2.10."""
    return getattr(Tensor, "__dlpack_c_exchange_api__", None)


@cache
def field_functions() -> tuple[Any, ...] | None:
    """C functions that tell where a tensor lies without taking a reference; None where they cannot be used.

    Returns
    -------
    tuple or None
        Types of the objects they are good for, the bytes from the start of such an object to torch's handle of the
        tensor, and the addresses of the functions.
    """
    offsets = {_handle_offset(torch.empty(3)), _handle_offset(torch.nn.Parameter(torch.empty(2, 2)))}
    if len(offsets) != 1 or None in offsets:
        return None
    try:
        library = ctypes.CDLL(torch._C.__file__)
        addresses = [ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in FUNCTIONS]
    except (OSError, AttributeError):
        return None
    return TYPES, offsets.pop(), tuple(addresses)


def _handle_offset(tensor: Tensor) -> int | None:
    """Where in an object its tensor's address is, which is all there is to a handle."""
    size = ctypes.sizeof(ctypes.c_void_p)
    words = (ctypes.c_size_t * (Tensor.__basicsize__ // size)).from_address(id(tensor))
    places = [i * size for i, word in enumerate(words) if word == tensor._cdata]
    return places[0] if len(places) == 1 else None
