"""Optimizers to state dicts and back, in the keys and layout of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _hyper, formats
from ._core import Model
from ._slots import Slot, store_values, stored_values
from .reference import RULES

if TYPE_CHECKING:
    from ._base import Optimizer

__all__ = ["load", "progress", "save"]

Array = NDArray[Any]

# Options that say how a group was made; loading does not change them.
STORAGE = ("state_format", "min_quantized_size", "master", "rounding")


def progress(model: Model) -> tuple[list[int], list[list[float]], int]:
    """Step counts and scalar states of every parameter, and the optimizer's own count of steps."""
    every = range(len(model))
    return [model.get_step(i) for i in every], [model.get_scalars(i) for i in every], model.steps_taken


def save(optimizer: Optimizer, state_format: str | None) -> dict[str, Any]:
    """What `Optimizer.state_dict` returns."""
    about = RULES[optimizer.rule]
    kinds = {state.name: state.kind for state in about.states}
    states: dict[int, dict[str, Any]] = {}
    for i, (slot, view) in enumerate(zip(optimizer._slots, optimizer.state, strict=True)):
        if state_format is not None:
            small = slot.param.size < optimizer.param_groups[slot.group]["min_quantized_size"]
            converted = {
                name: store_values(
                    stored_values(stored, kinds[name], slot.compute), kinds[name], state_format, slot.compute, small
                )
                for name, stored in slot.states.items()
            }
            copy = Slot(slot.param, slot.path, slot.group, converted, slot.master, slot.ema)
            entries = {"step": view["step"], **dict(copy.items()), **{n: view[n] for n in about.scalars}}
        else:
            entries = dict(view)
        states[i] = {k: v.copy() if isinstance(v, np.ndarray) else v for k, v in entries.items()}

    groups, schedules, first = [], [], 0
    for number, group in enumerate(optimizer.param_groups):
        count = sum(slot.group == number for slot in optimizer._slots)
        plain = {k: optimizer._now(v) for k, v in group.items() if k != "params"}
        groups.append({**plain, "params": list(range(first, first + count))})
        first += count
        schedules.append({k: v.state_dict() for k, v in group.items() if callable(v) and hasattr(v, "state_dict")})
    own = {
        "rule": optimizer.rule,
        "steps_taken": optimizer.steps_taken,
        "skipped_steps": optimizer.skipped_steps,
        "schedules": schedules,
        **optimizer._settings,
    }
    return {"state": states, "param_groups": groups, "fusedstep": own}


def load(
    optimizer: Optimizer, state_dict: Mapping[str, Any], check_settings: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    """What `Optimizer.load_state_dict` does: check everything, then write."""
    _needs(state_dict, Mapping, "state_dict", "a dict")
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f'state_dict: has no entry "{key}"; it is not the state dict of an optimizer')
    states, own = state_dict["state"], state_dict.get("fusedstep", {})
    _needs(states, Mapping, 'state_dict["state"]', "a dict")
    _needs(own, Mapping, 'state_dict["fusedstep"]', "a dict")
    if own.get("rule", optimizer.rule) != optimizer.rule:
        raise ValueError(f"state_dict: is of {own['rule']}, needs one of {optimizer.rule}")
    order = _check_groups(optimizer, state_dict["param_groups"])
    strange = [number for number in states if number not in order]
    if strange:
        raise ValueError(f'state_dict["state"]: has an entry {strange[0]!r} that is in no parameter group')
    groups = [_merged(optimizer, i, saved) for i, saved in enumerate(state_dict["param_groups"])]
    loaded = [
        _Loaded(optimizer, i, states.get(number, {}), f'state_dict["state"][{number!r}]', groups[slot.group])
        for i, (slot, number) in enumerate(zip(optimizer._slots, order, strict=True))
    ]
    settings = check_settings(optimizer._settings | {k: own[k] for k in optimizer._settings if k in own})
    oldest = max((entry.step for entry in loaded), default=0)
    taken = _count(own.get("steps_taken", oldest), 'state_dict["fusedstep"]["steps_taken"]')
    skipped = _count(own.get("skipped_steps", 0), 'state_dict["fusedstep"]["skipped_steps"]')
    _load_schedules(optimizer, own.get("schedules", []))

    # Everything fits: from here on nothing fails.
    for group, merged in zip(optimizer.param_groups, groups, strict=True):
        group.update(merged)
    for entry in loaded:
        entry.write()
    optimizer.skipped_steps = skipped
    optimizer._settings = settings
    optimizer._configure()
    steps, scalars = [entry.step for entry in loaded], [entry.scalars for entry in loaded]
    if any(entry.added for entry in loaded):
        optimizer._model.steps_taken = taken
        optimizer._build(steps, scalars)
    for i, entry in enumerate(loaded):
        optimizer._model.set_step(i, entry.step)
        optimizer._model.set_scalars(i, entry.scalars)
    optimizer._model.steps_taken = taken


