"""Where optimizers that were pickled by 0.1 look for their classes."""

from __future__ import annotations

from .optimizers import *  # noqa: F403
