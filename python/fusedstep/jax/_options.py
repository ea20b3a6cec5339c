"""The types of the arguments of optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias, TypedDict

import jax
import numpy as np

__all__ = ["Number", "Numbers", "Options"]

Number: TypeAlias = float | jax.Array | np.ndarray[Any, Any] | Callable[[Any], Any]
Numbers: TypeAlias = tuple[Number, ...] | jax.Array | Callable[[Any], Any]


class Options(TypedDict, total=False):
    """Options that every optimizer takes by keyword."""

    # the table of step options, by tools/stubs.py
    maximize: bool
    max_grad_norm: Number | None
    clip_value: Number | None
    skip_nonfinite: bool
    ema_decay: Number | None
    cautious: bool
    state_format: Literal["float32", "bfloat16", "8bit"]
    min_quantized_size: int
    master: Literal["float32", "split"] | None
    rounding: Literal["nearest", "stochastic"]
    seed: int
    mask: Any
    trainable: Any
