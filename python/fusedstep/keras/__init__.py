"""The optimizers for Keras 3 on its torch backend: ``model.compile(optimizer=fusedstep.keras.Adam(1e-3), loss=...)``.

Each class is a subclass of the one in ``keras.optimizers`` of the same name, with its arguments, defaults, formula and
variables; what differs is that a step is one pass over memory in native code for the whole model. Models saved with one
load with the other.

>>> from fusedstep.keras import Adam
>>> optimizer = Adam(learning_rate=1e-3, clipnorm=1.0)
>>> optimizer.epsilon
1e-07
"""

from __future__ import annotations

from . import _backend as _backend  # first: says what is missing
from . import optimizers
from ._callback import Watch
from .optimizers import *  # noqa: F403  (optimizers.__all__ is the list of every optimizer)

__all__ = ["Watch"]
__all__ += optimizers.__all__
