"""The definition of every update rule, in NumPy.

The native code leaves the same bytes as these functions, on every instruction set and thread count. They are
written to be read, not to be fast: `fusedstep.functional` has the same functions, fast.
"""

from __future__ import annotations

import warnings
from typing import Any

from ._step import RULES, Rule, State, StepOptions
from .accumulation import accumulate
from .adabelief import adabelief
from .adafactor import adafactor
from .adagrad import adadelta, adagrad
from .adam import adam, adamw
from .adam_mini import adam_mini
from .adamax import adamax
from .adan import adan
from .ademamix import ademamix
from .adopt import adopt
from .asgd import asgd
from .lion import lion
from .mars import mars, mars_lion
from .muon import muon
from .nadam import nadam
from .novograd import novograd
from .prodigy import prodigy
from .radam import radam
from .rmsprop import rmsprop
from .rprop import rprop
from .schedule_free import (
    schedule_free_adamw,
    schedule_free_average,
    schedule_free_interpolation,
    schedule_free_sgd,
)
from .sgd import momentum, sgd
from .sparse import sparse_adam
from .stable_adamw import stable_adamw
from .trust import lamb, lars
from .yogi import yogi

__all__ = [
    "RULES",
    "Rule",
    "State",
    "StepOptions",
    "accumulate",
    "adabelief",
    "adadelta",
    "adafactor",
    "adagrad",
    "adam",
    "adam_mini",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "lamb",
    "lars",
    "lion",
    "mars",
    "mars_lion",
    "momentum",
    "muon",
    "nadam",
    "novograd",
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_average",
    "schedule_free_interpolation",
    "schedule_free_sgd",
    "sgd",
    "sparse_adam",
    "stable_adamw",
    "yogi",
]


def __getattr__(name: str) -> Any:
    if name == "Around":
        warnings.warn("fusedstep.reference.Around is now called StepOptions", DeprecationWarning, stacklevel=2)
        return StepOptions
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
