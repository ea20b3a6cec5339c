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

from .._agreement import RankError
from . import adafactor, muon, optimizers, own_optimizers, schedule_free
from ._base import FusedOptimizer
from ._options import Options
from .adafactor import *  # noqa: F403
from .grouping import groups, layer_decay
from .in_backward import apply_in_backward
from .muon import *  # noqa: F403
from .offload import CPUOffload
from .optimizers import *  # noqa: F403  (each file has the list of its optimizers)
from .own_optimizers import *  # noqa: F403
from .schedule_free import *  # noqa: F403

__all__ = ["CPUOffload", "FusedOptimizer", "Options", "RankError", "apply_in_backward", "groups", "layer_decay"]
__all__ += adafactor.__all__ + muon.__all__ + optimizers.__all__ + own_optimizers.__all__ + schedule_free.__all__
