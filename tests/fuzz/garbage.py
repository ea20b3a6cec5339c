"""Values that are wrong in one way or another, made from right ones."""

from __future__ import annotations

import copy
import decimal
import fractions
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import BFLOAT16

import fusedstep as fs

__all__ = ["garbage_like", "mutated", "odd_memory", "odd_number", "odd_object", "regrouped", "spoil_array"]


class Odd:
    """An object whose every special method fails."""

    def _fail(self, *args: Any) -> Any:
        raise ValueError("odd")

    __len__ = __iter__ = __getitem__ = __float__ = __int__ = __index__ = __array__ = __bool__ = __call__ = _fail


class Claim:
    """An object that pretends to be an array of memory that is not there.

    No parameter has its shape: with `cast_grads` its address would be read, as NumPy reads it.
    """

    dtype = np.dtype(np.float32)
    shape, ndim, size, nbytes = (7, 0x7FFF), 2, 7 * 0x7FFF, 28 * 0x7FFF
    __array_interface__ = {"data": (8, False), "shape": shape, "typestr": "<f4", "version": 3}  # noqa: RUF012


class Lying(list[Any]):
    """A list that says another length than it has."""

    def __len__(self) -> int:
        return 5


class Failing(dict[Any, Any]):
    """A dict that fails when it is read."""

    def items(self) -> Any:
        raise ValueError("odd")

    __iter__ = keys = values = items

    def __getitem__(self, key: Any) -> Any:
        raise ValueError("odd")


OBJECTS: tuple[Callable[[], Any], ...] = (
    lambda: None, lambda: ..., lambda: NotImplemented, lambda: "", lambda: "float32", lambda: b"\0" * 16, object,
    lambda: [], dict, tuple, set, lambda: [[]], lambda: {"a": []}, lambda: (8, 3, "float32"), lambda: [8, 3],
    lambda: int, lambda: np.float32, lambda: len, lambda: lambda *a: 1 / 0 if a == () else a[0], Odd, Claim, Lying,
    lambda: Failing(a=1), lambda: iter([1]), lambda: range(3), lambda: np.dtype(np.float32),
    lambda: memoryview(b"1234"), lambda: bytearray(64), lambda: np.ma.masked, lambda: fs.SGD, lambda: "\ud800",
    lambda: {1: 2, "1": 3},
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 0.0, -0.0, 0.5, 1.0, 2.0, -1e-300, 5e-324, 1e-45, 1e-320, 1e308, math.inf, -math.inf, math.nan, True,
    False, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, 1j, "1", "nan", "8bit", "bfloat16", "split",
    "float32", "stochastic", "nearest", np.float32(0.5), np.float64(math.nan), np.float16(1), np.int64(3),
    np.uint8(255), np.bool_(True), np.longdouble(1), decimal.Decimal("0.1"), fractions.Fraction(1, 3), (0.9, 0.999),
    [0.9, 0.999], (0.9,), (0.9, 1.0), (0.9, 0.99, 0.999), (0.5, math.nan), ("a", "b"), (None, None), [[0.9], [0.999]],
    (0.9, True), (1, 10**400),
)  # fmt: skip


def odd_number(rng: random.Random) -> Any:
    """Something in a number's place: numbers of every kind and size, pairs, arrays, schedules, no number at all."""
    kind = rng.randrange(10)
    if kind < 6:
        return rng.choice(NUMBERS)
    if kind == 6:
        value = rng.choice(NUMBERS)
        return lambda t: value
    if kind == 7:
        return rng.choice(
            [np.array(0.5), np.array([0.5]), np.array([0.9, 0.99]), np.array("x"), np.array(None), np.zeros((0,)), 0.25]
        )
    return odd_object(rng)


def odd_object(rng: random.Random) -> Any:
    return rng.choice(OBJECTS)()


