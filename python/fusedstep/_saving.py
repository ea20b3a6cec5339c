"""Optimizers to state dicts, in the keys and layout of ``torch.optim``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from ._core import Model
from ._floats import default_floats
from ._names import param_names
from ._slots import Slot, constant, convert, like
from .reference import RULES, State

if TYPE_CHECKING:
    from ._base import Optimizer

__all__ = ["for_file", "progress", "save"]


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


def progress(model: Model) -> tuple[list[int], list[list[float]], int]:
    """Step counts and scalar states of every parameter, and the optimizer's own count of steps."""
    every = range(len(model))
    return [model.get_step(i) for i in every], [model.get_scalars(i) for i in every], model.steps_taken


@default_floats()
def save(optimizer: Optimizer, state_format: str | None, copies: bool = True) -> dict[str, Any]:
    """What `Optimizer.state_dict` returns; without `copies`, with the live arrays."""
    steps, scalars, taken = progress(optimizer._model)
    states: dict[int, dict[str, Any]] = {}
    for i, slot in enumerate(optimizer._slots):
        about = RULES[optimizer._rule_of(optimizer.param_groups[slot.group])]
        arrays = Slot(slot.param, slot.path, slot.group, dict(slot.states), slot.master, slot.ema)
        for state in about.states:
            if state_format is not None and state.name in slot.states:
                arrays.states[state.name] = _in_format(slot, state, state_format, optimizer.param_groups[slot.group])
        entries = {"step": steps[i], **dict(arrays.items()), **dict(zip(about.scalars, scalars[i], strict=True))}
        for name, array in slot.items():
            if copies and entries.get(name) is array:
                entries[name] = array.copy()
        if i in optimizer._summed.received:
            assert slot.grad_sum is not None
            entries["grad_sum"] = slot.grad_sum.copy() if copies else slot.grad_sum
        states[slot.number] = entries

    groups, schedules = [], []
    numbers: list[list[int]] = [[] for _ in optimizer.param_groups]
    for slot in optimizer._slots:
        numbers[slot.group].append(slot.number)
    for group, names, params in zip(optimizer.param_groups, param_names(optimizer), numbers, strict=True):
        plain = {k: optimizer._now(v) for k, v in group.items() if k != "params"}
        groups.append({**plain, "params": params, "param_names": names})
        schedules.append({k: v.state_dict() for k, v in group.items() if callable(v) and hasattr(v, "state_dict")})
    own = NoArray(
        {
            "rule": optimizer.rule,
            "steps_taken": taken,
            "skipped_steps": optimizer.skipped_steps,
            **({"accumulated": optimizer.accumulated} if optimizer.accumulated else {}),
            "schedules": schedules,
            **optimizer._settings,
        }
    )
    return {"fusedstep": own, "state": states, "param_groups": groups}


def for_file(optimizer: Optimizer) -> tuple[dict[str, Any], dict[tuple[Any, ...], str]]:
    """The state dict with the live arrays, and what files call each parameter's, by its place in a file's tree."""
    names: dict[tuple[Any, ...], str] = {
        ("optimizer", "state", slot.number): f"optimizer{slot.path}" for slot in optimizer._slots
    }
    return save(optimizer, None, copies=False), names


def _in_format(slot: Slot, state: State, state_format: str, group: Mapping[str, Any]) -> Any:
    """A state in another storage format, or the array itself if it is in this one."""
    stored = slot.states[state.name]
    target = constant(0.0, slot, state.kind, state_format, slot.is_small(group))
    if not isinstance(stored, tuple) and not isinstance(target, tuple) and stored.dtype == target.dtype:
        return stored
    target = like(target)
    convert(target, stored, state.kind)
    return target
