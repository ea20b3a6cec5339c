"""One optimizer step over a whole model in one pass over memory, in place, with the same bits on every CPU.

>>> import numpy as np
>>> import fusedstep as fs
>>> params = {"W": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
>>> opt = fs.Adam(params, lr=0.1)
>>> opt.step({"W": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)})
True
>>> params["W"][0]
array([0.9, 0.9, 0.9], dtype=float32)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _interpreter as _interpreter  # first, as it may refuse
from . import optimizers, reference
from ._core import available_isas, get_num_threads, get_threading, isa, set_isa, set_num_threads, set_threading
from ._structures import register_structure
from ._version import __version__
from .averages import ExponentialAverage
from .grouping import groups, layer_decay
from .minibatch import minibatches
from .optimizers import *  # noqa: F403  (optimizers.__all__ is the list of every optimizer)
from .optimizers.numpy_rule import NumPyOptimizer
from .sparse import SparseRows
from .watching import Figures, Rates, Watch, WatchedStep

if TYPE_CHECKING:
    from . import functional, schedules
    from .checkpoint import Checkpoint, Saving, load, save

__all__ = [
    "Checkpoint",
    "ExponentialAverage",
    "Figures",
    "NumPyOptimizer",
    "Rates",
    "Saving",
    "SparseRows",
    "Watch",
    "WatchedStep",
    "__version__",
    "available_isas",
    "functional",
    "get_num_threads",
    "get_threading",
    "groups",
    "isa",
    "layer_decay",
    "load",
    "minibatches",
    "reference",
    "register_structure",
    "save",
    "schedules",
    "set_isa",
    "set_num_threads",
    "set_threading",
]
__all__ += optimizers.__all__


def __getattr__(name: str) -> Any:
    # Imported when they are first used: `import fusedstep` is to cost little beside NumPy's own import.
    if name in ("functional", "schedules"):
        return importlib.import_module(f".{name}", __name__)
    if name in ("Checkpoint", "Saving", "load", "save"):
        return getattr(importlib.import_module(".checkpoint", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
