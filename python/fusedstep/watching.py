"""See inside a step: what it does to every parameter, summed up while it is taken."""

from __future__ import annotations

import functools
import math
import os
import re
import threading
import weakref
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ._arguments import whole
from .reference import RULES
from .reference.watching import EXPONENTS, counted_state, effective_rates

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._core import Model

__all__ = ["Figures", "Rates", "Watch", "WatchedStep"]

Array = NDArray[Any]
Record = tuple[bool, bool, float, bytes, bytes, bytes]


class Rates(NamedTuple):
    """A histogram of effective learning rates.

    Attributes
    ----------
    edges : array of float64
        Ascending borders of the bins, one more than there are bins. From one to the next, the state that divides a
        step changes by a factor of 2 (a second moment), so that the rate changes by the square root of 2.
    counts : array of int64
        Elements in each bin; of tensors with more than 32,768 elements one in sixteen is counted.
    """

    edges: Array
    counts: Array


class Figures(NamedTuple):
    """What a step did to one parameter, or to all of them.

    Attributes
    ----------
    grad_norm : float
        Norm of the gradient, divided by ``grad_scale``, before it is clipped.
    param_norm : float
        Norm of the parameter after the step.
    update_norm : float
        Norm of what the step added to the parameter.
    ratio : float
        ``update_norm / param_norm``; 0 where nothing was added.
    zeros, nonfinite : float
        Shares of the gradient's elements that are zero, and that are infinite or NaN.
    elements : int
        Elements that the step went over: of row gradients those of the rows alone, as for the norms.
    """

    grad_norm: float
    param_norm: float
    update_norm: float
    ratio: float
    zeros: float
    nonfinite: float
    elements: int


class WatchedStep(Mapping[str, Figures]):
    """One watched step: the figures of every parameter that had a gradient, by name.

    Names are the keys and numbers on the way to a parameter, joined by dots: ``"layers.0.W"``. A single array is
    called ``"params"``.

    Attributes
    ----------
    step : int
        Its number, the first is 1: the largest step count among these parameters.
    taken : bool
        False when `skip_nonfinite` skipped it: then `update_norm` is 0.
    model : Figures
        Of all parameters together.
    """

    def __init__(self, record: Record, names: Sequence[str], rules: Sequence[str]) -> None:
        self.taken, self._alone, self._scale, self._sums, self._counts, self._hypers = record
        self._names, self._rules = names, rules

    @functools.cached_property
    def _rows(self) -> Array:
        return np.frombuffer(self._sums).reshape(-1, 9)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {self._names[int(number)]: place for place, number in enumerate(self._rows[:, 0])}

    @property
    def step(self) -> int:
        return int(self._rows[:, 2].max(initial=0))

    def __getitem__(self, name: str) -> Figures:
        return _figures(self._rows[self._places[name]], self._scale)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def model(self) -> Figures:
        total = np.zeros(9)
        for row in self._rows:  # in this order, as gradients are clipped by their norm
            total += row
        return _figures(total, self._scale)

    def rates(self, name: str) -> Rates | None:
        """The effective learning rates of a parameter's elements.

        Returns
        -------
        Rates or None
            None for rules that have one rate for all elements.

        Raises
        ------
        KeyError
            The parameter had no gradient, or there is none of this name.
        """
        number, group, step = map(int, self._rows[self._places[name], :3])
        found = np.frombuffer(self._counts, np.uint32).reshape(-1, 3).astype(np.int64)
        found = found[found[:, 0] == number]
        rule = self._rules[group]
        if not len(found) or not self.taken:
            return None
        coefficients = RULES[rule].coefficients
        values = np.frombuffer(self._hypers).reshape(len(self._rules), -1)[group].tolist()
        hypers: dict[str, Any] = {}
        for coefficient, value in zip(coefficients, values, strict=False):
            key, dot, _ = coefficient.partition(".")
            hypers[key] = (*hypers.get(key, ()), value) if dot else value
        counts = np.zeros(EXPONENTS, np.int64)
        counts[found[:, 1]] = found[:, 2]
        first, last = int(found[:, 1].min()), int(found[:, 1].max())
        if last == EXPONENTS - 1:  # infinite and NaN have no rate
            last = int(found[found[:, 1] < last, 1].max(initial=-1))
        if last < first:
            return None
        borders = [0.0 if e == 0 else 2.0 ** (e - 127) for e in range(first, last + 2)]
        rates = effective_rates(rule, np.array(borders), step, hypers)
        return None if rates is None else Rates(rates[::-1], counts[first : last + 1][::-1])

    def metrics(self) -> dict[str, float]:
        """All figures as a flat dict: for TensorBoard, Weights & Biases or a CSV file.

        Returns
        -------
        dict
            ``"step"``, then for the whole model ``"grad_norm"``, ``"param_norm"``, ``"update_norm"``, ``"ratio"``,
            ``"zeros"`` and ``"nonfinite"``, and for every parameter the same with its name: ``"ratio/W1"``.
        """
        found: dict[str, float] = {"step": float(self.step)}
        for name, figures in (("", self.model), *((f"/{name}", figures) for name, figures in self.items())):
            found |= {f"{key}{name}": value for key, value in figures._asdict().items() if key != "elements"}
        return found

    @classmethod
    def empty(cls) -> Self:
        """No step: number 0, and no parameters."""
        return cls((False, False, 1.0, b"", b"", b""), (), ())

    def _with(self, other: WatchedStep) -> WatchedStep:
        """Parameters of both, which were stepped one after the other in one step."""
        record = (True, True, self._scale, self._sums + other._sums, self._counts + other._counts, other._hypers)
        return WatchedStep(record, self._names, self._rules)

    def __repr__(self) -> str:
        return f"<step {self.step}: {len(self)} parameters, {self.model}>"


