"""Options of the groups as attributes of the optimizer; a name that there is not is an error."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ._groups import FIXED, Group
from ._hyper import check_hyper, did_you_mean
from ._step_options import GROUP_OPTIONS
from .reference import RULES
from .reference._rule import OWN_RULES

__all__ = ["Attributes", "shared_option"]


class Attributes:
    """The attributes of an optimizer: options, its own, and those that a subclass declares."""

    rule: ClassVar[str]
    """Name of the update rule."""

    defaults: dict[str, Any]
    """Options of groups that do not give theirs."""

    skipped_steps: int
    """Steps that `skip_nonfinite` skipped."""

    _groups: list[Group]
    _attributes: ClassVar[frozenset[str]] = frozenset(("defaults", "skipped_steps"))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._attributes = cls._attributes | _annotated(cls)
        name = getattr(cls, "rule", "")
        rule = RULES.get(name) or OWN_RULES.get(name)
        for name in (*rule.hypers, *GROUP_OPTIONS) if rule else ():
            if not hasattr(cls, name):
                setattr(cls, name, _option(name))

    if TYPE_CHECKING:  # at run time it would slow down every look at an attribute, and so every step

        def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None:
        # A typing error must not pass for a setting. What starts with an underscore, and what a subclass declares, is
        # the subclass's own.
        if not (name.startswith("_") or name in self._attributes or hasattr(type(self), name)):
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}{did_you_mean(name, dir(type(self)))}; a subclass "
                f"declares its own attributes (`{name}: float` in the class), or begins their names with an underscore"
            )
        super().__setattr__(name, value)


def _annotated(cls: type) -> frozenset[str]:
    """Names that a class body annotates, its own attributes."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return frozenset(annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF))
    return frozenset(inspect.get_annotations(cls))


def shared_option(optimizer: Attributes, name: str) -> Any:
    """An option that all groups agree on; ValueError where they do not."""
    groups = [(i, group) for i, group in enumerate(optimizer._groups) if group.knows(name)]
    if not groups:
        raise AttributeError(f"{name}: got no group with this option, needs at least one")
    first, value = groups[0][0], groups[0][1][name]
    for i, group in groups:
        if group[name] is not value and not np.array_equal(group[name], value):
            raise ValueError(
                f"{name}: got {value!r} in param_groups[{first}] and {group[name]!r} in param_groups[{i}], needs one "
                f'value for all groups; read param_groups[i]["{name}"]'
            )
    return value


def _option(name: str) -> property:
    """An option of the groups as an attribute of the optimizer."""

    def get(optimizer: Attributes) -> Any:
        return shared_option(optimizer, name)

    def put(optimizer: Attributes, value: Any) -> None:
        if name not in FIXED and not callable(value):
            check_hyper(name, value, rule=optimizer.rule)
        groups = [group for group in optimizer._groups if group.knows(name)]
        for group in groups:
            group.check(name, value)
        for group in groups:
            group[name] = value

    return property(get, put, doc=f"`{name}` of all parameter groups; what is set holds for all of them.")
