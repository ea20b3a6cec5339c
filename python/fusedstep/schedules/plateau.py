"""The one schedule that listens: the value drops when a metric stops getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .._arguments import choice, number, real, whole
from ._base import Schedule

__all__ = ["reduce_on_plateau"]


@dataclass(repr=False)
class reduce_on_plateau(Schedule):
    """Multiply the value by `factor` when the metric has not got better for more than `patience` updates.

    Give it to the optimizer as the learning rate and call ``schedule.update(metric)`` whenever the metric is
    known, as a rule once per epoch; the next step uses the new value. The rule, the names and the defaults
    are those of torch.optim.lr_scheduler.ReduceLROnPlateau. NaN never counts as better.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    factor : float, default 0.1
        What a drop leaves of the value, from 0 to below 1.
    patience : int, default 10
        Updates without progress that are borne; the next one drops the value.
    threshold : float, default 1e-4
        How much better counts as better, >= 0.
    cooldown : int, default 0
        Updates after a drop during which bad ones are not counted.
    min_lr : float, default 0.0
        The value does not fall below this.
    mode : {"min", "max"}, default "min"
        Whether a smaller or a larger metric is better.
    threshold_mode : {"rel", "abs"}, default "rel"
        `threshold` as a share of the best metric, or as a difference from it.
    eps : float, default 1e-8
        Drops by no more than this are not made.

    Attributes
    ----------
    value : float
        The value now, for whichever step.
    best : float
        The best metric so far; infinity (of the bad sign) before the first.

    Examples
    --------
    >>> schedule = reduce_on_plateau(0.1, factor=0.5, patience=1)
    >>> for metric in (3.0, 2.0, 2.0, 2.0):
    ...     schedule.update(metric)
    >>> schedule(4)
    0.05
    """

    lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    cooldown: int = field(default=0, kw_only=True)
    min_lr: float = field(default=0.0, kw_only=True)
    mode: Literal["min", "max"] = field(default="min", kw_only=True)
    threshold_mode: Literal["rel", "abs"] = field(default="rel", kw_only=True)
    eps: float = field(default=1e-8, kw_only=True)
    value: float = field(init=False)
    best: float = field(init=False)
    bad_updates: int = field(init=False, default=0)
    cooldown_left: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.lr = self.value = real("lr", self.lr, low=0.0)
        self.factor = real("factor", self.factor, low=0.0, below=1.0)
        self.patience = whole("patience", self.patience)
        self.threshold = real("threshold", self.threshold, low=0.0)
        self.cooldown = whole("cooldown", self.cooldown)
        self.min_lr = real("min_lr", self.min_lr, low=0.0)
        self.eps = real("eps", self.eps, low=0.0)
        choice("mode", self.mode, ("min", "max"))
        choice("threshold_mode", self.threshold_mode, ("rel", "abs"))
        self.best = math.inf if self.mode == "min" else -math.inf

    def _value(self, t: int) -> float:
        return self.value

    def _better(self, metric: float) -> bool:
        sign = 1.0 if self.mode == "max" else -1.0
        if self.threshold_mode == "rel":
            return sign * metric > sign * (self.best * (1.0 + sign * self.threshold))
        return sign * metric > sign * (self.best + sign * self.threshold)

    def update(self, metric: float, /) -> None:
        """Take note of a metric and drop the value if it is time.

        Parameters
        ----------
        metric : float
            A number, NaN and the infinities included; an array or tensor of one element serves as well.

        Raises
        ------
        TypeError
            If `metric` is not a number.
        """
        value = number("metric", metric)
        if self._better(value):
            self.best, self.bad_updates = value, 0
        else:
            self.bad_updates += 1
        if self.cooldown_left > 0:
            self.cooldown_left, self.bad_updates = self.cooldown_left - 1, 0
        if self.bad_updates > self.patience:
            lower = max(self.value * self.factor, self.min_lr)
            if self.value - lower > self.eps:
                self.value = lower
            self.cooldown_left, self.bad_updates = self.cooldown, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what changes with the updates: plain numbers under the attributes' names."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned; nothing changes when it is not accepted.

        Raises
        ------
        TypeError, ValueError
            If a name is missing or unknown, or a number is not of its kind.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, needs a mapping")
        if set(state) != set(_STATE):
            raise ValueError(f"state: got the keys {list(state)}, needs {list(_STATE)}")
        value = real('state["value"]', state["value"], low=0.0)
        best = number('state["best"]', state["best"])
        bad_updates = whole('state["bad_updates"]', state["bad_updates"])
        cooldown_left = whole('state["cooldown_left"]', state["cooldown_left"])
        self.value, self.best, self.bad_updates, self.cooldown_left = value, best, bad_updates, cooldown_left


_STATE = ("value", "best", "bad_updates", "cooldown_left")
