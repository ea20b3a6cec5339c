"""The types of the arguments of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

from .._group_options import StorageOptions

__all__ = ["Number", "Numbers", "Options"]

Number: TypeAlias = float | jax.Array | np.ndarray[Any, Any] | Callable[[Any], Any]
Numbers: TypeAlias = tuple[Number, ...] | jax.Array | Callable[[Any], Any]


class Options(StorageOptions, total=False):
    """Options that every optimizer takes by keyword."""

    mask: Any
    trainable: Any
    maximize: bool
    max_grad_norm: Number | None
    clip_value: Number | None
    ema_decay: Number | None
    cautious: bool
