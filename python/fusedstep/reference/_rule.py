"""What a rule is, and the options that all of them share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypedDict

from .._hyper import CHOICES, check_hyper
from .._intervals import Interval
from .._step_options import STEP_OPTIONS, check_seed, described, options_of
from ._cautious import Decay

__all__ = [
    "BEYOND_TORCH",
    "COMMON",
    "FUNCTION_OPTIONS",
    "OWN_RULES",
    "PARAM",
    "RULES",
    "SECTIONS",
    "Rule",
    "State",
    "StepOptions",
    "Steps",
    "Tensors",
    "Whole",
    "check_options",
]

Tensors = Any  # an array or a list of arrays; the maths inside sees one flat array of the compute type
Steps = Any  # an int or a list of ints; the maths inside sees an int


class Whole(NamedTuple):
    """What the maths of a rule with sums over the whole model is given: the model's scalars, and the two sums."""

    scalars: tuple[float, ...]
    sums: tuple[float, float]


PARAM: Final = "param"
"""The initial value of a state that begins as a copy of its parameter."""

BEYOND_TORCH = (
    *("eps_root", "eps_norm", "lr_in_momentum"),
    *("relative_step", "scale_parameter", "like_transformers"),
)
"""Hyper-parameters of rules of torch's that torch's classes lack."""

Initial = float | str  # a number, the hyper-parameter that holds it, or PARAM


@dataclass(frozen=True)
class State:
    """One state of a rule.

    Attributes
    ----------
    name
        Key in an optimizer's state, and argument of the functions.
    kind
        How it may be stored: ``"signed"`` and ``"unsigned"`` in every format, ``"exact"`` in the compute type only.
    when
        The option that calls for the state; empty if every step needs it.
    initial
        Every element before the first step: a number, the name of the hyper-parameter that holds it, or `PARAM`.
    form
        Its shape: ``"full"`` is the parameter's. Of a second moment in factors, ``"rows"`` and ``"columns"`` are those
        of parameters of two axes or more, with 1 in the place of the last or the last but one; ``"vector"`` is the
        shape of all other parameters. ``"blocks"`` is one axis, with a number for each block of neighbours in the
        flattened parameter: as many as the hyper-parameter ``blocks`` says; where that is 0, one for each index of the
        first of two axes or more, and one for any other parameter.
    """

    name: str
    kind: Literal["signed", "unsigned", "exact"]
    when: str = ""
    initial: Initial = 0.0
    form: Literal["full", "rows", "columns", "vector", "blocks"] = "full"

    def shape(self, param: tuple[int, ...], hypers: Mapping[str, Any], where: str = "") -> tuple[int, ...] | None:
        """The shape that it has beside a parameter of this shape; None where there is no such state.

        Errors begin with `where`, the parameter's name.

        Examples
        --------
        >>> State("row_var", "exact", form="rows").shape((2, 4, 3), {})
        (2, 4, 1)
        >>> [State("exp_avg_sq", "exact", form="blocks").shape((2, 4, 3), {"blocks": n}) for n in (0, 8)]
        [(2,), (8,)]
        """
        if self.form == "full":
            return param
        if self.form == "blocks":
            blocks: int = check_hyper("blocks", hypers["blocks"])
            if blocks and math.prod(param) % blocks:
                name = f"{where}: blocks" if where else "blocks"
                raise ValueError(
                    f"{name}: got {blocks} for a parameter of shape {param}, needs 0 or a divisor of its "
                    f"{math.prod(param)} elements"
                )
            return (blocks or (param[0] if len(param) > 1 else 1),)
        if self.form == "vector":
            return param if len(param) < 2 else None
        if len(param) < 2:
            return None
        return (*param[:-1], 1) if self.form == "rows" else (*param[:-2], 1, param[-1])


