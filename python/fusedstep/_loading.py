"""State dicts into optimizers: everything is checked before anything is changed."""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._arguments import needs_entries, same
from ._bounds import bounds
from ._floats import default_floats
from ._making import Making
from ._names import arranged, match, needs
from ._placing import pack_states
from ._saved import Loaded, LoadedGroup, Write, count
from ._settings import check_settings
from .reference import RULES

__all__ = ["load"]

Array = NDArray[Any]


@default_floats()
def load(optimizer: Making, state_dict: Mapping[str, Any], first: Callable[[], None] = lambda: None) -> None:
    """What `Optimizer.load_state_dict` does; `first` is called when all is checked, before states are written."""
    needs(state_dict, Mapping, "state_dict", "a dict")
    needs_entries("state_dict", state_dict, "state", "param_groups", needs="the state dict of an optimizer")
    states, own = state_dict["state"], state_dict.get("fusedstep", {})
    needs(states, Mapping, 'state_dict["state"]', "a dict")
    needs(own, Mapping, 'state_dict["fusedstep"]', "a dict")
    rule = RULES[optimizer.rule].name
    if not same(own.get("rule", rule), rule):
        raise ValueError(f"state_dict: got one of {own['rule']}, needs one of {rule}")
    names, saved_groups, schedules = optimizer._names(), state_dict["param_groups"], own.get("schedules", [])
    if own:
        places = arranged(saved_groups, names)
        if list(places) != list(range(len(names))):
            saved_groups = [saved_groups[i] for i in places]
            if isinstance(schedules, (list, tuple)) and len(schedules) == len(names):
                schedules = [schedules[i] for i in places]
    order = match(optimizer._slots, names, saved_groups, "fusedstep" in state_dict)
    known = set(order)
    strange = [number for number in states if number not in known]
    if strange:
        raise ValueError(f'state_dict["state"]: got an entry {strange[0]!r} that is in no group, needs those of groups')
    if "fusedstep" in state_dict:  # torch saves nothing for a parameter that never had a gradient
        needs_entries('state_dict["state"]', states, *order, needs="one for every parameter")

    groups = [LoadedGroup(optimizer, i, saved) for i, saved in enumerate(saved_groups)]
    loaded = [
        Loaded(optimizer, i, groups[slot.group], states.get(number, {}), f'state_dict["state"][{number!r}]')
        for i, (slot, number) in enumerate(zip(optimizer._slots, order, strict=True))
    ]
    settings = check_settings(optimizer._settings | {k: own[k] for k in optimizer._settings if k in own})
    oldest = max((entry.step for entry in loaded), default=0)
    taken = count(own.get("steps_taken", oldest), 'state_dict["fusedstep"]["steps_taken"]')
    skipped = count(own.get("skipped_steps", 0), 'state_dict["fusedstep"]["skipped_steps"]')
    accumulated = count(own.get("accumulated", 0), 'state_dict["fusedstep"]["accumulated"]')
    # As many as for a step: it was interrupted right before it, and is taken by the next call.
    if accumulated > (optimizer.accumulate_steps if optimizer.accumulate_steps > 1 else 0):
        raise ValueError(
            f'state_dict["fusedstep"]["accumulated"]: got {accumulated} gradients that are summed, needs at most '
            f"accumulate_steps={optimizer.accumulate_steps} of this optimizer, and 0 without sums"
        )
    writes = [write for entry in loaded for write in entry.writes]
    _check_targets(writes)
    copies = _copied_where_shared(writes)

    with contextlib.ExitStack() as undo:
        _load_schedules(optimizer, schedules, undo)
        model = optimizer._made_model()
        for name in ("_model", "_tree", "_settings", "skipped_steps"):
            undo.callback(setattr, optimizer, name, getattr(optimizer, name))
        undo.callback(setattr, model, "steps_taken", model.steps_taken)
        optimizer._settings, optimizer.skipped_steps = settings, skipped
        model.steps_taken = taken  # which schedules see
        for i, (group, merged) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            undo.callback(dict.update, group, dict(group))
            dict.update(group, merged.taken)
            optimizer._check_together(group, i)
        numbers = _numbers(optimizer, order, "fusedstep" in state_dict)
        undo.callback(_renumber, optimizer, [slot.number for slot in optimizer._slots], optimizer._next_number)
        _renumber(optimizer, numbers, max(numbers, default=-1) + 1)
        extended = [entry for entry in loaded if entry.added]
        new = [entry.new_states() for entry in extended]
        pack_states(new, optimizer._memory, optimizer._near())
        for entry, made in zip(extended, new, strict=True):
            entry.fill(made.states)
            undo.callback(setattr, entry.slot, "states", entry.slot.states)
            entry.slot.states = entry.slot.states | made.states
        if extended:
            optimizer._taken = None
            undo.callback(setattr, optimizer._progress, "model", model)
            model = optimizer._build([entry.step for entry in loaded], [entry.scalars for entry in loaded], taken)
        first()
        undo.pop_all()

    # From here on nothing fails.
    for write in writes:
        write.run(*copies.get(id(write), write.sources))
    optimizer._configure()
    received = frozenset(i for i, entry in enumerate(loaded) if entry.received and accumulated)
    optimizer._summed.count, optimizer._summed.received = accumulated, received
    for i, entry in enumerate(loaded):
        model.set_index(i, entry.slot.number)
        model.set_step(i, entry.step)
        model.set_scalars(i, entry.scalars)
    optimizer._loaded()


