"""What `fusedstep` shows; imported when any of it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
    # These are imported when they are used: not every training saves. Modules are the package's own to import.
    if name in ("Checkpoint", "Saving", "load", "save"):
        return getattr(importlib.import_module(".checkpoint", __package__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
