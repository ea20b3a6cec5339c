"""The definition of every update rule, in NumPy.

The native code leaves the same bytes as these functions, on every instruction set and thread count. They are
written to be read, not to be fast: `fusedstep.functional` has the same functions, fast.
"""

from __future__ import annotations

from ._frame import RULES, Around, Rule, State
from .adam import adam, adamw
from .rmsprop import rmsprop
from .sgd import momentum, sgd

__all__ = ["RULES", "Around", "Rule", "State", "adam", "adamw", "momentum", "rmsprop", "sgd"]