@dataclass(frozen=True)
class Rule:
    """Metadata of a rule.

    Attributes
    ----------
    name
        Of the function, and of the native rule.
    states
        What is kept per element.
    hypers
        Hyper-parameters and their defaults, in the order of the native rule.
    initial_scalars
        What is kept per tensor, with its value before the first step: a number or the name of a hyper-parameter.
    rows_without
        Options that must be off for a gradient of some rows alone; None where there is no such form.
    norms
        Arrays that are read a first time for two sums over the whole tensor; empty for element-wise rules.
    whole
        Whether the sums go over all tensors. Its scalars are one for all of them: a step goes on from those of the
        tensor with the largest first ones, which never fall, and then the most steps.
    outside
        Hyper-parameters that the native step does not read: how a rule of matrices makes its directions orthogonal.
        Empty for all other rules.
    arguments
        What an optimizer of the rule takes after its parameters: the hyper-parameters, and what states begin with.
    decay
        How the weight decay enters a cautious step; None where steps cannot be cautious.
    """

    name: str
    states: tuple[State, ...]
    hypers: dict[str, Any] = field(compare=False)
    initial_scalars: dict[str, Initial] = field(compare=False)
    rows_without: tuple[str, ...] | None = None
    norms: tuple[str, ...] = ()
    whole: bool = False
    outside: tuple[str, ...] = ()
    arguments: tuple[inspect.Parameter, ...] = field(default=(), compare=False)
    decay: Decay | None = field(default=None, compare=False)

    @property
    def matrices(self) -> bool:
        """Whether parameters must be matrices."""
        return bool(self.outside)

    @property
    def factored(self) -> bool:
        """Whether the states of matrices have other shapes than these."""
        return any(state.form != "full" for state in self.states)

    @property
    def needs_shape(self) -> bool:
        """Whether a step depends on the parameter's shape, and not on its elements alone."""
        return self.matrices or self.factored

    @property
    def scalars(self) -> tuple[str, ...]:
        """The names of what is kept per tensor."""
        return tuple(self.initial_scalars)

    @property
    def scalars_differ(self) -> bool:
        """Whether tensors of one age may have other scalars: they come from sums over each tensor."""
        return bool(self.norms) and bool(self.initial_scalars)

    @property
    def coefficients(self) -> list[str]:
        """The numbers that the native rule reads, one by one: ``["lr", "betas.0", "betas.1"]``."""
        found = []
        for name, value in self.hypers.items():
            if name not in self.outside:
                found += [f"{name}.{i}" for i in range(len(value))] if isinstance(value, tuple) else [name]
        return found

    def initial(self, name: str) -> Initial:
        """What a state starts from (see `State`)."""
        return next(state.initial for state in self.states if state.name == name)

    def used(
        self, hypers: Mapping[str, Any], shape: tuple[int, ...] | None = None, where: str = ""
    ) -> tuple[State, ...]:
        """The states that a step with these hyper-parameters needs, of a parameter of this shape or of any."""
        return tuple(
            state
            for state in self.states
            if (not state.when or hypers[state.when])
            and (shape is None or state.shape(shape, hypers, where) is not None)
        )


OWN_RULES: dict[str, Rule] = {}
"""Rules of `NumPyOptimizer`, each under the `rule` of its class: its name, and a number where it was taken."""


class Rules(dict[str, Rule]):
    """The rules that the native core has, by name; looked up, also those that users define."""

    def __missing__(self, name: str) -> Rule:
        return OWN_RULES[name]


RULES = Rules()


class StepOptions(TypedDict, total=False):
    """The step options that every function of a rule takes."""

    # the table of step options, by tools/stubs.py
    maximize: bool
    grad_scale: float
    max_grad_norm: float | None
    clip_value: float | None
    skip_nonfinite: bool
    ema: Tensors
    ema_decay: float | None
    cautious: bool
    zero_grads: bool
    master: Tensors
    rounding: Literal["nearest", "stochastic"]
    seed: int
    first: int


FUNCTION_OPTIONS = options_of("functions")

COMMON = {
    **dict.fromkeys(("param", "grad"), "Parameter and gradient, or lists of them."),
    "exp_avg": "First moment :math:`m`, of the parameter's shape.",
    "exp_avg_sq": "Second moment :math:`v`, of the parameter's shape.",
    "max_exp_avg_sq": "Largest second moment so far; needed with `amsgrad`.",
    "step": "Number :math:`t` of this step, from 1; a list for a list of parameters of different ages.",
}
"""What the docstrings of rules say of their arguments, where they do not say it themselves."""

SECTIONS = {
    "Other Parameters": described("functions"),
    "Returns": "bool\n    True when the step was taken, False when `skip_nonfinite` skipped it.",
    "Raises": inspect.cleandoc("""
        TypeError
            An argument of the wrong kind or dtype.
        ValueError
            A wrong value, shape or layout, lists of unequal length, arrays that overlap. Nothing has changed.
    """),
}
"""What the docstrings of all rules end with."""


def check_options(options: dict[str, Any]) -> dict[str, Any]:
    """Check the options of `FUNCTION_OPTIONS` that hold no arrays."""
    checked = dict(options)
    for option in STEP_OPTIONS:
        if option.name in options and (option.needs is bool or isinstance(option.needs, Interval)):
            checked[option.name] = check_hyper(option.name, options[option.name])
    if options["rounding"] not in CHOICES["rounding"]:
        raise ValueError(f"rounding: got {options['rounding']!r}, needs {' or '.join(map(repr, CHOICES['rounding']))}")
    for name in ("seed", "first"):
        checked[name] = check_seed(name, options[name], "an integer from 0 to 2**64 - 1")
    return checked