def _needs(value: Any, kind: type | tuple[type, ...], where: str, what: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{where}: got {type(value).__name__}, needs {what}")


def _check_groups(optimizer: Optimizer, saved: Any) -> list[Any]:
    """Check that groups agree in number and size; return the saved parameters' numbers in order."""
    groups = optimizer.param_groups
    _needs(saved, (list, tuple), 'state_dict["param_groups"]', "a list")
    if len(saved) != len(groups):
        raise ValueError(f'state_dict["param_groups"]: has {len(saved)} parameter groups, needs {len(groups)}')
    order: list[Any] = []
    for i, entry in enumerate(saved):
        where = f'state_dict["param_groups"][{i}]'
        _needs(entry, Mapping, where, "a dict")
        numbers = entry.get("params")
        _needs(numbers, (list, tuple), f'{where}["params"]', "a list of parameter numbers")
        count = sum(slot.group == i for slot in optimizer._slots)
        if len(numbers) != count:
            raise ValueError(f"{where}: has {len(numbers)} parameters, needs {count}")
        for number in numbers:
            _needs(number, (int, str), f'{where}["params"]', "a list of parameter numbers")
        order.extend(numbers)
    return order


def _plain(value: Any) -> Any:
    """Python numbers in place of scalar arrays and tensors."""
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    if not hasattr(value, "item"):
        return value
    array = np.asarray(value)
    return array.item() if array.size == 1 else tuple(array.reshape(-1).tolist())


def _merged(optimizer: Optimizer, number: int, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters a group takes over, checked; what torch knows and this package does not is left out."""
    group = optimizer.param_groups[number]
    where = f'state_dict["param_groups"][{number}]["{{}}"]'
    taken = {}
    for name, value in saved.items():
        if name == "params" or name in STORAGE or name not in group or callable(group[name]):
            continue
        if name == "ema_decay" and (value is None) != (group[name] is None):
            continue  # whether there is an average is settled when an optimizer is made
        taken[name] = _hyper.check_hyper(name, _plain(value), where.format(name), rule=optimizer.rule)
    hypers = {name: optimizer._now((group | taken)[name]) for name in RULES[optimizer.rule].hypers}
    _hyper.check_hypers(optimizer.rule, hypers, where)
    return taken


def _load_schedules(optimizer: Optimizer, saved: Any) -> None:
    """Give schedules what they remembered; when one cannot take it, all are as they were."""
    where = 'state_dict["fusedstep"]["schedules"]'
    _needs(saved, (list, tuple), where, "a list")
    before = []
    try:
        for i, (group, states) in enumerate(zip(optimizer.param_groups, saved, strict=False)):
            _needs(states, Mapping, f"{where}[{i}]", "a dict")
            for name, state in states.items():
                schedule = group.get(name)
                if callable(schedule) and hasattr(schedule, "load_state_dict"):
                    before.append((schedule, schedule.state_dict()))
                    schedule.load_state_dict(state)
    except Exception:
        for schedule, state in reversed(before):
            schedule.load_state_dict(state)
        raise


def _number(value: Any, where: str) -> float:
    try:
        array = np.asarray(value)
        if array.size == 1 and array.dtype.kind in "fiu":
            return float(array.reshape(-1)[0])
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors that are no arrays
        pass
    raise TypeError(f"{where}: got {type(value).__name__}, needs a number")


def _count(value: Any, where: str) -> int:
    number = _number(value, where)
    if not 0 <= number < 2**63 or number != int(number):
        raise ValueError(f"{where}: got {number:g}, needs a whole number of at least 0")
    return int(value) if isinstance(value, int) else int(number)


class _Loaded:
    """The saved state of one parameter, checked and converted, and where it goes."""

    def __init__(self, optimizer: Optimizer, index: int, saved: Any, where: str, merged: dict[str, Any]) -> None:
        about = RULES[optimizer.rule]
        self.slot = slot = optimizer._slots[index]
        self.where = where
        _needs(saved, Mapping, where, "a dict")
        foreign = sorted({s.name for rule in RULES.values() for s in rule.states} - {s.name for s in about.states})
        for name in foreign:
            if name in saved:
                raise ValueError(f'{where}: has an entry "{name}", which {optimizer.rule} has not')
        options = optimizer.param_groups[slot.group] | merged
        self.step = self._step(saved)
        fresh = optimizer._initial_scalars(options) or optimizer._model.get_scalars(index)
        self.scalars = [
            _number(saved[name], f'{where}["{name}"]') if name in saved else value
            for name, value in zip(about.scalars, fresh, strict=True)
        ]
        self.writes: list[tuple[Array, Array]] = []
        self.added: dict[str, Any] = {}
        small = slot.param.size < options["min_quantized_size"]
        used = about.used({name: options[name] for name in about.hypers})
        for state in about.states:
            values: Array | None = None
            if saved.get(state.name) is not None:
                stored = self._state(saved, state.name)
            elif self.step > 0 and state in used:
                raise ValueError(f'{where}: has no entry "{state.name}"')
            else:
                values = optimizer._initial_state(state.name, slot, options)
                stored = np.zeros(slot.param.shape, slot.compute) if values is None else values
            if state.name in slot.states:
                self._take(slot.states[state.name], self._as(slot.states[state.name], stored, state.kind))
            elif state in used:
                values = stored_values(stored, state.kind, slot.compute)
                self.added[state.name] = store_values(values, state.kind, options["state_format"], slot.compute, small)
        self._rest(saved)

    def _step(self, saved: Mapping[str, Any]) -> int:
        if "step" in saved:
            return _count(saved["step"], f'{self.where}["step"]')
        # torch.optim.SGD counts no steps: its velocity exists once the first was taken.
        return int(any(value is not None for value in saved.values()))

    def _array(self, saved: Mapping[str, Any], name: str) -> Array:
        try:
            array = np.asarray(saved[name])
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f'{self.where}["{name}"]: got {type(saved[name]).__name__}, needs an array') from error
        if not name.endswith("_scales") and array.shape != self.slot.param.shape:
            raise ValueError(
                f'{self.where}["{name}"]: got shape {array.shape}, needs {self.slot.param.shape}, '
                f"the shape of params{self.slot.path}"
            )
        return array

    def _state(self, saved: Mapping[str, Any], name: str) -> Any:
        """A state as it was saved: an array, or a pair of codes and scales."""
        array = self._array(saved, name)
        if f"{name}_scales" in saved:
            scales = self._array(saved, f"{name}_scales")
            if array.dtype != np.uint8 or scales.dtype != np.float32 or scales.size != -(-array.size // 256):
                raise ValueError(
                    f'{self.where}["{name}"]: got {array.dtype} codes and {scales.size} {scales.dtype} scales, '
                    f"needs uint8 codes and {-(-array.size // 256)} float32 scales"
                )
            return np.ascontiguousarray(array).reshape(array.shape), np.ascontiguousarray(scales).reshape(-1)
        if array.dtype.kind != "f" and not formats.is_bfloat16(array.dtype):
            raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs a float dtype')
        return array

    def _as(self, target: Any, stored: Any, kind: str) -> Any:
        """The values in the format of the array, or pair, they are written to."""
        if isinstance(stored, tuple) and isinstance(target, tuple):
            return stored
        if not isinstance(target, tuple) and not isinstance(stored, tuple) and stored.dtype == target.dtype:
            return stored
        narrow = "8bit" if isinstance(target, tuple) else "bfloat16" if formats.is_bfloat16(target.dtype) else "float32"
        values = stored_values(stored, kind, self.slot.compute)
        return store_values(values, kind, narrow, self.slot.compute, False)

    def _rest(self, saved: Mapping[str, Any]) -> None:
        slot = self.slot
        if slot.ema is not None:
            self._take(slot.ema, self._exact(saved, "ema", slot.ema.dtype, slot.param))
        if slot.master is None:
            return
        low = self._exact(saved, "remainder", np.dtype(np.int16), None)
        full = self._exact(saved, "master", np.dtype(np.float32), None)
        if slot.split and low is None and full is not None:
            # The master is the truth: where it lies halfway between two bfloat16, the parameter moves to the other.
            bits, low = formats.split(np.ascontiguousarray(full))
            self._take(slot.param, bits.view(slot.param.dtype))
        elif not slot.split and full is None and low is not None:
            full = formats.join(slot.param, np.ascontiguousarray(low))
        if slot.split:
            self._take(slot.master, np.zeros_like(slot.master) if low is None else low)
        else:
            self._take(slot.master, slot.param.astype(np.float32) if full is None else full)

    def _exact(self, saved: Mapping[str, Any], name: str, dtype: np.dtype[Any], otherwise: Array | None) -> Any:
        """An array that is not converted, or `otherwise` in its place."""
        if saved.get(name) is None:
            return None if otherwise is None else otherwise.astype(dtype)
        array = self._array(saved, name)
        if array.dtype != dtype:
            raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs {dtype}')
        return array

    def _take(self, target: Any, values: Any) -> None:
        if isinstance(target, tuple):
            self.writes += zip(target, values, strict=True)
        else:
            self.writes.append((target, values))

    def write(self) -> None:
        """Put everything in its place."""
        for target, values in self.writes:
            target[...] = values.reshape(target.shape)
        self.slot.states.update(self.added)
