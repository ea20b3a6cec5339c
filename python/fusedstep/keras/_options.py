"""Keras's options as plain numbers."""

from __future__ import annotations

from typing import Any

from .._arguments import number, real, whole
from ..torch._options import plain

__all__ = ["AROUND_A_STEP", "checked"]

# The allowed range of every option that is a number; Keras itself checks few.
NUMBERS_OR_NONE: dict[str, dict[str, float]] = {
    "weight_decay": {},
    "clipnorm": {},
    "clipvalue": {},
    "global_clipnorm": {},
}
RANGES: dict[str, dict[str, float]] = {
    "momentum": {"low": 0.0},
    "rho": {"low": 0.0, "high": 1.0},
    "beta_1": {"low": 0.0, "below": 1.0},
    "beta_2": {"low": 0.0, "below": 1.0},
    "epsilon": {"low": 0.0},
    "ema_momentum": {"low": 0.0, "high": 1.0},
    **NUMBERS_OR_NONE,
}
COUNTS_OR_NONE = ("ema_overwrite_frequency", "gradient_accumulation_steps")
AROUND_A_STEP = ("use_ema", "ema_momentum", *NUMBERS_OR_NONE, *COUNTS_OR_NONE)


def checked(name: str, value: Any) -> Any:
    """An option as a plain number, bool or None."""
    if name in (*NUMBERS_OR_NONE, *COUNTS_OR_NONE) and (value is None or value is False):
        return None
    if name in COUNTS_OR_NONE:
        return whole(name, plain(value, name))
    if name in RANGES:
        return real(name, number(name, value), **RANGES[name])
    try:
        return bool(value)
    except (RuntimeError, ValueError):
        raise TypeError(f"{name}: got {type(value).__name__}, needs True or False") from None
