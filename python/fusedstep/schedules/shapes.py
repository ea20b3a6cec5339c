"""Shapes over a known number of steps, and how to put schedules one after another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .._arguments import choice, flag, number, real, whole
from ._base import Schedule, Stateful
from ._maths import cospi
from .decay import rising

__all__ = ["cosine", "half_cosine", "join", "line", "linear_warmup", "one_cycle"]


def half_cosine(start: float, end: float, part: float) -> float:
    """From start (part 0) to end (part 1), level at both ends."""
    return end + (start - end) * 0.5 * (1.0 + cospi(part))


def line(start: float, end: float, part: float) -> float:
    """From start (part 0) to end (part 1), straight."""
    return start + (end - start) * part


@dataclass(frozen=True, repr=False)
class cosine(Schedule):
    """``end + (lr - end) * (1 + cos(pi * t / steps)) / 2`` until `steps`, then `end`.

    Loshchilov and Hutter, *SGDR: Stochastic Gradient Descent with Warm Restarts*, ICLR 2017, eq. 5, for one
    period. `end` may lie above `lr`: the same shape then rises.

    Parameters
    ----------
    lr : float
        The value at the start, finite and >= 0.
    steps : int
        Steps until `end` is reached, >= 1.
    end : float, default 0.0
        The value from then on, finite and >= 0.

    Examples
    --------
    >>> schedule = cosine(0.1, 100)
    >>> schedule(0), schedule(50), schedule(100), schedule(1000)
    (0.1, 0.05, 0.0, 0.0)
    """

    lr: float
    steps: int
    end: float = 0.0

    def __post_init__(self) -> None:
        steps = whole("steps", self.steps, low=1)
        self._set(lr=real("lr", self.lr, low=0.0), steps=steps, end=real("end", self.end, low=0.0))

    def _value(self, t: int) -> float:
        return half_cosine(self.lr, self.end, t / self.steps) if t < self.steps else self.end


@dataclass(frozen=True, repr=False)
class linear_warmup(Schedule):
    """``start + (lr - start) * t / steps`` until `steps`, then `lr`.

    The first step is taken with `start`: with 0 it moves nothing, so ``start=lr / steps`` wastes no step.
    `start` may lie above `lr`: a linear decay.

    Parameters
    ----------
    lr : float
        The value reached after `steps` steps and kept, finite and >= 0.
    steps : int
        Length of the warm-up, >= 1.
    start : float, default 0.0
        The value of the first step, finite and >= 0.

    Examples
    --------
    >>> schedule = linear_warmup(1.0, 4)
    >>> [schedule(t) for t in range(6)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
    """

    lr: float
    steps: int
    start: float = 0.0

    def __post_init__(self) -> None:
        steps = whole("steps", self.steps, low=1)
        self._set(lr=real("lr", self.lr, low=0.0), steps=steps, start=real("start", self.start, low=0.0))

    def _value(self, t: int) -> float:
        return line(self.start, self.lr, t / self.steps) if t < self.steps else self.lr


@dataclass(frozen=True, repr=False)
class one_cycle(Schedule):
    """Up to `lr_max`, then down far below the start, over `steps` steps; held at the last value after.

    The value rises from ``lr_max / div_factor`` to `lr_max` and falls to ``lr_max / div_factor /
    final_div_factor`` at the last of the `steps` steps (``t = steps - 1``). With ``three_phase`` it first
    falls back to the start, as fast as it rose. Smith and Topin, *Super-Convergence*, 2018
    (arXiv:1708.07120), with the phase lengths of torch.optim.lr_scheduler.OneCycleLR.

    Parameters
    ----------
    lr_max : float
        The peak, finite and >= 0.
    steps : int
        Length of the cycle, >= 2.
    pct_start : float, default 0.3
        The rise's share of the steps, above 0 and below 1 (at most 0.5 in three phases).
    div_factor, final_div_factor : float, default 25 and 1e4
        Peak over start, and start over the last value; above 0.
    anneal : {"cos", "linear"}, default "cos"
        The shape of every phase.
    three_phase : bool, default False
        Down to the start in as many steps as the rise took, and only then to the last value.

    Examples
    --------
    >>> schedule = one_cycle(1.0, 11, pct_start=0.5, anneal="linear", div_factor=10.0)
    >>> [round(schedule(t), 3) for t in (0, 10, 11)]
    [0.1, 0.0, 0.0]
    """

    lr_max: float
    steps: int
    pct_start: float = 0.3
    div_factor: float = field(default=25.0, kw_only=True)
    final_div_factor: float = field(default=1e4, kw_only=True)
    anneal: Literal["cos", "linear"] = field(default="cos", kw_only=True)
    three_phase: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        flag("three_phase", self.three_phase)
        choice("anneal", self.anneal, ("cos", "linear"))
        pct_start = real("pct_start", self.pct_start, above=0.0, below=1.0)
        if self.three_phase and pct_start > 0.5:
            raise ValueError(f"pct_start: got {pct_start!r}, needs at most 0.5 in three phases")
        self._set(
            lr_max=real("lr_max", self.lr_max, low=0.0),
            steps=whole("steps", self.steps, low=2),
            pct_start=pct_start,
            div_factor=real("div_factor", self.div_factor, above=0.0),
            final_div_factor=real("final_div_factor", self.final_div_factor, above=0.0),
        )
        start = real("lr_max / div_factor", self.lr_max / self.div_factor)
        real("lr_max / div_factor / final_div_factor", start / self.final_div_factor)

    def _value(self, t: int) -> float:
        start, last = self.lr_max / self.div_factor, float(self.steps - 1)
        final = start / self.final_div_factor
        # a rise that ends within the first step is no rise: the cycle then starts at the peak
        top = max(self.pct_start * self.steps - 1.0, 0.0)
        phases = [(top, start, self.lr_max)]
        if self.three_phase:
            phases.append((2.0 * top, self.lr_max, start))
        phases.append((last, phases[-1][2], final))
        shape, begun = (half_cosine if self.anneal == "cos" else line), 0.0
        for ends, low, high in phases:
            if t <= ends and ends > begun:
                return shape(low, high, (t - begun) / (ends - begun))
            begun = ends
        return final


@dataclass(frozen=True, repr=False)
class join(Schedule):
    """Schedules one after another; each counts its own steps from where it takes over.

    Parameters
    ----------
    schedules : sequence of callables
        Each a schedule, or any callable of the step.
    boundaries : sequence of int
        Steps, rising, >= 1, at which the next schedule takes over: one fewer than there are schedules.

    Examples
    --------
    >>> schedule = join([linear_warmup(1.0, 2), cosine(1.0, 4)], [2])
    >>> [round(schedule(t), 3) for t in range(7)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    schedules: Sequence[Callable[[int], float]]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        if isinstance(self.schedules, (str, bytes)) or not isinstance(self.schedules, Sequence):
            raise TypeError(f"schedules: got {type(self.schedules).__name__}, needs a sequence of callables")
        for i, schedule in enumerate(self.schedules):
            if not callable(schedule):
                raise TypeError(f"schedules[{i}]: got {type(schedule).__name__}, needs a callable of the step")
        self._set(schedules=tuple(self.schedules), boundaries=rising("boundaries", self.boundaries))
        if len(self.schedules) != len(self.boundaries) + 1:
            raise ValueError(
                f"schedules: got {len(self.schedules)} for {len(self.boundaries)} boundaries, "
                f"needs one more than boundaries: {len(self.boundaries) + 1}"
            )

    def _value(self, t: int) -> float:
        i = bisect_right(self.boundaries, t)
        return number(f"schedules[{i}]", self.schedules[i](t - self.boundaries[i - 1] if i else t))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every schedule that has one, None for the others."""
        return {"schedules": [s.state_dict() if isinstance(s, Stateful) else None for s in self.schedules]}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned; nothing changes when it is not accepted.

        Raises
        ------
        TypeError
            If `state` is not a mapping.
        ValueError
            If `state` belongs to another list of schedules.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"state: got {type(state).__name__}, needs a mapping")
        states = state.get("schedules")
        kinds = [isinstance(s, Stateful) for s in self.schedules]
        if not isinstance(states, list) or [s is not None for s in states] != kinds:
            raise ValueError(f'state["schedules"] does not match the {len(kinds)} joined schedules: got {states!r}')
        both = zip(self.schedules, states, strict=True)
        pairs: list[tuple[Any, Any]] = [(s, one) for s, one in both if isinstance(s, Stateful)]
        before = [schedule.state_dict() for schedule, _ in pairs]
        try:
            for schedule, one in pairs:
                schedule.load_state_dict(one)
        except Exception:
            for (schedule, _), old in zip(pairs, before, strict=True):
                schedule.load_state_dict(old)
            raise