DTYPES: tuple[Any, ...] = (
    np.float16, np.float32, np.float64, BFLOAT16, np.longdouble, np.complex64, np.int8, np.uint8, np.int16, np.int32,
    np.int64, np.bool_, object, "S4", "U1", ">f4", ">f8", "<f2", "M8[s]", "V2", "V4", [("a", "f4")],
)  # fmt: skip


def spoil_array(rng: random.Random, right: Any) -> Any:
    """An array that is wrong in dtype, shape, order, place or class."""
    if right.dtype.hasobject:
        return None
    kind = rng.randrange(16)
    if kind < 4:
        dtype = np.dtype(rng.choice(DTYPES))
        return np.zeros(right.shape, dtype)
    if kind == 4:
        return np.zeros(rng.choice([0, 1, 2, max(right.size - 1, 0), right.size + 1, 256, 70_000]), right.dtype)
    if kind == 5:
        return np.zeros(
            rng.choice([(), (1, *right.shape), (*right.shape, 1), right.shape[::-1], (right.size,)]), right.dtype
        )
    if kind == 6:
        return (
            np.zeros((2 * right.size,), right.dtype)[::2].reshape(right.shape, copy=False)
            if right.ndim == 1
            else right.T
        )
    if kind == 7:
        return right[::-1] if right.ndim else right
    if kind == 8:
        return np.broadcast_to(np.ones((), right.dtype), right.shape)
    if kind == 9:
        return np.asfortranarray(right.copy())
    if kind == 10:
        fixed = right.copy()
        fixed.flags.writeable = False
        return fixed
    if kind == 11:
        memory = bytearray(right.nbytes + 1)
        return np.frombuffer(memory, right.dtype, right.size, 1).reshape(right.shape)  # at an odd address
    if kind == 12:
        return np.ma.masked_array(right.copy(), mask=rng.random() < 0.5)
    if kind == 13:
        return (
            right.copy().view(np.recarray)
            if rng.random() < 0.5
            else np.asmatrix(np.zeros((1, right.size), right.dtype))
        )
    if kind == 14:
        return rng.choice(
            [right.tolist(), _bytes(right), memoryview(_bytes(right)), [right], {"a": right}, (right, right)]
        )
    return rows_like(rng, right)


def _bytes(array: Any) -> bytes:
    return bytes(np.ma.getdata(array).tobytes())  # np.ma.masked itself has none


def _copied(value: Any) -> Any:
    try:
        return copy.copy(value)
    except (TypeError, AttributeError, ValueError):  # of a memoryview, a mapping's proxy, torch's uint16, `Failing`
        return value


def rows_like(rng: random.Random, right: Any) -> Any:
    """A gradient of some rows, right or wrong."""
    count = rng.choice([0, 1, 2, 5])
    length = right.shape[0] if right.ndim else 1
    indices = np.array([rng.randrange(max(length, 1)) for _ in range(count)], rng.choice([np.int32, np.int64]))
    values = np.ones((count, *right.shape[1:]), right.dtype)
    kind = rng.randrange(8)
    if kind == 0 and count:
        indices[rng.randrange(count)] = rng.choice([-1, length, 2**31 - 1, -(2**31)])
    elif kind == 1:
        indices = rng.choice(
            [indices.astype(np.float64), indices[::-1], indices[:1], indices.reshape(-1, 1), odd_object(rng)]
        )
    elif kind == 2:
        values = rng.choice(
            [values.astype(np.int32), values[:1], values.T, values[::-1], values.reshape(-1), odd_object(rng)]
        )
    return fs.SparseRows(indices, values)


def garbage_like(rng: random.Random, right: Any, others: list[Any] | None = None) -> Any:
    """Something in the place of this: a spoilt array, memory that is another's, a number, an object."""
    if others and rng.random() < 0.15:
        other = rng.choice(others)
        return other if rng.random() < 0.5 or other.ndim != 1 else other[rng.randrange(3) :]
    if isinstance(right, np.ndarray) and rng.random() < 0.6:
        return spoil_array(rng, right)
    return odd_number(rng) if rng.random() < 0.5 else odd_object(rng)


