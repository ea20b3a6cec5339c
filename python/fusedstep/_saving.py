"""Optimizers to state dicts and back, in the keys and layout of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _hyper
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
        schedules.append(
            {k: v.state_dict() for k, v in group.items() if callable(v) and hasattr(v, "state_dict")}
        )
    own = {
        "rule": optimizer.rule,
        "steps_taken": optimizer.steps_taken,
        "skipped_steps": optimizer.skipped_steps,
        "schedules": schedules,
        **optimizer._settings,
    }
    return {"state": states, "param_groups": groups, "fusedstep": own}


def load(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """What `Optimizer.load_state_dict` does: check everything, then write."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict: got {type(state_dict).__name__}, needs a dict")
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f'state_dict: has no entry "{key}"; it is not the state dict of an optimizer')
    own = state_dict.get("fusedstep", {})
    if own.get("rule", optimizer.rule) != optimizer.rule:
        raise ValueError(f"state_dict: is of {own['rule']}, needs one of {optimizer.rule}")
    order = _check_groups(optimizer, state_dict["param_groups"])
    groups = [_merged(optimizer, i, saved) for i, saved in enumerate(state_dict["param_groups"])]
    loaded = [
        _Loaded(optimizer, i, state_dict["state"].get(number, {}), groups[slot.group])
        for i, (slot, number) in enumerate(zip(optimizer._slots, order, strict=True))
    ]
    # Everything fits: from here on nothing fails.
    for group, merged in zip(optimizer.param_groups, groups, strict=True):
        group.update(merged)
    for entry in loaded:
        entry.write()
    model = optimizer._model
    for i, entry in enumerate(loaded):
        model.set_step(i, entry.step)
        model.set_scalars(i, entry.scalars)
    model.steps_taken = int(own.get("steps_taken", max((entry.step for entry in loaded), default=0)))
    optimizer.skipped_steps = int(own.get("skipped_steps", 0))
    optimizer._settings = optimizer._settings | {k: own[k] for k in optimizer._settings if k in own}
    optimizer._configure()
    for group, saved in zip(optimizer.param_groups, own.get("schedules", []), strict=False):
        for name, state in saved.items():
            if callable(group.get(name)) and hasattr(group[name], "load_state_dict"):
                group[name].load_state_dict(state)


def _check_groups(optimizer: Optimizer, saved: Any) -> list[Any]:
    """Check that groups agree in number and size; return the saved parameters' numbers in order."""
    groups = optimizer.param_groups
    if len(saved) != len(groups):
        raise ValueError(f"state_dict: has {len(saved)} parameter groups, needs {len(groups)}")
    order: list[Any] = []
    for i, entry in enumerate(saved):
        count = sum(slot.group == i for slot in optimizer._slots)
        if len(entry["params"]) != count:
            raise ValueError(
                f'state_dict["param_groups"][{i}]: has {len(entry["params"])} parameters, needs {count}'
            )
        order.extend(entry["params"])
    return order


def _merged(optimizer: Optimizer, number: int, saved: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters a group takes over, checked; what torch knows and this package does not is left out."""
    group = optimizer.param_groups[number]
    taken = {}
    for name, value in saved.items():
        if name == "params" or name in STORAGE or name not in group or callable(group[name]):
            continue
        where = f'state_dict["param_groups"][{number}]["{name}"]'
        plain = value.item() if hasattr(value, "item") else value
        taken[name] = _hyper.check_hyper(name, plain, where, rule=optimizer.rule)
    return taken


class _Loaded:
    """The saved state of one parameter, checked and converted, and where it goes."""

    def __init__(self, optimizer: Optimizer, index: int, saved: Mapping[str, Any], group: dict[str, Any]) -> None:
        about = RULES[optimizer.rule]
        self.slot = slot = optimizer._slots[index]
        self.where = f'state_dict["state"][{index}]'
        options = optimizer.param_groups[slot.group]
        self.step = self._step(saved)
        kept = optimizer._model.get_scalars(index)
        fresh = optimizer._initial_scalars(options) or kept
        self.scalars = [
            float(np.asarray(saved.get(name, value)).reshape(-1)[0])
            for name, value in zip(about.scalars, fresh, strict=True)
        ]
        self.writes: list[tuple[Array, Array]] = []
        small = slot.param.size < options["min_quantized_size"]
        for state in about.states:
            if state.name not in slot.states:
                continue
            target = slot.states[state.name]
            if saved.get(state.name) is None:
                if self.step > 0:
                    raise ValueError(f'{self.where}: has no entry "{state.name}"')
                first = optimizer._initial_state(state.name, slot, options)
                values = np.zeros(slot.param.shape, slot.compute) if first is None else first
                self._take(target, store_values(values, state.kind, options["state_format"], slot.compute, small))
                continue
            self._take(target, self._state(saved, state.name, state.kind, target, options, small))
        self._rest(saved)

    def _step(self, saved: Mapping[str, Any]) -> int:
        if "step" in saved:
            step = float(np.asarray(saved["step"]).reshape(-1)[0])
            if step != int(step) or step < 0:
                raise ValueError(f'{self.where}["step"]: got {step}, needs a whole number of at least 0')
            return int(step)
        # torch.optim.SGD counts no steps: its velocity exists once the first was taken.
        return int(any(value is not None for value in saved.values()))

    def _array(self, saved: Mapping[str, Any], name: str) -> Array:
        array = np.asarray(saved[name])
        if name.endswith("_scales"):
            return array
        if array.shape != self.slot.param.shape:
            raise ValueError(
                f'{self.where}["{name}"]: got shape {array.shape}, needs {self.slot.param.shape}, '
                f"the shape of params{self.slot.path}"
            )
        return array

    def _state(
        self, saved: Mapping[str, Any], name: str, kind: str, target: Any, options: dict[str, Any], small: bool
    ) -> Any:
        array = self._array(saved, name)
        stored: Any = array
        if f"{name}_scales" in saved:
            scales = self._array(saved, f"{name}_scales")
            if array.dtype != np.uint8 or scales.dtype != np.float32 or scales.size != -(-array.size // 256):
                raise ValueError(
                    f'{self.where}["{name}"]: got {array.dtype} codes and {scales.size} {scales.dtype} scales, '
                    f"needs uint8 codes and {-(-array.size // 256)} float32 scales"
                )
            stored = (np.ascontiguousarray(array), np.ascontiguousarray(scales))
        elif array.dtype.kind not in "fV":
            raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs a float dtype')
        same = isinstance(stored, tuple) == isinstance(target, tuple)
        if same and (isinstance(target, tuple) or stored.dtype == target.dtype):
            return stored
        values = stored_values(stored, kind, self.slot.compute)
        return store_values(values, kind, options["state_format"], self.slot.compute, small)

    def _rest(self, saved: Mapping[str, Any]) -> None:
        slot = self.slot
        for name, target in (("remainder" if slot.split else "master", slot.master), ("ema", slot.ema)):
            if target is None:
                continue
            if saved.get(name) is not None:
                array = self._array(saved, name)
                if array.dtype != target.dtype:
                    raise TypeError(f'{self.where}["{name}"]: got {array.dtype}, needs {target.dtype}')
                self._take(target, array)
            elif slot.split:
                self._take(target, np.zeros_like(target))
            else:
                self._take(target, slot.param.astype(target.dtype))

    def _take(self, target: Any, values: Any) -> None:
        if isinstance(target, tuple):
            self.writes += zip(target, values, strict=True)
        else:
            self.writes.append((target, values))

    def write(self) -> None:
        """Put everything in its place."""
        for target, values in self.writes:
            target[...] = values.reshape(target.shape)
