"""Adafactor for torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._base import FusedOptimizer
from .own_optimizers import OwnOptimizer

__all__ = ["Adafactor"]

if TYPE_CHECKING or hasattr(torch.optim, "Adafactor"):  # torch has it since 2.5

    class _Base(FusedOptimizer, torch.optim.Adafactor):
        pass

else:
    _Base = OwnOptimizer


class Adafactor(_Base):
    """Adafactor: ``torch.optim.Adafactor``, faster (see `fusedstep.Adafactor`).

    Parameters may have any order in memory. Those that are not contiguous are stepped in a contiguous copy.
    """

    rule = "adafactor"
