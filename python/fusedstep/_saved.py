"""Saved options of a group and states of a parameter: what they hold, checked, and where loading puts them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._arguments import no_entry, number, same
from ._converting import convert, is_bfloat16_bits, spread
from ._groups import FIXED
from ._held import check_held
from ._hyper import check_hyper, check_hypers
from ._making import Making
from ._names import needs
from ._pieces import BLOCK_8BIT, flat, pieces
from ._slots import Slot
from ._stored import Stored
from .reference import RULES, Rule, State

__all__ = ["Loaded", "LoadedGroup", "Write", "count"]

Array = NDArray[Any]


# -------------------------------------------------------------------------------------------------------- numbers


def _number(value: Any, where: str) -> int | float:
    """A Python number: of a number, or of an array or tensor of one element."""
    try:
        array = _as_array(value)
        if array.size == 1 and array.dtype.kind in "fiu":
            return value if isinstance(value, int) else array.reshape(-1)[0].item()
        if isinstance(value, int) and not isinstance(value, bool):
            return value  # beyond 64 bits
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that are no arrays
        pass
    raise TypeError(f"{where}: got {type(value).__name__}, needs a number")


def count(value: Any, where: str) -> int:
    number = _number(value, where)
    if isinstance(number, float) and not number.is_integer():
        raise ValueError(f"{where}: got {number:g}, needs a whole number of at least 0")
    if not 0 <= number < 2**63:
        shown = f"{number:g}" if isinstance(number, float) else number
        raise ValueError(f"{where}: got {shown}, needs a whole number from 0 to 2**63 - 1")
    return int(number)


# --------------------------------------------------------------------------------------------------------- arrays


def _as_array(value: Any) -> Any:
    """A plain array of what was saved: an array, a tensor, a number. One in a file stays there."""
    if isinstance(value, Stored):
        return value
    if isinstance(value, np.ndarray) and hasattr(value, "mask"):
        raise TypeError("an array with a mask")
    check_held(value, "a tensor")
    if hasattr(value, "detach"):  # a tensor of torch; NumPy has no bfloat16 that it could hand over
        value = value.detach()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    if not isinstance(value, (np.ndarray, np.generic)):
        if hasattr(type(value), "__array__"):
            value = value.__array__()
        elif hasattr(value, "__array_interface__") or hasattr(value, "__array_struct__"):
            # NumPy would read at whatever address these name.
            raise TypeError("memory that an object only describes is not read; make an array of it")
    # As float64 nested lists that are no array are an error with every NumPy.
    return np.asarray(value, np.float64 if isinstance(value, (list, tuple)) else None)


def _array_at(value: Any, where: str) -> Any:
    """The same of a named place, with an error that says which."""
    try:
        return _as_array(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{where}: got {type(value).__name__}, needs an array: {error}") from error


def _from_torch(saved: Mapping[str, Any], states: set[str]) -> Mapping[str, Any]:
    """8-bit states by their names here: `fusedstep.torch` saves them under some from which torch takes no moments."""
    coded = [name for name in states if f"{name}_codes" in saved]
    bits = [name for name in states if str(getattr(saved.get(name), "dtype", "")) == "torch.bits8"]
    if not coded and not bits:
        return saved
    found = dict(saved)
    for name in coded:
        found[name] = found.pop(f"{name}_codes")
    if "steps_taken" in found:
        found["step"] = found.pop("steps_taken")
    for name in bits:
        tensor = found[name]
        found[name] = tensor.view(sys.modules["torch"].uint8)
    return found


class Write(NamedTuple):
    """Arrays that loading changes, those it reads, and what does it with these."""

    where: str
    targets: Sequence[Array]
    sources: Sequence[Array]
    run: Callable[..., None]


class LoadedGroup:
    """What a parameter group takes over, checked; what torch knows and this package does not is left out."""

    def __init__(self, optimizer: Making, number: int, saved: Mapping[str, Any]) -> None:
        group = optimizer.param_groups[number]
        where = f'state_dict["param_groups"][{number}]["{{}}"]'
        rule = optimizer._rule_of(group)
        if not same(saved.get("rule", rule), rule):
            raise ValueError(f"{where.format('rule')}: got {saved['rule']!r}, needs {rule!r}")
        self.taken: dict[str, Any] = {}
        for name, value in saved.items():
            if name == "params" or name in FIXED or name not in group or callable(group[name]):
                continue
            value = _plain(value, where.format(name))
            if name == "ema_decay" and (value is None) != (group[name] is None):
                continue  # whether there is an average is settled when an optimizer is made
            self.taken[name] = check_hyper(name, value, where.format(name), rule=rule)
        self.options = {**group, **self.taken}
        facts = RULES[rule]
        hypers = {name: self.taken.get(name, group[name]) for name in facts.hypers}
        check_hypers(rule, {name: value for name, value in hypers.items() if not callable(value)}, where)
        self.used = optimizer._used(self.options)
        self.scalars = optimizer._initial_scalars(self.options)


def _plain(value: Any, where: str) -> Any:
    """Python numbers in place of scalar arrays and tensors."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item, where) for item in value)
    if not hasattr(value, "item"):
        return value
    array = _array_at(value, where)
    return array.item() if array.size == 1 else tuple(array.reshape(-1).tolist())


