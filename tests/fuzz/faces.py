"""Faces of one optimizer that must not show in a byte: structures, gradient forms, memory, groups, rules in NumPy."""

from __future__ import annotations

import collections
import inspect
import random
import tempfile
import types
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
from cases import BFLOAT16, Array

import fusedstep as fs
from fusedstep.reference import RULES

__all__ = ["OWN", "filled", "form", "memory", "nested"]


@dataclass
class Record:
    """Some of its fields hold nothing."""

    a: Any = None
    b: Any = None
    c: Any = None
    note: str = field(default="no parameter", metadata={"static": True})


@dataclass(frozen=True)
class Frozen:
    x: Any
    y: Any = None


class Two(NamedTuple):
    first: Any
    second: Any


class Box:
    """What `register_structure` knows."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = entries


fs.register_structure(Box, lambda box: box.entries, lambda box, entries: Box(entries))


def nested(rng: random.Random, leaves: list[Any]) -> Any:
    """Any nesting with these leaves in order (dict entries count in their own order), and None here and there."""
    if len(leaves) == 1 and rng.random() < 0.3:
        return leaves[0]
    parts: list[Any] = []
    rest = leaves
    while rest:
        count = rng.randint(1, len(rest))
        if count == len(leaves):
            parts.extend(rest)
        else:
            parts.append(nested(rng, rest[:count]))
        rest = rest[count:]
    if rng.random() < 0.15:
        parts.insert(rng.randint(0, len(parts)), None)
    kind = rng.randrange(9)
    if kind == 3 and len(parts) < 4:
        return Record(*parts)
    if kind == 4 and len(parts) < 3:
        return Frozen(*parts)
    if kind == 5 and len(parts) == 2:
        return Two(*parts)
    if kind == 6:
        return Box({f"n{i}": part for i, part in enumerate(parts)})
    if kind < 3 or kind > 6:
        named = {f"k{i}" if i % 3 else i: part for i, part in enumerate(parts)}
        return types.MappingProxyType(named) if kind == 7 else collections.OrderedDict(named) if kind == 8 else named
    return parts if rng.random() < 0.5 else tuple(parts)


def filled(nesting: Any, leaf: Callable[[Any], Any]) -> Any:
    """The nesting with other leaves, made without the package's help."""

    def inner(part: Any) -> Any:
        return filled(part, leaf)

    if nesting is None:
        return None
    if isinstance(nesting, Box):
        return Box({key: inner(part) for key, part in nesting.entries.items()})
    if isinstance(nesting, (dict, types.MappingProxyType)):
        made = {key: inner(part) for key, part in nesting.items()}
        return made if type(nesting) is dict else type(nesting)(made)
    if isinstance(nesting, (list, tuple)):
        parts = [inner(part) for part in nesting]
        return type(nesting)(*parts) if hasattr(nesting, "_fields") else type(nesting)(parts)
    if is_dataclass(nesting) and not isinstance(nesting, type):
        names = [f.name for f in fields(nesting) if not f.metadata.get("static")]
        return type(nesting)(**{name: inner(getattr(nesting, name)) for name in names})
    return leaf(nesting)


# ---------------------------------------------------------------------------------------------------- gradient forms


class Arrays:
    """An object that gives an array when NumPy asks for one."""

    def __init__(self, array: Array) -> None:
        self.held = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return self.held


class Interface:
    """An object that says where its memory is."""

    def __init__(self, array: Array) -> None:
        self.held, self.__array_interface__ = array, array.__array_interface__


class DLPack:
    """An object of another library."""

    def __init__(self, array: Array) -> None:
        self.held = array

    def __dlpack__(self, **how: Any) -> Any:
        return self.held.__dlpack__(**how)

    def __dlpack_device__(self) -> Any:
        return self.held.__dlpack_device__()


def form(rng: random.Random, grad: Array) -> tuple[Any, Array]:
    """The same numbers in another dtype, layout or object, and the array that holds them."""
    wide = grad.astype(rng.choice([np.float64, np.longdouble])) if rng.random() < 0.3 else grad
    how = rng.randrange(7)
    if how == 0:
        held = np.zeros((*grad.shape, 2), wide.dtype)[..., 1]
    elif how == 1:
        held = np.zeros(grad.shape[::-1], wide.dtype).T
    elif how == 2 and wide.dtype != BFLOAT16:
        held = np.zeros(grad.shape, wide.dtype.newbyteorder("S"))
    elif how == 3:
        held = np.frombuffer(bytearray(wide.nbytes + 1), wide.dtype, wide.size, 1).reshape(grad.shape)
    elif how == 4 and grad.ndim:
        held = np.zeros(grad.shape, wide.dtype)[::-1]
    else:
        held = np.zeros(grad.shape, wide.dtype)
    held[...] = wide
    kind = rng.randrange(6)
    packable = held.dtype.isnative and held.dtype.kind == "f" and held.dtype.itemsize <= 8 and held.flags.aligned
    if kind == 0 and packable:
        return DLPack(held), held
    if kind == 1:
        return Arrays(held), held
    if kind == 2 and held.dtype.kind == "f":
        return Interface(held), held
    return held, held


# ------------------------------------------------------------------------------------------------------------- memory


def memory(rng: random.Random) -> Any:
    """Where states live."""
    kind = rng.randrange(8)
    if kind == 0:
        return tempfile.gettempdir()
    if kind == 1:
        return bytearray
    if kind == 2:
        return lambda size: memoryview(bytearray(size + 3))[1:]  # more than asked for, at an odd address
    return None


# ------------------------------------------------------------------------------------------------------ rules in NumPy


def _own(rule: str) -> Any:
    """The rule's definition as one of the user's."""
    function: Any = getattr(fs.reference, rule)
    maths = inspect.getclosurevars(function).nonlocals["maths"]
    facts = RULES[rule]
    arrays = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in ("param", "grad")]
    arrays += [inspect.Parameter(s.name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for s in facts.states]
    named = [inspect.Parameter("step", inspect.Parameter.KEYWORD_ONLY)]
    named += [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=v) for n, v in facts.hypers.items()]

    def update(*args: Any, **kwargs: Any) -> None:
        maths(*args, **kwargs)

    setattr(update, "__signature__", inspect.Signature([*arrays, *named]))  # noqa: B010
    body = {"update": staticmethod(update), "kinds": {s.name: s.kind for s in facts.states}, "__module__": __name__}
    return type(f"Own_{rule}", (fs.NumPyOptimizer,), body)


def _is_plain(rule: str) -> bool:
    facts = RULES[rule]
    zeros = all(not state.when and state.initial == 0.0 for state in facts.states)
    return zeros and not facts.initial_scalars and not facts.needs_shape


# AdEMAMix has a range of its own for a name that others have.
OWN: dict[str, Any] = {rule: _own(rule) for rule in RULES if _is_plain(rule) and rule != "ademamix"}
"""Rules of the package, each as a `NumPyOptimizer` of the same formula."""
globals().update({kind.__name__: kind for kind in OWN.values()})  # for pickle
