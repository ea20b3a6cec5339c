"""Options given as a tree, with a value for each parameter or branch: they make groups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ._hyper import TUPLES, check_hyper
from ._step_options import GROUP_VALUES
from ._structures import inside
from .grouping import Grouping, as_grouping

__all__ = ["by_trees", "is_tree"]


def is_tree(name: str, value: Any, rule: str = "") -> bool:
    """Whether an option's value holds several, by its form alone."""
    if value is None or callable(value) or isinstance(value, (str, np.ndarray)):  # a schedule may be a dataclass
        return False
    if isinstance(value, (list, tuple)) and (name in TUPLES or f"{rule}.{name}" in TUPLES):
        return any(is_tree(name, entry, rule) or isinstance(entry, (list, tuple)) for entry in value)
    return inside(value) is not None


def by_trees(rule: str, hypers: Mapping[str, Any], params: Any, trees: Mapping[str, Any]) -> Grouping:
    """Groups of the parameters that have the same values of all these options.

    Parameters
    ----------
    rule, hypers
        The update rule and its hyper-parameters, for checks.
    params
        A structure, or the groups of one.
    trees
        Options by name. A tree has the keys of the structure; a value in a branch's place is that of all its leaves.

    Raises
    ------
    TypeError, ValueError
        A tree of other keys, or a value that an option cannot have.
    """
    given = as_grouping(params)
    columns: list[list[Any]] = []
    for name, value in trees.items():
        column = []
        for where, one in _values(rule, name, given.structure, value, name, 0):
            if not callable(one) and (name in hypers or name in GROUP_VALUES):
                one = check_hyper(name, one, where, rule=rule)
            elif not callable(one) and not isinstance(one, (str, int)) and one is not None:
                raise TypeError(f"{where}: got {type(one).__name__}, needs a value of {name}")
            column.append(one)
        columns.append(column)
    members: list[list[int]] = []
    options: list[dict[str, Any]] = []
    for places, old in zip(given.members, given.options, strict=True):
        found: dict[Any, list[int]] = {}
        for i in places:
            found.setdefault(tuple(_key(column[i]) for column in columns), []).append(i)
        for same in found.values():
            members.append(same)
            values = zip(trees, (column[same[0]] for column in columns), strict=True)
            options.append(dict(values) | old)
    return Grouping(given.structure, members, options)


def _key(value: Any) -> tuple[Any, ...]:
    """What equal values have in common; a schedule is equal to itself alone."""
    return (type(value), id(value) if callable(value) else value)


def _values(
    rule: str, name: str, node: Any, value: Any, where: str, depth: int, plain: bool = False
) -> Iterator[tuple[str, Any]]:
    """The value of every leaf, in order, and what to call it; with `plain`, the value itself for all of them."""
    if node is None and depth > 0:
        return
    entries = inside(node)
    if entries is None:
        yield where, value
        return
    # A list for what is no list is no tree either: the check of the value says what is wrong with it.
    other = isinstance(value, (list, tuple)) and not isinstance(node, (list, tuple))
    if plain or other or not is_tree(name, value, rule):
        for _, entry in entries.values():
            yield from _values(rule, name, entry, value, where, depth + 1, plain=True)
        return
    found = inside(value)
    assert found is not None
    strange = [step for key, (step, _) in found.items() if key not in entries]
    if strange:
        raise ValueError(f"{where}: got an entry {strange[0]} that params does not have, needs the keys of params")
    for key, (step, entry) in entries.items():
        if key in found:
            yield from _values(rule, name, entry, found[key][1], where + step, depth + 1)
        elif entry is not None:
            raise ValueError(f"{where}: got no entry {step}, needs the keys of params")
