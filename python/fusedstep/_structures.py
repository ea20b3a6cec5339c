"""Structures of arrays: what counts as a container, and how one is made anew with other arrays."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Mapping
from numbers import Number
from types import FunctionType
from typing import Any, TypeVar

import numpy as np

from ._core import Tree

__all__ = ["DEEPEST", "contents", "inside", "rebuilt", "register_structure", "tree"]

DEEPEST = 200
VALUES = (Number, str, bytes, bool, type(None), type, np.generic, FunctionType)  # of options, and None of a structure
T = TypeVar("T")

_registered: dict[type, tuple[Callable[[Any], Any], Callable[[Any, dict[str, Any]], Any]]] = {}


def register_structure(
    kind: type[T], flatten: Callable[[T], Mapping[str, Any]], unflatten: Callable[[T, dict[str, Any]], T]
) -> None:
    """Let objects of a class hold parameters and gradients, as dicts and dataclasses do.

    Parameters
    ----------
    kind
        The class; its subclasses count as well, unless they are registered themselves.
    flatten
        Called with an object; returns its entries by name: arrays, other structures or None, always the same names in
        the same order for one object.
    unflatten
        Called with an object and its new entries by name; returns a new object of the same kind. For
        `Optimizer.ema_params` and the copy in ``param_groups``.

    Raises
    ------
    TypeError
        `kind` is not a class, or the others cannot be called.
    ValueError
        `kind` is a container, an array or a plain value already: a dict, list, tuple, NumPy array, number or string.

    Notes
    -----
    Register a class before the first optimizer of such objects is made. In messages and state dicts, an entry is
    called by its name: ``params["encoder"].W``.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> class Linear:
    ...     def __init__(self, W, b=None):
    ...         self.W, self.b = W, b
    >>> fs.register_structure(Linear, vars, lambda layer, entries: Linear(**entries))
    >>> layer = Linear(np.ones((2, 2), np.float32))
    >>> fs.SGD(layer, lr=1.0).step(Linear(np.ones((2, 2), np.float32)))
    True
    >>> layer.W
    array([[0., 0.],
           [0., 0.]], dtype=float32)
    """
    if not isinstance(kind, type):
        raise TypeError(f"kind: got {kind!r}, needs a class")
    for name, function in (("flatten", flatten), ("unflatten", unflatten)):
        if not callable(function):
            raise TypeError(f"{name}: got {type(function).__name__}, needs a function")
    if issubclass(kind, (dict, list, tuple, np.ndarray, *VALUES)) or issubclass(object, kind):
        raise ValueError(f"kind: got {kind.__name__}, needs a class that is not a container, array or value already")
    _registered[kind] = flatten, unflatten


def tree(structure: Any, name: str) -> Tree:
    """The shape of a structure; `name` stands in messages."""
    return Tree(structure, name, _entries)


def contents(structure: Any) -> dict[Any, Any]:
    """What a container holds, by key, position or name."""
    found = inside(structure)
    if found is None:
        raise TypeError(f"got {type(structure).__name__}, needs a container")
    return {key: entry for key, (_, entry) in found.items()}


def _entries(node: Any) -> dict[Any, Any] | tuple[tuple[str, ...], tuple[Any, ...]] | None:
    """What is in a container that is no dict, list or tuple: a dict of a mapping, names and entries of others."""
    functions = _functions(type(node))
    if functions is not None:
        found = functions[0](node)
        entries: list[Any] = list(found.items()) if isinstance(found, Mapping) else [(None, None)]
        if not all(isinstance(name, str) for name, _ in entries):
            raise TypeError(
                f"register_structure: got {type(found).__name__} of {type(node).__name__}, needs a dict of names"
            )
        if len(dict(entries)) != len(entries):
            raise ValueError(f"register_structure: got a name twice of {type(node).__name__}, needs different names")
        return tuple(name for name, _ in entries), tuple(entry for _, entry in entries)
    if isinstance(node, Mapping):
        return dict(node.items())
    kind: Any = type(node)
    names = _fields(kind)
    if names is None:
        return None
    try:
        return names, tuple(getattr(node, name) for name in names)
    except AttributeError as error:
        raise AttributeError(f"{kind.__name__}: got a field without a value, needs all of them: {error}") from error


def inside(node: Any) -> dict[Any, tuple[str, Any]] | None:
    """The entries of any container by key, index or field, each with how a path steps into it; None of a leaf."""
    if isinstance(node, np.ndarray):
        return None
    if isinstance(node, (list, tuple)):
        return {i: (f"[{i}]", entry) for i, entry in enumerate(node)}
    found = dict(dict.items(node)) if isinstance(node, dict) else _entries(node)
    if found is None:
        return None
    if isinstance(found, dict):
        shown = {key: f'["{key}"]' if isinstance(key, str) else f"[{key!r}]" for key in found}
        return {key: (shown[key], entry) for key, entry in found.items()}
    return {name: (f".{name}", entry) for name, entry in zip(*found, strict=True)}


def _functions(kind: type) -> Any:
    return next((_registered[base] for base in kind.__mro__ if base in _registered), None)


@functools.lru_cache(maxsize=256)
def _fields(kind: Any) -> tuple[str, ...] | None:
    """The fields of a dataclass that hold parameters; those of equinox and flax say which do not."""
    if not dataclasses.is_dataclass(kind):
        return None
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if field.metadata.get("pytree_node", True) and not field.metadata.get("static", False)
    )


def rebuilt(structure: Any, leaf: Callable[[Any], Any], kinds: Any = (dict, list), depth: int = 0) -> Any:
    """The same structure with other leaves.

    Parameters
    ----------
    structure
        A leaf, or any nesting of containers. A subclass of dict, list or tuple becomes a plain one, as its constructor
        may take anything, and so does another mapping; a named tuple stays one. A dataclass is copied without a call
        of its constructor.
    leaf
        Called with every leaf, in order.
    kinds
        The classes of the new dicts and lists.

    Raises
    ------
    ValueError
        Nested too deeply, or in itself.
    """
    if depth > DEEPEST:
        raise ValueError(f"params: nested more than {DEEPEST} deep")

    def inner(entry: Any) -> Any:
        return rebuilt(entry, leaf, kinds, depth + 1)

    if structure is None and depth > 0:
        return None
    if isinstance(structure, dict):
        return kinds[0]({key: inner(value) for key, value in dict.items(structure)})
    if isinstance(structure, list):
        return kinds[1]([inner(value) for value in list.__iter__(structure)])
    if isinstance(structure, tuple):
        entries = [inner(value) for value in tuple.__iter__(structure)]
        return tuple.__new__(type(structure), entries) if _is_named(type(structure)) else tuple(entries)
    found = None if isinstance(structure, np.ndarray) else _entries(structure)
    if found is None:
        return leaf(structure)
    if isinstance(found, dict):
        return kinds[0]({key: inner(value) for key, value in found.items()})
    new = {name: inner(value) for name, value in zip(*found, strict=True)}
    functions = _functions(type(structure))
    if functions is not None:
        return functions[1](structure, new)
    other = copy.copy(structure)
    for name, value in new.items():
        object.__setattr__(other, name, value)  # also where the class is frozen
    return other


def _is_named(kind: type) -> bool:
    """Whether this is a class of named tuples with the constructor that Python gave it."""
    return any("_fields" in vars(base) and base.__new__ is kind.__new__ for base in kind.__mro__)
