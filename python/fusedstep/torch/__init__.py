"""The optimizers for torch: ``from fusedstep.torch import AdamW`` in place of ``from torch.optim import AdamW``.

>>> import torch
>>> from fusedstep.torch import AdamW
>>> model = torch.nn.Linear(2, 1)
>>> opt = AdamW(model.parameters(), lr=1e-3)
>>> model(torch.ones(4, 2)).sum().backward()
>>> opt.step()
>>> opt.zero_grad()
"""

from __future__ import annotations

from . import more_optimizers, optimizers
from ._base import FusedOptimizer
from ._options import Options
from .in_backward import apply_in_backward
from .more_optimizers import *  # noqa: F403
from .offload import CPUOffload
from .optimizers import *  # noqa: F403  (optimizers.__all__ is the list of every optimizer)

__all__ = ["CPUOffload", "FusedOptimizer", "Options", "apply_in_backward"]
__all__ += more_optimizers.__all__ + optimizers.__all__
