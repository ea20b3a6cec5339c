"""Decay formulas: the value falls with the epoch.

All of them take ``steps_per_epoch`` (default 1: every step is an epoch) and count whole epochs,
``epoch = t // steps_per_epoch``, so the value changes once per epoch. In the smooth formulas
``whole_epochs=False`` puts ``t / steps_per_epoch`` instead, and the value changes at every step.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .._arguments import real, whole
from ._base import InEpochs, InPartsOfEpochs
from ._maths import power

__all__ = ["exponential_decay", "inverse_sqrt_decay", "inverse_time_decay", "piecewise", "staircase"]


@dataclass(frozen=True, repr=False)
class inverse_time_decay(InPartsOfEpochs):
    """``lr / (1 + decay_rate * epoch)``.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    decay_rate : float, default 1.0
        After ``1 / decay_rate`` epochs the value has halved; >= 0.
    steps_per_epoch : int, default 1
        Steps that make one epoch.
    whole_epochs : bool, default True
        False: the epoch grows by ``1 / steps_per_epoch`` with every step.

    Examples
    --------
    >>> schedule = inverse_time_decay(0.2, decay_rate=1.0)
    >>> [round(schedule(t), 4) for t in range(4)]
    [0.2, 0.1, 0.0667, 0.05]
    """

    lr: float
    decay_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(lr=real("lr", self.lr, low=0.0), decay_rate=real("decay_rate", self.decay_rate, low=0.0))

    def _value(self, t: int) -> float:
        return self.lr / (1.0 + self.decay_rate * self._epoch(t))


@dataclass(frozen=True, repr=False)
class exponential_decay(InPartsOfEpochs):
    """``decay_rate**epoch * lr``.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    decay_rate : float, default 0.95
        What one epoch leaves of the value, from 0 to 1.
    steps_per_epoch : int, default 1
        Steps that make one epoch.
    whole_epochs : bool, default True
        False: the epoch grows by ``1 / steps_per_epoch`` with every step.

    Examples
    --------
    >>> schedule = exponential_decay(1.0, steps_per_epoch=10)
    >>> schedule(9), schedule(10), schedule(20)
    (1.0, 0.95, 0.9025)
    """

    lr: float
    decay_rate: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        decay_rate = real("decay_rate", self.decay_rate, low=0.0, high=1.0)
        self._set(lr=real("lr", self.lr, low=0.0), decay_rate=decay_rate)

    def _value(self, t: int) -> float:
        return power(self.decay_rate, self._epoch(t)) * self.lr


@dataclass(frozen=True, repr=False)
class inverse_sqrt_decay(InPartsOfEpochs):
    """``k / sqrt(epoch) * lr``, with every epoch before 1 taken as 1.

    Parameters
    ----------
    lr : float
        The value, up to `k`, in epochs 0 and 1; finite and >= 0.
    k : float, default 1.0
        The formula's constant, >= 0.
    steps_per_epoch : int, default 1
        Steps that make one epoch.
    whole_epochs : bool, default True
        False: the epoch grows by ``1 / steps_per_epoch`` with every step.

    Examples
    --------
    >>> schedule = inverse_sqrt_decay(0.1)
    >>> schedule(0), schedule(1), schedule(4), schedule(100)
    (0.1, 0.1, 0.05, 0.010000000000000002)
    """

    lr: float
    k: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(lr=real("lr", self.lr, low=0.0), k=real("k", self.k, low=0.0))

    def _value(self, t: int) -> float:
        return self.k / math.sqrt(max(self._epoch(t), 1.0)) * self.lr


@dataclass(frozen=True, repr=False)
class staircase(InEpochs):
    """``lr * factor**(epoch // every)``: level for `every` epochs, then one drop.

    Parameters
    ----------
    lr : float
        The value on the first stair, finite and >= 0.
    every : int
        Length of a stair in epochs, >= 1.
    factor : float, default 0.1
        What a drop leaves of the value, >= 0.
    steps_per_epoch : int, default 1
        Steps that make one epoch.

    Examples
    --------
    >>> schedule = staircase(0.8, every=30, factor=0.5)
    >>> [schedule(t) for t in (0, 29, 30, 60, 90)]
    [0.8, 0.8, 0.4, 0.2, 0.1]
    """

    lr: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        every, factor = whole("every", self.every, low=1), real("factor", self.factor, low=0.0)
        self._set(lr=real("lr", self.lr, low=0.0), every=every, factor=factor)

    def _value(self, t: int) -> float:
        stairs = power(self.factor, t // self.steps_per_epoch // self.every)
        return self.lr * stairs if self.lr else 0.0  # 0 also where the stairs are infinite


@dataclass(frozen=True, repr=False)
class piecewise(InEpochs):
    """Values chosen by hand: ``values[i]``, where `i` counts the boundaries already reached.

    Parameters
    ----------
    boundaries : sequence of int
        Epochs, rising, >= 1, at which the next value takes over (that epoch is the first with it).
    values : sequence of float
        One more than there are boundaries, each finite and >= 0.
    steps_per_epoch : int, default 1
        Steps that make one epoch.

    Examples
    --------
    >>> schedule = piecewise([2, 4], [1e-2, 1e-3, 1e-4])
    >>> [schedule(t) for t in range(5)]
    [0.01, 0.01, 0.001, 0.001, 0.0001]
    """

    boundaries: Sequence[int]
    values: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(boundaries=rising("boundaries", self.boundaries), values=reals("values", self.values))
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values: got {len(self.values)} for {len(self.boundaries)} boundaries, "
                f"needs one more than boundaries: {len(self.boundaries) + 1}"
            )

    def _value(self, t: int) -> float:
        return self.values[bisect_right(self.boundaries, t // self.steps_per_epoch)]


def reals(name: str, values: Iterable[object]) -> tuple[float, ...]:
    """Return finite numbers >= 0 as a tuple of floats, or raise with the path of the bad one."""
    return tuple(real(f"{name}[{i}]", value, low=0.0) for i, value in enumerate(_listed(name, values)))


def rising(name: str, values: Iterable[object]) -> tuple[int, ...]:
    """Return strictly rising integers >= 1 as a tuple, or raise with the path of the bad one."""
    numbers = tuple(whole(f"{name}[{i}]", value, low=1) for i, value in enumerate(_listed(name, values)))
    for i, (before, after) in enumerate(pairwise(numbers)):
        if after <= before:
            raise ValueError(f"{name}[{i + 1}]: got {after} after {before}, needs a larger one")
    return numbers


def _listed(name: str, values: Iterable[object]) -> Iterable[object]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable) or getattr(values, "shape", True) == ():
        raise TypeError(f"{name}: got {type(values).__name__}, needs a sequence of numbers")
    return values
