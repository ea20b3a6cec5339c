"""Optimizers to state dicts, in the keys and layout of ``torch.optim``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from ._converting import constant, convert
from ._core import Model
from ._floats import default_floats
from ._placing import like
from ._slots import Slot
from ._views import progress
from .reference import RULES, State

__all__ = ["Content", "save"]


class Content(NamedTuple):
    """What there is to save of an optimizer.

    Attributes
    ----------
    slots, groups, rules
        Parameters with their states, parameter groups, and the rule of each group.
    names
        Of the parameters, group by group.
    model
        Holds step counts and scalar states.
    summed
        Numbers of the parameters that have a sum of gradients.
    rule, counts, settings
        What torch has no place for: the optimizer's rule, numbers by name, and options of the whole optimizer.
    now
        What a value of a group is, a schedule's too.
    """

    slots: Sequence[Slot]
    groups: Sequence[Mapping[str, Any]]
    rules: Sequence[str]
    names: Sequence[Sequence[str]]
    model: Model
    summed: frozenset[int]
    rule: str
    counts: Mapping[str, int]
    settings: Mapping[str, Any]
    now: Callable[[Any], Any]


class NoArray(dict[str, Any]):
    """A dict that ``np.savez(file, **state_dict)`` refuses; copies of it are plain dicts.

    NumPy would take a dict for an array of one object and pickle it, and ``np.load`` refuses such a file.
    """

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            "state_dict: got a call that makes arrays of nested dicts, as numpy.savez does, needs one that keeps them; "
            'optimizer.save("run.npz") writes a file, and optimizer.load reads it'
        )

    def __reduce_ex__(self, protocol: Any) -> Any:
        return dict, (), None, None, iter(self.items())


@default_floats()
def save(content: Content, state_format: str | None, copies: bool = True) -> dict[str, Any]:
    """What `Optimizer.state_dict` returns; without `copies`, with the live arrays."""
    steps, scalars, taken = progress(content.model)
    states: dict[int, dict[str, Any]] = {}
    for i, slot in enumerate(content.slots):
        rule = RULES[content.rules[slot.group]]
        arrays = Slot(slot.param, slot.path, slot.group, dict(slot.states), slot.master, slot.ema)
        for state in rule.states:
            if state_format is not None and state.name in slot.states:
                arrays.states[state.name] = _in_format(slot, state, state_format, content.groups[slot.group])
        entries = {"step": steps[i], **dict(arrays.items()), **dict(zip(rule.scalars, scalars[i], strict=True))}
        for name, array in slot.items():
            if copies and entries.get(name) is array:
                entries[name] = array.copy()
        if i in content.summed:
            assert slot.grad_sum is not None
            entries["grad_sum"] = slot.grad_sum.copy() if copies else slot.grad_sum
        states[slot.number] = entries

    groups, schedules = [], []
    numbers: list[list[int]] = [[] for _ in content.groups]
    for slot in content.slots:
        numbers[slot.group].append(slot.number)
    for group, names, params in zip(content.groups, content.names, numbers, strict=True):
        # Copies: numbers may be arrays and lists, which the caller changes later.
        plain = {k: copy.deepcopy(content.now(v)) for k, v in group.items() if k != "params"}
        groups.append({**plain, "params": params, "param_names": names})
        schedules.append({k: v.state_dict() for k, v in group.items() if callable(v) and hasattr(v, "state_dict")})
    own = {"rule": content.rule, "steps_taken": taken, **content.counts, "schedules": schedules, **content.settings}
    return {"fusedstep": NoArray(own), "state": states, "param_groups": groups}


def _in_format(slot: Slot, state: State, state_format: str, group: Mapping[str, Any]) -> Any:
    """A state in another storage format, or the array itself if it is in this one."""
    stored = slot.states[state.name]
    shape = (stored[0] if isinstance(stored, tuple) else stored).shape
    target = constant(0.0, slot, state.kind, state_format, slot.is_small(group), shape)
    if not isinstance(stored, tuple) and not isinstance(target, tuple) and stored.dtype == target.dtype:
        return stored
    target = like(target)
    convert(target, stored, state.kind)
    return target
