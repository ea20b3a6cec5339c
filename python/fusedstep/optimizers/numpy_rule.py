"""Optimizers whose rule is a NumPy function of one's own."""

from __future__ import annotations

import dis
import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from .._base import Optimizer, Options, Structure
from .._core import Model
from .._hyper import FINITE, FLAGS, NUMBERS, TUPLES, WEIGHT, check_hypers
from .._making import check_values
from .._numpy_model import NumPyModel
from ..reference import State
from ..reference._rule import OWN_RULES, Rule

if TYPE_CHECKING:
    from .._slots import Slot

__all__ = ["NumPyOptimizer"]


class NumPyOptimizer(Optimizer):
    """Base of optimizers with an update rule written in NumPy: groups, formats, clipping and saving come with it.

    A subclass has a function `update` and nothing else. It runs at NumPy's speed: to try a formula, not to train with
    it for long.

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    **options
        The hyper-parameters of `update`, and the options of every optimizer (see `Optimizer`).

    Notes
    -----
    ``update(param, grad, *states, step, **hypers)`` is a static method that changes `param` and the states in place and
    returns None. All are flat arrays of the compute type: float64 for float64 parameters, float32 for all others.

    - Every argument after `grad` is a state, zeros at first. `kinds` says how one may be stored: ``"signed"`` (the
      default), ``"unsigned"`` for values that are never negative, ``"exact"`` for the compute type only.
    - Keyword-only arguments but `step` (from 1) are hyper-parameters, and need a default. A name that other optimizers
      have is checked as theirs, any other must be a finite number. ``betas`` are as many as its default has.

    A step that fails, in the formula as well, changes nothing; for that, everything it writes is copied first.
    `SparseRows` are not taken.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> class Signum(fs.NumPyOptimizer):
    ...     @staticmethod
    ...     def update(param, grad, velocity, *, step, lr=1e-3, momentum=0.9):
    ...         velocity[:] = momentum * velocity + (1 - momentum) * grad
    ...         param -= lr * np.sign(velocity)
    >>> w = np.array([1.0, -1.0])
    >>> Signum(w, lr=0.5, max_grad_norm=1.0).step(np.array([3.0, 4.0]))
    True
    >>> w
    array([ 0.5, -1.5])
    """

    kinds: ClassVar[Mapping[str, Literal["signed", "unsigned", "exact"]]] = {}
    update: ClassVar[Callable[..., None]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        if "update" in vars(cls):
            made = _rule(cls)
            rule = _key(made)
            _take_intervals(rule, made.hypers)
            check_hypers(rule, made.hypers, f"{cls.__name__}.update: {{}}")
            OWN_RULES[rule] = made
            cls.rule = rule
        super().__init_subclass__(**kwargs)

    def __init__(self, params: Structure, **options: Any) -> None:
        if not hasattr(self, "rule"):
            raise TypeError(f"{type(self).__name__}: has no update(param, grad, ..., *, step, ...); define it")
        hypers = OWN_RULES[self.rule].hypers
        defaults = {name: options.pop(name, value) for name, value in hypers.items()}
        super().__init__(params, defaults, cast(Options, options))

    def _native(
        self,
        groups: Sequence[dict[str, Any]],
        slots: Sequence[Slot],
        steps: Sequence[int],
        scalars: Sequence[list[float]],
        first: int = 0,
    ) -> Model:
        kind = type(self)
        suspects = _assigned(kind.update)

        def maths(param: Any, grad: Any, *states: Any, **kwargs: Any) -> None:
            nonlocal suspects
            looked_at = suspects if suspects and kwargs.get("lr") != 0 and grad.any() else ()
            arrays = (param, *states)
            before = {name: arrays[place].tobytes() for name, place in looked_at}
            found = kind.update(param, grad, *states, **kwargs)
            if found is not None:
                raise TypeError(
                    f"update: got {type(found).__name__} returned, needs None; change param in place, as in param[:] ="
                )
            for name, place in looked_at:
                if arrays[place].tobytes() == before[name]:
                    raise TypeError(
                        f"update: got an assignment to {name!r} that leaves the array as it was, needs a change in "
                        f"place, as in {name}[:] ="
                    )
            if looked_at:
                suspects = ()

        maths.__name__ = self.rule
        check, cross_check = check_values(self, groups, first)
        model = NumPyModel(self.rule, maths, groups, slots, steps, first, check, cross_check)
        return cast(Model, model)


def _assigned(update: Callable[..., None]) -> tuple[tuple[str, int], ...]:
    """The parameter and states that a formula assigns to, as in ``param = param - step``, and their places.

    ``param -= step`` does not count: for arrays it is a change in place.
    """
    code = getattr(update, "__code__", None)
    if code is None or code.co_argcount < 2:  # compiled, say, or what passes its arguments on
        return ()
    names: set[str] = set()
    in_place = False
    for instruction in dis.get_instructions(code):
        if instruction.opname.startswith(("STORE_FAST", "STORE_DEREF")) and not in_place:
            stored = instruction.argval  # two names where Python 3.13 joins two instructions
            both = instruction.opname.count("STORE_FAST") == 2
            names.update((stored,) if isinstance(stored, str) else stored[: 1 + both])
        in_place = instruction.opname.startswith("INPLACE_") or instruction.argrepr.endswith("=")
    param, _, *states = code.co_varnames[: code.co_argcount]
    return tuple((name, place) for place, name in enumerate((param, *states)) if name in names)


def _rule(cls: type[NumPyOptimizer]) -> Rule:
    """What the signature of `update` says."""
    where = f"{cls.__name__}.update"
    if not isinstance(vars(cls)["update"], staticmethod):
        raise TypeError(f"{where}: got {type(vars(cls)['update']).__name__}, needs a @staticmethod")
    parameters = inspect.signature(cls.update).parameters.values()
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise TypeError(f"{where}: got *args or **kwargs, needs every state and hyper-parameter by name")
    arrays = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    if arrays[:2] != ["param", "grad"] or "step" not in named:
        raise TypeError(f"{where}: got {inspect.signature(cls.update)}, needs (param, grad, *states, *, step, ...)")
    taken = {"params", "step", "ema", "master", "remainder", "grad_sum"}
    hypers = {name: default for name, default in named.items() if name != "step"}
    for name in (*arrays[2:], *hypers):
        if (
            name in taken
            or name.startswith("_")
            or name.endswith("_scales")
            or (name in hypers and hasattr(Optimizer, name))
        ):
            raise TypeError(f"{where}: got an argument {name!r}, needs another name; this one has a meaning already")
    for name, default in hypers.items():
        if default is inspect.Parameter.empty:
            raise TypeError(f"{where}: got {name!r} without a default, needs one")
    for p in parameters:
        if p.name in arrays and p.default is not inspect.Parameter.empty:
            raise TypeError(f"{where}: got {p.name!r} with a default, needs none; states begin with zeros")
    if not isinstance(cls.kinds, Mapping):
        raise TypeError(f"{cls.__name__}.kinds: got {type(cls.kinds).__name__}, needs a dict")
    strange = sorted(cls.kinds.keys() - set(arrays[2:]))
    if strange:
        raise TypeError(f"{cls.__name__}.kinds: got {strange[0]!r}, needs names of the states of {where}")
    wrong = [kind for kind in cls.kinds.values() if kind not in ("signed", "unsigned", "exact")]
    if wrong:
        raise ValueError(f"{cls.__name__}.kinds: got {wrong[0]!r}, needs 'signed', 'unsigned' or 'exact'")
    rule = f"{cls.__module__}.{cls.__qualname__}"
    return Rule(rule, tuple(State(name, cls.kinds.get(name, "signed")) for name in arrays[2:]), hypers, {})


def _key(made: Rule) -> str:
    """What a rule is called in `OWN_RULES`: by its name, unless a class that was defined before is another rule.

    Optimizers of that class go on with it: a notebook's cell may be run again in the middle of a training.
    """
    for number in itertools.count(1):
        key = made.name if number == 1 else f"{made.name} ({number})"
        other = OWN_RULES.get(key)
        if other is None or (other.states, repr(other.hypers)) == (made.states, repr(made.hypers)):
            return key
    raise AssertionError


def _take_intervals(rule: str, hypers: Mapping[str, Any]) -> None:
    for name, default in hypers.items():
        if name == "betas" and isinstance(default, tuple):  # as many weights of averages as the formula has
            TUPLES[f"{rule}.{name}"] = (WEIGHT,) * len(default)
        elif name not in NUMBERS and name not in TUPLES and name not in FLAGS:
            NUMBERS[f"{rule}.{name}"] = FINITE
