"""Which optimizers to train with, and how a person names them: ``adam``, ``sgd:lr=0.1,momentum=0.9``."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusedstep

# People say gradient descent, the class says SGD.
_ALIASES = {"gd": "sgd"}


class ChoiceError(ValueError):
    """An optimizer that does not exist or options that it refuses; the message quotes what was given."""


def rules() -> dict[str, type[fusedstep.Optimizer]]:
    """Every optimizer of the package, by its lower-case name.

    Examples
    --------
    >>> rules()["adam"].__name__
    'Adam'
    """
    public = (getattr(fusedstep, name) for name in fusedstep.__all__)
    classes = [value for value in public if isinstance(value, type) and issubclass(value, fusedstep.Optimizer)]
    return {cls.__name__.lower(): cls for cls in classes if hasattr(cls, "rule")}


@dataclass(frozen=True)
class Choice:
    """An optimizer and the options that differ from its defaults.

    Attributes
    ----------
    name : str
        The rule and its options, without the learning rate.
    label : str
        What it is called beside the others of a list; see `distinct`.
    """

    rule: type[fusedstep.Optimizer]
    options: Mapping[str, Any]
    name: str
    label: str = ""

    def build(self, params: dict[str, NDArray[Any]], grads: dict[str, NDArray[Any]]) -> fusedstep.Optimizer:
        """The optimizer over `params`, with the arrays of `grads` bound to it.

        Biases, which are columns here, are Muon's rest, not its matrices.
        """
        make: Callable[..., fusedstep.Optimizer] = self.rule
        stepped: Any = params
        if self.rule is fusedstep.Muon and any(_column("", array) for array in params.values()):
            stepped = fusedstep.groups(params, where=_column, **{"rule": "adamw", **self.options.get("rest", {})})
        return make(stepped, grads=grads, **self.options)

    @cached_property
    def lr(self) -> float:
        """The learning rate it starts with, its own default if no other was given; Muon's is that of matrices."""
        probe = {"W": np.zeros((2, 2), np.float32)}
        return float(self.build(probe, {"W": np.zeros_like(probe["W"])}).param_groups[0]["lr"])

    def with_lr(self, lr: float) -> Choice:
        """The same optimizer with another learning rate."""
        return replace(self, options={**self.options, "lr": lr})


def distinct(choices: Iterable[Choice]) -> list[Choice]:
    """Each choice once, with a label of its own: its name, and its learning rate where the name is shared.

    Examples
    --------
    >>> [choice.label for choice in distinct(map(parse, ["sgd", "adam:lr=0.1", "adam", "sgd"]))]
    ['SGD', 'Adam lr=0.1', 'Adam lr=0.001']
    """
    once = list({(choice.name, choice.lr): choice for choice in choices}.values())
    names = [choice.name for choice in once]
    return [
        replace(choice, label=choice.name if names.count(choice.name) == 1 else f"{choice.name} lr={choice.lr:g}")
        for choice in once
    ]


def parse(text: str) -> Choice:
    """The optimizer that `text` names: a rule and, after a colon, options separated by commas.

    Raises
    ------
    ChoiceError
        If there is no such rule, or it refuses the options.

    Examples
    --------
    >>> parse("adam:lr=0.01,betas=0.9,0.99").options
    {'lr': 0.01, 'betas': (0.9, 0.99)}
    >>> parse("adam:state_format=8bit").name
    'Adam state_format=8bit'
    """
    name, _, tail = text.strip().partition(":")
    known = rules()
    key = name.strip().lower().replace("-", "").replace("_", "")
    rule = known.get(_ALIASES.get(key, key))
    if rule is None:
        raise ChoiceError(f"{text!r}: got the optimizer {name!r}, needs one of {', '.join(known)}")
    options: dict[str, Any] = {}
    # Split only at a comma that begins the next option, so that betas=0.9,0.99 stays whole.
    for pair in re.split(r",(?=\s*\w+\s*=)", tail) if tail.strip() else []:
        option, equals, value = pair.partition("=")
        if not equals:
            raise ChoiceError(f"{text!r}: got the option {pair!r}, needs name=value")
        if option.strip() in options:
            raise ChoiceError(f"{text!r}: {option.strip()}: got two values, needs one")
        try:
            options[option.strip()] = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):  # all that literal_eval raises
            options[option.strip()] = value.strip()  # state_format=8bit; the optimizer says what a word should be
    for option in options.keys() & {"params", "grads"}:
        raise ChoiceError(f"{text!r}: {option}: got {options[option]!r}, needs no value: the training gives its own")
    settings = "".join(f" {option}={_written(value)}" for option, value in options.items() if option != "lr")
    choice = Choice(rule, options, rule.__name__ + settings)
    try:
        choice.lr  # noqa: B018  builds one, so that an option it refuses is named before any training
    except (TypeError, ValueError) as error:
        raise ChoiceError(f"{text!r}: {error}") from error
    return choice


def _column(path: str, array: NDArray[Any]) -> bool:
    return 1 in array.shape


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(_written(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