def _numbers(optimizer: Making, saved: Sequence[Any], own: bool) -> list[int]:
    """The numbers by which parameters have their noise: the saved ones, so that a run goes on as it would have."""
    if own and all(isinstance(number, (int, np.integer)) and 0 <= number < 2**32 for number in saved):
        return [int(number) for number in saved]
    return [slot.number for slot in optimizer._slots]


def _renumber(optimizer: Making, numbers: Sequence[int], following: int) -> None:
    for slot, number in zip(optimizer._slots, numbers, strict=True):
        slot.number = number
    optimizer._next_number = following


# ------------------------------------------------------------------------------------------------ groups and schedules


def _load_schedules(optimizer: Making, saved: Any, undo: contextlib.ExitStack) -> None:
    """Give schedules what they remembered."""
    where = 'state_dict["fusedstep"]["schedules"]'
    needs(saved, (list, tuple), where, "a list")
    for i, (group, states) in enumerate(zip(optimizer.param_groups, saved, strict=False)):
        needs(states, Mapping, f"{where}[{i}]", "a dict")
        for name, state in states.items():
            schedule = group.get(name)
            if callable(schedule) and hasattr(schedule, "load_state_dict"):
                undo.callback(schedule.load_state_dict, schedule.state_dict())
                schedule.load_state_dict(state)


# ---------------------------------------------------------------------------------------------------------- memory


def _check_targets(writes: Sequence[Write]) -> None:
    for write in writes:
        for target in write.targets:
            if not target.flags.writeable:
                raise ValueError(
                    f"{write.where}: the optimizer's array was made read-only since it was made, needs a writeable one"
                )


def _copied_where_shared(writes: Sequence[Write]) -> dict[int, list[Array]]:
    """Copies of the arrays that lie in memory which loading writes: the optimizer's own, from `Optimizer.state`."""
    written = sorted(bounds(target) for write in writes for target in write.targets if target.size)
    owned = any(target.flags.owndata for write in writes for target in write.targets)
    copies: dict[int, list[Array]] = {}
    for write in writes:
        # An array with memory of its own shares none with states, which lie in blocks.
        in_memory = [source for source in write.sources if isinstance(source, np.ndarray)]
        suspects = [source for source in in_memory if source.size and (owned or not source.flags.owndata)]
        for source in suspects:
            begin, end = bounds(source)
            after = bisect.bisect_right(written, begin, key=lambda extent: extent[1])
            if after < len(written) and written[after][0] < end:
                copies[id(write)] = [np.array(array) for array in write.sources]
                break
    return copies