def mutated(rng: random.Random, value: Any, others: list[Any] | None = None) -> Any:
    """A copy of a nesting with one thing wrong somewhere in it: a leaf, a missing, further or renamed entry."""
    if type(value) in (dict, list, tuple) and value and rng.random() < 0.85:
        kind = rng.randrange(12)
        if type(value) is dict:
            changed = dict(value)
            key = rng.choice(list(changed))
            if kind == 0:
                del changed[key]
            elif kind == 1:
                changed[rng.choice(["extra", 7, None, (), "step", "params", "ema", "master", 0, "0"])] = _copied(
                    value[key]
                )
            elif kind == 2:
                changed[odd_key(rng, key)] = changed.pop(key)
            else:
                changed[key] = mutated(rng, value[key], others)
            return changed
        entries = list(value)
        i = rng.randrange(len(entries))
        if kind == 0:
            del entries[i]
        elif kind == 1:
            entries.insert(i, entries[i])
        elif kind == 2:
            entries[i], entries[-1] = entries[-1], entries[i]
        else:
            entries[i] = mutated(rng, entries[i], others)
        return entries if rng.random() < 0.5 else type(value)(entries)
    return garbage_like(rng, value, others)


def regrouped(rng: random.Random, structure: Any) -> Any:
    """Groups of a structure that were changed since they were made."""
    found = fs.groups(structure, where=lambda path, param: True, lr=0.1)
    if rng.random() < 0.5:
        odd = iter(range(99))
        found = fs.groups(found, where=lambda path, param: next(odd) % 2 == 0, maximize=True)
    group = rng.choice(found)
    changes: list[Callable[[], Any]] = [
        found.reverse, found.clear, lambda: found.append(group), group["params"].reverse, group["params"].pop,
        lambda: group.update(params=odd_object(rng)), lambda: group.pop("params"), found.pop,
        lambda: group.update({rng.choice([*group, "extra"]): odd_number(rng)}),
    ]  # fmt: skip
    rng.choice(changes)()
    return found


def odd_memory(rng: random.Random, others: list[Any]) -> Any:
    """A function that returns something else than new memory."""
    given: list[Any] = [bytearray(1 << 20), np.empty(100, object), *(a for a in others if isinstance(a, np.ndarray))]
    dtypes: tuple[Any, ...] = (np.uint8, np.float64, ">i2", object)
    kind, fixed = rng.randrange(5), rng.choice(given)
    if kind == 0:
        return lambda size: odd_object(rng)
    if kind == 1:
        return lambda size: bytearray(rng.choice([0, size - 1, size, size + 1]))
    if kind == 2:
        return lambda size: rng.choice(given)
    if kind == 3:
        return lambda size: np.zeros(size, rng.choice(dtypes))[:: rng.choice([1, 2, -1])]
    return lambda size: fixed


def mutated_state_dict(rng: random.Random, saved: Any, change: Callable[[Any], Any]) -> Any:
    """A copy of a state dict with one or two things wrong, most of them in the states."""
    for _ in range(rng.choice([1, 1, 2])):
        part = rng.choice([None, "state", "state", "param_groups", "fusedstep"])
        if part is None or type(saved) is not dict or part not in saved:
            saved = change(saved)
        elif part == "state" and type(saved[part]) is dict and saved[part]:
            number = rng.choice(list(saved[part]))
            saved = {**saved, part: {**saved[part], number: change(saved[part][number])}}
        else:
            saved = {**saved, part: change(saved[part])}
    return saved


def odd_key(rng: random.Random, key: Any) -> Any:
    return rng.choice(
        [str(key) + "x", 3.5, None, np.int64(1), True, "\ud800", key if not isinstance(key, int) else str(key)]
    )
