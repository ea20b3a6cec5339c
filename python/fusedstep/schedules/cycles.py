"""Schedules with a long level part, a polynomial end, or periods that repeat."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from .._arguments import choice, real, whole
from ._base import Schedule
from ._maths import power
from .shapes import half_cosine, line

__all__ = ["cosine_restarts", "cyclic", "polynomial", "warmup_stable_decay"]


@dataclass(frozen=True, repr=False)
class polynomial(Schedule):
    """``end + (lr - end) * (1 - t / steps)**power`` until `steps`, then `end`.

    The schedule of torch.optim.lr_scheduler.PolynomialLR and of Keras' PolynomialDecay; `power` 1 is a line.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    steps : int
        Steps until `end` is reached, >= 1.
    end : float, default 0.0
        The value from then on, finite and >= 0.
    power : float, default 1.0
        The exponent, finite and above 0.

    Examples
    --------
    >>> schedule = polynomial(1.0, 4, power=2.0)
    >>> [schedule(t) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    lr: float
    steps: int
    end: float = 0.0
    power: float = 1.0

    def __post_init__(self) -> None:
        self._set(
            lr=real("lr", self.lr, low=0.0),
            steps=whole("steps", self.steps, low=1),
            end=real("end", self.end, low=0.0),
            power=real("power", self.power, above=0.0),
        )

    def _value(self, t: int) -> float:
        if t >= self.steps:
            return self.end
        return self.end + (self.lr - self.end) * power((self.steps - t) / self.steps, self.power)


@dataclass(frozen=True, repr=False)
class warmup_stable_decay(Schedule):
    """Up in `warmup` steps, level for `stable` steps, down to `end` in `decay` steps (WSD).

    Hu et al., *MiniCPM*, 2024 (arXiv:2404.06395), section 4: a training may go on at the level, and every
    checkpoint of it can be brought down. Hägele et al., *Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations*, 2024 (arXiv:2405.18392), found ``1 - sqrt`` the best way down.

    Parameters
    ----------
    lr : float
        The value of the level part, finite and >= 0.
    warmup, stable, decay : int
        Steps of the three parts, >= 0.
    end : float, default 0.0
        The value after the last step, finite and >= 0.
    start : float, default 0.0
        The value of the first step, finite and >= 0.
    shape : {"1-sqrt", "linear", "cos"}, default "1-sqrt"
        The way down: with ``part`` from 0 to 1, the share of the height left is ``1 - sqrt(part)``,
        ``1 - part`` or ``(1 + cos(pi * part)) / 2``.

    Examples
    --------
    >>> schedule = warmup_stable_decay(1.0, 2, 3, 4, shape="linear")
    >>> [schedule(t) for t in range(10)]
    [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    lr: float
    warmup: int
    stable: int
    decay: int
    end: float = field(default=0.0, kw_only=True)
    start: float = field(default=0.0, kw_only=True)
    shape: Literal["1-sqrt", "linear", "cos"] = field(default="1-sqrt", kw_only=True)

    def __post_init__(self) -> None:
        choice("shape", self.shape, ("1-sqrt", "linear", "cos"))
        self._set(
            **{name: real(name, getattr(self, name), low=0.0) for name in ("lr", "end", "start")},
            **{name: whole(name, getattr(self, name)) for name in ("warmup", "stable", "decay")},
        )

    def _value(self, t: int) -> float:
        if t < self.warmup:
            return line(self.start, self.lr, t / self.warmup)
        gone = t - self.warmup - self.stable
        if gone < 0:
            return self.lr
        if gone >= self.decay:
            return self.end
        part = gone / self.decay
        if self.shape == "cos":
            return half_cosine(self.lr, self.end, part)
        return line(self.lr, self.end, math.sqrt(part) if self.shape == "1-sqrt" else part)


@dataclass(frozen=True, repr=False)
class cosine_restarts(Schedule):
    """Half cosines from `lr` to `end`, one after another; each period may be longer and lower than the last.

    Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, eq. 5, with the
    factor on the height of Keras' CosineDecayRestarts.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    steps : int
        Length of the first period, >= 1.
    growth : int, default 1
        Each period is this many times as long as the last, >= 1.
    end : float, default 0.0
        The value that every period falls to, finite and >= 0.
    factor : float, default 1.0
        Each period starts at this share of the last one's height above `end`, from 0 to 1.

    Examples
    --------
    >>> schedule = cosine_restarts(1.0, 2, growth=2, factor=0.5)
    >>> [round(schedule(t), 3) for t in range(7)]
    [1.0, 0.5, 0.5, 0.427, 0.25, 0.073, 0.25]
    """

    lr: float
    steps: int
    growth: int = 1
    end: float = field(default=0.0, kw_only=True)
    factor: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        self._set(
            lr=real("lr", self.lr, low=0.0),
            steps=whole("steps", self.steps, low=1),
            growth=whole("growth", self.growth, low=1),
            end=real("end", self.end, low=0.0),
            factor=real("factor", self.factor, low=0.0, high=1.0),
        )

    def _value(self, t: int) -> float:
        if self.growth == 1:
            period, t = divmod(t, self.steps)
            length = self.steps
        else:
            period, length = 0, self.steps
            while t >= length:
                t, length, period = t - length, length * self.growth, period + 1
        top = self.end + (self.lr - self.end) * power(self.factor, period)
        return half_cosine(top, self.end, t / length)


@dataclass(frozen=True, repr=False)
class cyclic(Schedule):
    """From `base` to `peak` and back in straight lines, again and again.

    Smith, *Cyclical Learning Rates for Training Neural Networks*, 2017 (arXiv:1506.01186), as
    torch.optim.lr_scheduler.CyclicLR. `peak` may lie below `base`: a momentum that moves against the rate.

    Parameters
    ----------
    base, peak : float
        The values at the ends and in the middle of a cycle, finite and >= 0.
    steps_up : int
        Steps from `base` to `peak`, >= 1.
    steps_down : int, optional
        Steps back, >= 1; as many as `steps_up` if None.
    mode : {"triangular", "triangular2", "exp_range"}, default "triangular"
        The height of each cycle: the same, half of the last one's, or `gamma` times smaller with every step.
    gamma : float, default 1.0
        Used by ``"exp_range"``, from 0 to 1.

    Examples
    --------
    >>> lr, momentum = cyclic(0.0, 1.0, 2), cyclic(0.9, 0.8, 2)
    >>> [(lr(t), round(momentum(t), 2)) for t in range(5)]
    [(0.0, 0.9), (0.5, 0.85), (1.0, 0.8), (0.5, 0.85), (0.0, 0.9)]
    """

    base: float
    peak: float
    steps_up: int
    steps_down: int | None = None
    mode: Literal["triangular", "triangular2", "exp_range"] = field(default="triangular", kw_only=True)
    gamma: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        choice("mode", self.mode, ("triangular", "triangular2", "exp_range"))
        self._set(
            base=real("base", self.base, low=0.0),
            peak=real("peak", self.peak, low=0.0),
            steps_up=whole("steps_up", self.steps_up, low=1),
            steps_down=None if self.steps_down is None else whole("steps_down", self.steps_down, low=1),
            gamma=real("gamma", self.gamma, low=0.0, high=1.0),
        )

    def _value(self, t: int) -> float:
        down = self.steps_up if self.steps_down is None else self.steps_down
        cycle, within = divmod(t, self.steps_up + down)
        part = within / self.steps_up if within <= self.steps_up else (self.steps_up + down - within) / down
        if self.mode == "triangular2":
            part = math.ldexp(part, -min(cycle, 2000))
        elif self.mode == "exp_range":
            part *= power(self.gamma, t)
        return self.base + (self.peak - self.base) * part
