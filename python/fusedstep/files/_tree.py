"""Nested dicts, lists and tuples as JSON that comes back as it was, and their arrays apart from it.

JSON has no tuples, and its keys are text: ``{0: a, "0": b}`` would lose an entry. So what plain JSON does not hold is
an object of one key: ``{"$array": 3}`` (the number of an array), ``{"$tuple": [...]}``, ``{"$dict": [[key, value]]}``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._arguments import escaped

__all__ = ["Tree", "dumps", "loads", "rebuilt"]

DEEPEST = 100
DIGITS = 4000  # of whole numbers: Python reads no more than 4,300, as reading takes the square of their number
TAGS = ("$array", "$tuple", "$dict")


class Tree:
    """A tree on its way to a file.

    Parameters
    ----------
    tree
        The nesting. Leaves are arrays (NumPy's, or torch's tensors), None, booleans, numbers and text.
    names
        What arrays are called after, by their path in the tree, for the paths that are not to go by their own.

    Attributes
    ----------
    plain
        What JSON holds of it.
    arrays : list of (str, array)
        Its arrays, each with a name of its own.

    Raises
    ------
    TypeError
        A leaf or a key that files have no place for.
    ValueError
        Nested too deeply, or in itself.
    """

    def __init__(self, tree: Mapping[str, Any], names: Mapping[tuple[Any, ...], str]) -> None:
        self.arrays: list[tuple[str, NDArray[Any]]] = []
        self._names = names
        self._taken: Counter[str] = Counter()
        self.plain = {name: self._encoded(value, (name,), name) for name, value in tree.items()}

    def _encoded(self, value: Any, path: tuple[Any, ...], name: str) -> Any:
        name = self._names.get(path, name)
        if len(path) > DEEPEST:
            raise ValueError(f"{path[0]}: nested more than {DEEPEST} deep, needs fewer levels")
        if isinstance(value, np.generic) and not isinstance(value, (np.void, np.longdouble)):
            value = value.item()
        if value is None or isinstance(value, (bool, float, str)):
            return value
        if isinstance(value, int):
            if value.bit_length() > DIGITS * 3:
                raise ValueError(f"{name}: got a whole number of {value.bit_length()} bits, needs at most {DIGITS * 3}")
            return value
        if isinstance(value, dict):
            items = [(key, self._encoded(item, (*path, key), name + _step(key))) for key, item in value.items()]
            if all(isinstance(key, str) for key, _ in items) and not any(key in TAGS for key, _ in items):
                return dict(items)
            return {"$dict": [[_encoded_key(key, name), item] for key, item in items]}
        if isinstance(value, (list, tuple)):
            entries = [self._encoded(item, (*path, i), f"{name}[{i}]") for i, item in enumerate(value)]
            return {"$tuple": entries} if isinstance(value, tuple) else entries
        array = _array(value)
        if array is None:
            raise TypeError(
                f"{name}: got {type(value).__name__}, needs an array, or None, a bool, a number, text, or a dict, list "
                "or tuple of them"
            )
        name = escaped(name)  # keys may print alike
        self._taken[name] += 1
        while (again := self._taken[name]) > 1:
            name = f"{name}#{again}"
            self._taken[name] += 1
        self.arrays.append((name, array))
        return {"$array": len(self.arrays) - 1}


def _array(value: Any) -> NDArray[Any] | None:
    """The memory of an array or of a tensor on the host as a plain array."""
    if isinstance(value, np.ndarray):
        return value if hasattr(value, "mask") else np.asarray(value)
    return None


def _step(key: Any) -> str:
    """A step into a dict, as in the names of parameters."""
    return f'["{key}"]' if isinstance(key, str) else f"[{key!r}]"


def _encoded_key(key: Any, name: str) -> Any:
    """A key as JSON; a list stands for a tuple."""
    if isinstance(key, tuple):
        return [_encoded_key(part, name) for part in key]
    key = key.item() if isinstance(key, np.number) else key
    if key is None or type(key) in (bool, int, float, str):
        return key
    raise TypeError(f"{name}: got a key {key!r} ({type(key).__name__}), needs text, a number, None or a tuple of them")


def rebuilt(plain: Any, array: Callable[[int], Any], where: str, depth: int = 0) -> Any:
    """The tree that an index holds.

    Parameters
    ----------
    plain
        What JSON holds of it.
    array
        Gives an array for its number.
    where
        What it is called in messages.

    Raises
    ------
    ValueError
        It is none that `Tree` makes.
    """
    if depth > DEEPEST:
        raise ValueError(f"{where}: got more than {DEEPEST} levels, needs fewer")
    if isinstance(plain, list):
        return [rebuilt(item, array, where, depth + 1) for item in plain]
    if not isinstance(plain, dict):
        return plain
    tag = next((tag for tag in TAGS if tag in plain), None)
    if tag is None:
        return {key: rebuilt(item, array, where, depth + 1) for key, item in plain.items()}
    held = plain[tag]
    if len(plain) == 1 and tag == "$array" and isinstance(held, int) and not isinstance(held, bool):
        return array(held)
    if len(plain) == 1 and tag == "$tuple" and isinstance(held, list):
        return tuple(rebuilt(item, array, where, depth + 1) for item in held)
    pairs = held if isinstance(held, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in held) else None
    if len(plain) == 1 and tag == "$dict" and pairs is not None:
        found = {_key(key, where): rebuilt(item, array, where, depth + 1) for key, item in pairs}
        if len(found) == len(pairs):
            return found
    raise ValueError(f"{where}: got an entry {tag} of another form, needs those that fusedstep writes")


def _key(key: Any, where: str, depth: int = 0) -> Any:
    if isinstance(key, dict) or depth > DEEPEST:
        raise ValueError(f"{where}: got a dict as a key, needs text, a number, None or a list of them")
    return tuple(_key(part, where, depth + 1) for part in key) if isinstance(key, list) else key


def dumps(plain: Any) -> bytes:
    """JSON, in ASCII."""
    return json.dumps(plain, separators=(",", ":")).encode("ascii")


def loads(text: bytes) -> Any:
    """What JSON holds.

    Raises
    ------
    ValueError
        It is no JSON, or has an entry twice, a number too long, or too many levels.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_once, parse_int=_whole)
    except RecursionError:
        raise ValueError("got JSON of too many levels") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"got JSON with {twice[:60]!r} twice, needs every name once")
    return found


def _whole(digits: str) -> int:
    if len(digits) > DIGITS + 1:
        raise ValueError(f"got a whole number of {len(digits)} digits, needs at most {DIGITS}")
    return int(digits)