def _figures(row: Array, scale: float) -> Figures:
    elements, grad, param, update, zeros, nonfinite = row[3:].tolist()
    change, size = math.sqrt(update), math.sqrt(param)
    ratio = (change / size if size else math.inf) if change else 0.0
    share = 1.0 / elements if elements else 0.0
    return Figures(
        math.sqrt(grad) * (1.0 / scale), size, change, ratio, zeros * share, nonfinite * share, int(elements)
    )


class Watched(Protocol):
    """An optimizer that can be watched."""

    _watch: Watch | None

    def _watched_model(self) -> tuple[Model | None, list[str], list[str], list[dict[str, Any]]]:
        """Its native model, the paths of its parameters, and of every group the rule and its hyper-parameters."""


class Watch:
    """What is seen of an optimizer's steps; `Optimizer.watch` makes it.

    Attributes
    ----------
    every : int
        The first step is watched, and of those after it every so many.
    history : list of WatchedStep
        The last `keep` watched steps, the oldest first.
    last : WatchedStep
        The last of them; an empty one, number 0, before the first.
    """

    def __init__(self, optimizer: Watched, every: int, keep: int) -> None:
        self.every = whole("every", every, low=1)
        self._keep = whole("keep", keep, low=1)
        self._optimizer: Watched | None = optimizer
        self._steps: deque[WatchedStep] = deque(maxlen=self._keep)
        self._records: list[Record] = []
        self._names: list[str] = []
        self._rules: list[str] = []
        self._model: Model | None = None
        self._until = 0
        self._collecting = threading.RLock()  # other threads look on while steps are taken
        watches.add(self)
        self._attach()

    def _attach(self) -> None:
        """Watch the optimizer's model, a new one perhaps."""
        assert self._optimizer is not None
        with self._collecting:
            self._attach_to(self._optimizer)

    def _attach_to(self, optimizer: Watched) -> None:
        self._detach()
        model, paths, self._rules, hypers = optimizer._watched_model()
        if model is None:
            return
        self._names, self._model, self._records = names(paths), model, []
        states = []
        for rule, group in zip(self._rules, hypers, strict=True):
            state = counted_state(rule, group)
            states.append(-1 if state is None else [kept.name for kept in RULES[rule].states].index(state))
        model.watch_steps(self.every, self._until, states, self._records, self._keep)

    def _detach(self) -> None:
        """Let go of a model that is made anew."""
        with self._collecting:
            self._collect()
            if self._model is not None:
                self._until, self._model = self._model.until_watched, None

    def _collect(self) -> None:
        with self._collecting:
            while self._records:
                seen = WatchedStep(self._records.pop(0), self._names, self._rules)
                before = self._steps[-1] if self._steps else None
                if before is not None and before._alone and seen._alone and before.step == seen.step:
                    self._steps.pop()
                    seen = before._with(seen)
                self._steps.append(seen)

    @property
    def history(self) -> list[WatchedStep]:
        with self._collecting:
            self._collect()
            return list(self._steps)

    @property
    def last(self) -> WatchedStep:
        with self._collecting:
            self._collect()
            return self._steps[-1] if self._steps else WatchedStep.empty()

    def close(self) -> None:
        """Watch no further step; what was seen stays."""
        with self._collecting:
            if self._optimizer is not None:
                if self._model is not None:
                    self._model.watch_steps(0, 0, [-1] * len(self._rules), [], 0)
                self._detach()
                self._optimizer._watch = None
            self._optimizer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Watch of every {self.every}th step, {len(self.history)} seen>"


watches: weakref.WeakSet[Watch] = weakref.WeakSet()


def _forked() -> None:
    """Open the locks that threads of the parent held."""
    for watch in watches:
        watch._collecting = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def watch(optimizer: Watched, every: int, keep: int) -> Watch:
    """Make an optimizer's watch.

    Raises
    ------
    TypeError, ValueError
        As `Optimizer.watch`.
    """
    if optimizer._watch is not None:
        raise ValueError("watch: got an optimizer that is watched, needs one that is not; close() its Watch first")
    optimizer._watch = Watch(optimizer, every, keep)
    return optimizer._watch


def watched(watch: Watch | None) -> dict[str, float]:
    """The whole model's figures of the last watched step, for a log."""
    last = None if watch is None else watch.last
    if not last:
        return {}
    return {f"watch/{name}": value for name, value in last.metrics().items() if "/" not in name}


PARTS = re.compile(r"""\[(?:(["'])(.*?)\1|([^\]]*))\]|\.([^.\[]+)""")


def names(paths: Sequence[str]) -> list[str]:
    """Short names of paths; paths themselves where two would have the same.

    Examples
    --------
    >>> names(['["layers"][0]["W"]', '["layers"][0].b', ""])
    ['layers.0.W', 'layers.0.b', 'params']
    """
    short = [".".join(key or index or attribute for _, key, index, attribute in PARTS.findall(path)) for path in paths]
    short = [name or "params" for name in short]
    count = Counter(short)
    return [path if count[name] > 1 else name for name, path in zip(short, paths, strict=True)]
