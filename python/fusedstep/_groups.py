"""Parameter groups as users see them: whatever they show is what the next step uses.

The native model is made from a group's arrays and reads its hyper-parameters at every step. So a group takes new values
of its options, and refuses what would be shown and not used: unknown options, other arrays, another storage format.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, Protocol

import numpy as np

from ._arguments import no_entry, same
from ._hyper import did_you_mean
from ._step_options import MODEL_OPTIONS, STORAGE
from ._structures import rebuilt, tree

__all__ = ["FIXED", "Group", "Groups", "fixed", "unknown_option"]

FIXED = (*STORAGE, "rule", "reshape", "blocks")  # and options that say which parameters are stepped how


class FixedDict(dict[Any, Any]):
    """A dict of parameters that keeps its entries; copies of it are plain dicts."""

    def _refuse(self: Any, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            "params: an optimizer keeps the arrays that it was made with; use add_param_group, or make a new optimizer"
        )

    def __setitem__(self, key: Any, value: Any) -> None:
        if key not in self or self[key] is not value:  # params["W"] -= 1 puts the array back that it has changed
            self._refuse()

    __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (), None, None, iter(self.items())


class FixedList(list[Any]):
    """A list that keeps its entries; copies of it are plain lists."""

    _refuse = FixedDict._refuse

    def __setitem__(self, index: Any, value: Any) -> None:
        if self[index] is not value:
            self._refuse()

    __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (), None, iter(self)


def fixed(structure: Any) -> Any:
    """The nesting of the parameters in containers of its own, which nobody changes.

    Raises
    ------
    ValueError
        It does not hold the same arrays again: a property that makes new ones, or functions of `register_structure`
        that do not fit each other.
    """
    shape = tree(structure, "params")
    made = rebuilt(structure, lambda leaf: leaf, (FixedDict, FixedList))
    leaves = shape.flatten(made, "params")
    for leaf, again, path in zip(shape.leaves, leaves, shape.paths, strict=True):
        if leaf is not again and not same_memory(leaf, again):
            raise ValueError(
                f"params{path}: got a new array each time it is read, needs one that stays, as steps change it "
                "in place; return the stored array from properties and flatten(), and keep it in unflatten()"
            )
    return made


def same_memory(array: Any, other: Any) -> bool:
    """Whether both are arrays of the same elements in the same memory."""
    if not isinstance(array, np.ndarray) or not isinstance(other, np.ndarray):
        return False
    return array.__array_interface__ == other.__array_interface__


def same_arrays(structure: Any, other: Any) -> bool:
    """Whether both hold the same array objects in the same places."""
    try:
        known = tree(other, "params")
        leaves = known.flatten(structure, "params")
    except (TypeError, ValueError):
        return False
    return all(a is b for a, b in zip(leaves, known.leaves, strict=True))


def unknown_option(where: str, name: Any, known: Iterable[str]) -> ValueError:
    """The error for an option that a group cannot have."""
    if name in MODEL_OPTIONS:
        hint = f", which belongs to the whole optimizer: pass {name}= when it is made"
    else:
        hint = did_you_mean(name, known)
    return ValueError(f"{where}: got an unknown option {name!r}{hint}")


class MissingOption(KeyError, ValueError):
    """A group's option that was removed, where something needs it: as for any dict, and as for any bad value."""

    __str__ = ValueError.__str__


class Group(dict[str, Any]):
    """The options of one parameter group by name, and its parameters under ``"params"``.

    Hyper-parameters may be changed at any time. A name that the optimizer does not know, other parameters and another
    storage format are a ValueError. Copies are plain dicts.
    """

    __slots__ = ("_names", "_where")

    def __init__(self, options: Mapping[str, Any], number: int) -> None:
        super().__init__(options)
        super().__setitem__("params", fixed(options["params"]))
        self._names = frozenset(options)
        self._where = f"param_groups[{number}]"

    def __missing__(self, name: Any) -> NoReturn:
        raise MissingOption(no_entry(self._where, name))

    def knows(self, name: str) -> bool:
        """Whether this is one of the group's options; which of them there are depends on its rule."""
        return name in self._names

    def check(self, name: Any, value: Any) -> None:
        """Raise ValueError if this entry cannot be used."""
        if name not in self._names:
            raise unknown_option(self._where, name, self._names - {"params"})
        where = f'{self._where}["{name}"]'
        if name == "params" and value is not self["params"] and not same_arrays(value, self["params"]):
            raise ValueError(
                f"{where}: got other arrays, needs those that the optimizer was made with, as it holds their states; "
                "use add_param_group, or make a new optimizer"
            )
        if name in FIXED and not same(value, self[name]):
            raise ValueError(
                f"{where}: got {value!r}, needs {self[name]!r} as the optimizer was made with; make a new one and "
                "load this one's state_dict()"
            )

    def __setitem__(self, name: str, value: Any) -> None:
        self.check(name, value)
        if name != "params":
            super().__setitem__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Change several options, or none if one cannot be used."""
        given = dict(*args, **kwargs)
        for name, value in given.items():
            self.check(name, value)
        super().update({name: value for name, value in given.items() if name != "params"})

    def __ior__(self, other: Any) -> Group:  # type: ignore[override,misc]
        self.update(other)
        return self

    def setdefault(self, name: str, default: Any = None) -> Any:
        """The option, set to `default` first if it is not there."""
        if name not in self:
            self[name] = default
        return self[name]

    def __delitem__(self, name: str) -> None:
        if name in FIXED or name == "params":
            raise ValueError(f'{self._where}["{name}"]: cannot be removed')
        super().__delitem__(name)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove an option and return it; a step without it is an error."""
        value = self[name] if name in self or not default else default[0]
        if name in self:
            del self[name]
        return value

    def popitem(self) -> NoReturn:
        """Not supported: the optimizer needs its options."""
        raise ValueError(f"{self._where}: its options cannot be removed")

    def clear(self) -> NoReturn:
        """Not supported: the optimizer needs its options."""
        self.popitem()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (), None, None, iter(self.items())


class Owner(Protocol):
    """The optimizer of groups."""

    @property
    def param_groups(self) -> Any: ...

    @param_groups.setter
    def param_groups(self, groups: Any, /) -> None: ...

    def add_param_group(self, group: Mapping[str, Any], /) -> None: ...


class Groups(list[Any]):
    """The groups of an optimizer: ``append`` adds one, and one that is replaced has its options taken over."""

    def __init__(self, groups: Iterable[Group], optimizer: Owner) -> None:
        super().__init__(groups)
        self._optimizer = weakref.ref(optimizer)

    def add(self, group: Group) -> None:
        """Take in a group that the optimizer has made."""
        super().append(group)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            "param_groups: groups cannot be removed or reordered, as the optimizer holds their states; "
            "make a new optimizer of those that stay"
        )

    __delitem__ = __imul__ = clear = insert = pop = remove = reverse = sort = _refuse

    def __reduce_ex__(self, protocol: Any) -> Any:
        return list, (), None, iter(self)

    def _owner(self) -> Owner:
        optimizer = self._optimizer()
        if optimizer is None or optimizer.param_groups is not self:
            raise ValueError("param_groups: this list belongs to no optimizer any more")
        return optimizer

    def append(self, group: Any) -> None:
        """As `Optimizer.add_param_group`."""
        self._owner().add_param_group(group)

    def extend(self, groups: Iterable[Any]) -> None:
        """Add one after another."""
        for group in list(groups):
            self.append(group)

    def __iadd__(self, groups: Any) -> Groups:  # type: ignore[misc]
        self.extend(groups)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        entries = list(self)
        entries[index] = value
        self._owner().param_groups = entries
