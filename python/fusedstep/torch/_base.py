"""Base class of the optimizers for torch: its constructor and attributes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from .._constructors import constructor
from .._held import check_held
from .._hyper import unexpected
from .._names import needs
from .._settings import check_settings
from .._step_options import GROUP_OPTIONS, MODEL_OPTIONS
from ..reference import RULES
from ._keeping import Keeping
from ._making import Making
from ._options import GROUPS, check_group, check_implementation, likely_meant, plain

__all__ = ["FusedOptimizer"]

# Methods of torch's optimizers that are left out here.
REPLACED = ("_init_group", "_process_value_according_to_param_policy")

# Attributes of the optimizer that a wrapper of it must not get in its place.
OWN = frozenset(
    (
        *("_settings", "_model", "_tensors", "_works", "_slots", "_exposed", "_counts", "_numbers", "_brought"),
        *("skipped_steps", "eager", "_pending", "_hosts", "_buffers", "_streams", "_parts", "_watch"),
    )
)
# Arguments of torch's that choose one of its implementations.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")


def _option(name: str) -> property:
    """An option of the groups that have it, as an attribute of the optimizer."""

    def having(optimizer: Making) -> list[tuple[int, dict[str, Any]]]:
        groups = enumerate(optimizer.param_groups)
        return [(i, g) for i, g in groups if name in GROUP_OPTIONS or name in RULES[optimizer._rule_of(g)].hypers]

    def get(optimizer: Making) -> Any:
        groups = having(optimizer)
        first, value = (groups[0][0], groups[0][1].get(name)) if groups else (0, None)
        for number, group in groups:
            if plain(group.get(name)) != plain(value):
                raise AttributeError(
                    f"{name}: got {value!r} in param_groups[{first}] and {group.get(name)!r} in "
                    f'param_groups[{number}], needs one value for all groups; read param_groups[i]["{name}"]'
                )
        return value

    def put(optimizer: Making, value: Any) -> None:
        groups = having(optimizer)
        for number, group in groups:
            check_group(optimizer._rule_of(group), {**group, name: value}, f'param_groups[{number}]["{{}}"]')
        for _, group in groups:
            group[name] = value

    return property(get, put, doc=f"`{name}` of all parameter groups.")


class FusedOptimizer(Keeping):
    """Base of the optimizers of this module; make one of its subclasses.

    A step is one call to native code for the whole model. It reads where parameters, gradients, states and step
    counts lie and takes them as they are; groups, options and states may be changed between steps as with
    ``torch.optim``.

    Attributes
    ----------
    skipped_steps : int
        Steps that `skip_nonfinite` left out.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in REPLACED:
            owner = next((base for base in cls.__mro__ if name in vars(base)), None)
            if owner is not None and owner.__module__.partition(".")[0] != "torch":
                raise TypeError(
                    f"{cls.__name__}.{name}: got a method of its own, needs torch's, as nothing here calls it; change "
                    "gradients, groups and states in step() before super().step(), or use the class of torch.optim"
                )
        if "rule" in cls.__dict__:
            for name in cls._options():
                setattr(cls, name, _option(name))
            if "__init__" not in cls.__dict__:
                setattr(cls, "__init__", constructor(cls, *cls._arguments()))  # noqa: B010  (mypy reads the stub)

    @classmethod
    def _arguments(cls) -> tuple[list[inspect.Parameter], str]:
        """What the constructor takes after the parameters, as the installed class of torch's, and its options' type."""
        parameters = list(inspect.signature(cls._torchs_class().__init__).parameters.values())[2:]
        return [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD], "Own"

    def __init__(self, params: Any, hypers: dict[str, Any], options: Mapping[str, Any]) -> None:
        given = {**hypers, **options}
        for name, value in given.items():  # torch's constructor reads them, and ends the process
            for part in value if isinstance(value, (tuple, list)) else (value,):
                check_held(part, name)
        check_implementation(given)
        for name in IMPLEMENTATION:
            given.pop(name, None)
        settings = check_settings({name: given.pop(name, value) for name, value in MODEL_OPTIONS.items()})
        first = {parameter.name: parameter.default for parameter in RULES[self.rule].arguments}
        own = {name: given.pop(name, value) for name, value in (self.extra | first | GROUP_OPTIONS).items()}
        accepted = {parameter.name: parameter.default for parameter in self._arguments()[0]}
        for name, value in list(given.items()):
            if name in accepted and value == accepted[name]:
                del given[name]  # of a later version of torch, and not in use
        if given:
            raise unexpected(type(self).__name__, min(given), self._options() | MODEL_OPTIONS.keys())
        theirs = {name: own.pop(name) for name in accepted if name in own}
        self._prepare(own, settings, 0)
        self._make(params, theirs)
        self.defaults.update(self._own)
        self.state = self._all_states()
        self._expose(False)

    def _make(self, params: Any, hypers: dict[str, Any]) -> None:
        """Let the class of torch's check its arguments and make the groups."""
        super().__init__(params, **hypers)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN and "_itself" not in self.__dict__:  # this is a wrapper that forwards attributes
            setattr(self._itself(), name, value)
        elif "param_groups" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name):
            if name == "param_groups":
                needs(value, Iterable, name, GROUPS)
                value = list(value)
            super().__setattr__(name, value)
        elif (meant := likely_meant(name, self._options())) is not None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}, did you mean {meant}?")
        else:
            super().__setattr__(name, value)
