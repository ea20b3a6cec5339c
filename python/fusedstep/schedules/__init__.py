"""Learning rates (or any other hyper-parameter) that change with the step.

A schedule is a callable of ``t``, the number of steps already completed: ``fs.Adam(params, lr=cosine(1e-3,
1000))`` asks it for ``lr`` before every step, with 0 before the first.

>>> schedule = join([linear_warmup(1e-3, 100), cosine(1e-3, 900)], [100])
>>> schedule(0), schedule(100), schedule(1000)
(0.0, 0.001, 0.0)
>>> exponential_decay(0.1, steps_per_epoch=20)
exponential_decay(lr=0.1, decay_rate=0.95, steps_per_epoch=20)
"""

from __future__ import annotations

from ._base import Schedule, Stateful
from .cycles import cosine_restarts, cyclic, polynomial, warmup_stable_decay
from .decay import exponential_decay, inverse_sqrt_decay, inverse_time_decay, piecewise, staircase
from .plateau import reduce_on_plateau
from .shapes import cosine, join, linear_warmup, one_cycle

__all__ = [
    "Schedule",
    "Stateful",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential_decay",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "join",
    "linear_warmup",
    "one_cycle",
    "piecewise",
    "polynomial",
    "reduce_on_plateau",
    "staircase",
    "warmup_stable_decay",
]
