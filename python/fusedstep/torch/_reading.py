"""How native code reads where torch's tensors lie; nothing is compiled against torch."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from .._core import Memory, TensorReader

__all__ = ["memory", "quiet", "reader"]

quiet = torch._C.DisableTorchFunction
"""A context in which methods of tensors run no code of others, neither of a subclass nor of a mode.

Reading where memory lies and using it belong into one: what runs in between could free it.
"""


@cache
def reader() -> TensorReader:
    """Read through torch's DLPack exchange table, or before torch 2.10, which has none, through capsules."""
    return TensorReader(
        getattr(Tensor, "__dlpack_c_exchange_api__", None),
        torch.utils.dlpack.to_dlpack,  # type: ignore[attr-defined]
        Tensor,
        torch._C._is_torch_function_mode_enabled,
        quiet,
    )


def memory(tensor: Tensor, name: str) -> Memory:
    """What the native side takes in an array's place: the memory of a tensor, or of a DTensor's own part, checked.

    Raises
    ------
    TypeError
        It is not a dense tensor on the CPU, or of a dtype that no parameter, gradient or state has.
    ValueError
        It has gaps between its elements, is not aligned, was freed, or holds conjugates or negatives.
    """
    return reader().memory(getattr(tensor, "_local_tensor", tensor), name)
