"""The parameters of a state dict and those of an optimizer: by name, or by position where there are no names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._slots import Slot

__all__ = ["match", "needs", "param_names", "positions"]


BY_POSITION = 'the parameters of this optimizer. Without "param_names", states are loaded by position'


def needs(value: Any, kind: type | tuple[type, ...], where: str, what: str) -> None:
    """TypeError if a part of a state dict is not of its kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{where}: got {type(value).__name__}, needs {what}")


# NumPy's numbers as keys, which print in another way from version 2 on, and are the same keys as Python's.
_NUMBER = re.compile(r"np\.\w+\(([^()]*)\)")


def _plain(name: str) -> str:
    """The name of a parameter with Python's numbers in the place of NumPy's: `[3]` for `[np.int64(3)]`."""
    return _NUMBER.sub(r"\1", name) if "np." in name else name


def param_names(slots: Sequence[Slot], groups: int, grouped: bool) -> list[list[str]]:
    """The parameters' names, their paths in the caller's structure, group by group."""
    names: list[list[str]] = [[] for _ in range(groups)]
    for slot in slots:
        names[slot.group].append(_plain(slot.path.partition("]")[2] if grouped else slot.path))
    return names


def arranged(saved: Any, known: Sequence[Sequence[str]]) -> Sequence[int]:
    """The places of saved groups in the order of groups of the same names, whose order may come from a dict's keys."""
    order: Sequence[int] = range(len(known))
    if not isinstance(saved, (list, tuple)) or len(saved) != len(known):
        return order
    given: list[Any] = [entry.get("param_names") if isinstance(entry, Mapping) else None for entry in saved]
    if not all(isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names) for names in given):
        return order
    places = {frozenset(map(_plain, names)): i for i, names in enumerate(given)}
    found = [places.get(frozenset(names)) for names in known]
    return [i for i in found if i is not None] if set(found) == set(order) else order


def match(slots: Sequence[Slot], known: Sequence[Sequence[str]], saved: Any, own: bool) -> list[Any]:
    """The saved parameters' numbers in the order of the slots: by name where names were saved, else by position.

    `known` are the names of the parameters, group by group.

    Only names that this package saved (`own`) can be compared: torch's are those of modules, not paths.
    """
    needs(saved, (list, tuple), 'state_dict["param_groups"]', "a list")
    if len(saved) != len(known):
        raise ValueError(f'state_dict["param_groups"]: has {len(saved)} parameter groups, needs {len(known)}')
    order: list[Any] = []
    for i, (entry, names) in enumerate(zip(saved, known, strict=True)):
        where = f'state_dict["param_groups"][{i}]'
        needs(entry, Mapping, where, "a dict")
        numbers = entry.get("params")
        needs(numbers, (list, tuple), f'{where}["params"]', "a list of parameter numbers")
        for number in numbers:
            if isinstance(number, bool) or not isinstance(number, (int, np.integer, str)):
                raise TypeError(f'{where}["params"]: got {type(number).__name__}, needs a list of parameter numbers')
        given = entry.get("param_names") if own else None
        if given is not None and _are_paths(given, f'{where}["param_names"]') and len(given) == len(numbers):
            order.extend(numbers[k] for k in positions(given, names, f'{where}["param_names"]', BY_POSITION))
            continue
        if len(numbers) != len(names):
            raise ValueError(f"{where}: has {len(numbers)} parameters, needs {len(names)}")
        if given is not None and len(given) != len(numbers):
            raise ValueError(f'{where}["param_names"]: got {len(given)} names, needs {len(numbers)}')
        order.extend(numbers)
    twice = [number for number, count in Counter(order).items() if count > 1]
    if twice:
        raise ValueError(f'state_dict["param_groups"]: has parameter {twice[0]!r} twice, needs every number once')
    places = sorted(range(len(order)), key=lambda i: slots[i].group)  # group by group, as `order` is
    by_place = dict(zip(places, order, strict=True))
    return [by_place[i] for i in range(len(order))]


def _are_paths(names: Any, where: str) -> bool:
    """Whether these are paths such as ``["W1"]``, not the names of a torch module's parameters."""
    needs(names, (list, tuple), where, "a list of names")
    for name in names:
        needs(name, str, where, "a list of names")
    return all(name == "" or name.startswith(("[", ".")) for name in names)


def positions(saved: Sequence[str], names: Sequence[str], where: str, hint: str) -> list[int]:
    """Where each of the names stands among the saved ones; `hint` ends the message if they are not the same."""

    def numbered(all_names: Sequence[str]) -> list[tuple[str, int]]:
        # Keys that print alike, such as two objects of one repr, count up.
        seen: Counter[str] = Counter()
        found = []
        for name in map(_plain, all_names):
            found.append((name, seen[name]))
            seen[name] += 1
        return found

    places = {name: k for k, name in enumerate(numbered(saved))}
    needed = numbered(names)
    missing = [name for name in needed if name not in places]
    unexpected = sorted(places.keys() - set(needed), key=places.__getitem__)
    if missing or unexpected:
        parts = [
            f"{what} {', '.join(f'params{name}' for name, _ in found[:5])}"
            + f" and {len(found) - 5} more" * (len(found) > 5)
            for what, found in (("missing", missing), ("unexpected", unexpected))
            if found
        ]
        raise ValueError(f"{where}: {'; '.join(parts)}; needs {hint}")
    return [places[name] for name in needed]