class Loaded:
    """The saved state of one parameter, checked, and where it goes."""

    def __init__(self, optimizer: Making, index: int, group: LoadedGroup, saved: Any, where: str) -> None:
        self.slot = slot = optimizer._slots[index]
        rule = RULES[optimizer._rule_of(group.options)]
        self.where = where
        self.shape = slot.array.shape
        self.shapes = {state.name: state.shape(self.shape, group.options) for state in rule.states}
        self.writes: list[Write] = []
        self.added: list[tuple[State, Any, Any]] = []
        needs(saved, Mapping, where, "a dict")
        saved = _from_torch(saved, {state.name for state in rule.states})
        self._check_names(saved, rule)
        self.step = self._step(saved)
        self.scalars = [
            number(f'{where}["{name}"]', _number(saved[name], f'{where}["{name}"]')) if name in saved else value
            for name, value in zip(rule.scalars, group.scalars or optimizer._model.get_scalars(index), strict=True)
        ]
        for state in rule.states:
            shape = self.shapes[state.name]
            if saved.get(state.name) is not None:
                stored = self._state(saved, state.name)
            elif shape is None:
                continue
            elif self.step > 0 and state in group.used:
                raise ValueError(no_entry(where, state.name))
            else:
                value = optimizer._initial_state(state.name, slot, group.options)
                stored = value if callable(value) else spread(np.full(1, value, slot.compute), shape)
            if state.name in slot.states:
                self._take(state.name, slot.states[state.name], stored, state.kind)
            elif state in group.used:
                self.added.append((state, optimizer._first_state(state, slot, group.options), stored))
        self._rest(saved)
        self.received = saved.get("grad_sum") is not None

    def new_states(self) -> Slot:
        """The states that the loaded options call for and that there were not, still without memory."""
        states = {state.name: format_ for state, format_, _ in self.added}
        return Slot(self.slot.param, self.slot.path, self.slot.group, states)

    def fill(self, new: Mapping[str, Any]) -> None:
        """Write the saved values of new states."""
        for state, _, stored in self.added:
            convert(new[state.name], stored, state.kind)

    def _check_names(self, saved: Mapping[str, Any], rule: Rule) -> None:
        own = {state.name for state in rule.states}
        known = {"step", "master", "remainder", "ema", "grad_sum", *own, *rule.scalars}
        for name in saved:
            if name not in known and not (str(name).endswith("_scales") and name.removesuffix("_scales") in own):
                raise ValueError(
                    f'{self.where}: got an entry "{name}", which {rule.name} does not have, needs its states'
                )

    def _step(self, saved: Mapping[str, Any]) -> int:
        if "step" in saved:
            return count(saved["step"], f'{self.where}["step"]')
        # torch.optim.SGD counts no steps: its velocity exists once the first was taken.
        return int(any(value is not None for value in saved.values()))

    def _array(self, saved: Mapping[str, Any], name: str) -> Array:
        array = _array_at(saved[name], f'{self.where}["{name}"]')
        needed = self.shapes.get(name, self.shape)
        if not name.endswith("_scales") and array.shape != needed:
            of = f"the shape of params{self.slot.path}" if needed == self.shape else f"beside {self.shape}"
            raise ValueError(f'{self.where}["{name}"]: got shape {array.shape}, needs {needed or "none"}, {of}')
        return array

    def _state(self, saved: Mapping[str, Any], name: str) -> Any:
        """A state as it was saved: an array, or a pair of codes and scales."""
        array = self._array(saved, name)
        if f"{name}_scales" in saved:
            scales = self._array(saved, f"{name}_scales")
            count = -(-array.size // BLOCK_8BIT)
            if array.dtype != np.uint8 or _native(scales.dtype) != np.float32 or scales.size != count:
                raise ValueError(
                    f'{self.where}["{name}"]: got {array.dtype} codes and {scales.size} {scales.dtype} scales, '
                    f"needs uint8 codes and {count} float32 scales"
                )
            return array, scales.reshape(-1)
        if array.dtype.kind != "f" and not is_bfloat16_bits(array):
            raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs a float dtype')
        return array

    def _rest(self, saved: Mapping[str, Any]) -> None:
        slot, param = self.slot, self.slot.array
        if slot.ema is not None:
            self._take("ema", slot.ema, self._exact(saved, "ema", slot.ema.dtype, param), "exact")
        if slot.grad_sum is not None:
            none = spread(np.zeros(1, slot.compute), self.shape)
            self._take("grad_sum", slot.grad_sum, self._exact(saved, "grad_sum", slot.compute, none), "exact")
        if slot.master is None:
            return
        low = self._exact(saved, "remainder", np.dtype(np.int16), None)
        full = self._exact(saved, "master", np.dtype(np.float32), None)
        # Where a value lies halfway between two bfloat16, the two kinds of master have different ones.
        if slot.split and low is None and full is not None:
            self._add("master", (param, slot.master), (full,), self._split)
        elif not slot.split and full is None and low is not None:
            self._add("remainder", (param, slot.master), (low,), self._join)
        elif slot.split:
            none = spread(np.zeros(1, np.int16), self.shape)
            self._take("remainder", slot.master, none if low is None else low, "exact")
        else:
            self._take("master", slot.master, param if full is None else full, "exact")

    def _split(self, full: Array) -> None:
        """A float32 master to remainders, and the parameter to what they belong to if it has not been changed."""
        assert self.slot.master is not None
        bits, master = flat(self.slot.array.view(np.uint16)), flat(self.slot.master)
        for piece in pieces(full.size):
            values = np.ascontiguousarray(flat(full)[piece], np.float32)
            rounded, master[piece] = formats.split(values)
            bits[piece] = np.where(formats.encode_bfloat16(values) == bits[piece], rounded, bits[piece])

    def _join(self, low: Array) -> None:
        """Remainders to a float32 master, and the parameter to its rounding."""
        assert self.slot.master is not None
        bits, master = flat(self.slot.array.view(np.uint16)), flat(self.slot.master)
        for piece in pieces(low.size):
            values = formats.join(bits[piece], np.ascontiguousarray(flat(low)[piece], np.int16))
            bits[piece], master[piece] = formats.encode_bfloat16(values), values

    def _exact(self, saved: Mapping[str, Any], name: str, dtype: np.dtype[Any], otherwise: Array | None) -> Any:
        """An array that is not converted, or `otherwise` in its place."""
        if saved.get(name) is None:
            return otherwise
        array = self._array(saved, name)
        if _native(array.dtype) != dtype:
            raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs {dtype}')
        return array

    def _take(self, name: str, target: Any, stored: Any, kind: str) -> None:
        targets = target if isinstance(target, tuple) else (target,)
        if callable(stored):
            self._add(name, targets, (), lambda: convert(target, stored, kind))
        elif isinstance(stored, tuple):
            self._add(name, targets, stored, lambda *given: convert(target, given, kind))
        else:
            self._add(name, targets, (stored,), lambda given: convert(target, given, kind))

    def _add(self, name: str, targets: Sequence[Array], sources: Sequence[Array], run: Callable[..., None]) -> None:
        where = f'{self.where}["{name}"]'
        needed = self.shapes.get(name, self.shape)
        if targets[-1].shape != needed and targets[0].shape != needed:
            raise ValueError(
                f"{where}: got an array of shape {self.shape} for one of shape {targets[0].shape}; "
                f"the shape of params{self.slot.path} was changed since the optimizer was made"
            )
        self.writes.append(Write(where, targets, sources, run))


def _native(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype.newbyteorder("=")
