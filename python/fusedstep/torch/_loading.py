"""State dicts, this package's and torch's, into an optimizer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from torch import Tensor

from .._arguments import needs_entries, same
from .._names import needs
from .._settings import check_settings
from .._step_options import GROUP_OPTIONS
from ..reference import RULES
from ._making import Making
from ._options import check_group
from ._saved import converted
from ._states import States, whole_number

__all__ = ["load"]

GROUPS = 'state_dict["param_groups"]'
UNUSED = {"capturable": False, "differentiable": False}  # options of implementations that there are none of here


def load(optimizer: Making, state_dict: Mapping[str, Any]) -> None:
    """What ``load_state_dict`` does: check and convert everything, then put it in place."""
    needs(state_dict, Mapping, "state_dict", "a dict")
    state_dict = dict(state_dict)
    for pre_hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        if (changed := pre_hook(optimizer, state_dict)) is not None:
            state_dict = changed
    needs_entries("state_dict", state_dict, "state", "param_groups", needs="the state dict of an optimizer")
    needs(state_dict["state"], Mapping, 'state_dict["state"]', "a dict")
    settings, skipped = _own_entry(optimizer, state_dict.get("fusedstep", {}))
    optimizer._check_edited()
    places = _places(optimizer.param_groups, state_dict["param_groups"])
    merged = _merged(optimizer, state_dict["param_groups"])
    state = States()
    for key, values in state_dict["state"].items():
        if key in places:
            param, number = places[key]
            state[param] = converted(optimizer, param, merged[number], values, f'state_dict["state"][{key!r}]')
        else:
            state[key] = values

    before = dict(optimizer.__dict__)
    try:
        optimizer.__setstate__({"state": state, "param_groups": merged})
    except BaseException:
        optimizer.__dict__.clear()
        optimizer.__dict__.update(before)
        raise
    optimizer._expose(False)  # all tensors are copies that nobody else has
    optimizer.skipped_steps = skipped
    optimizer._settings = settings
    for post_hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        post_hook(optimizer)


def _own_entry(optimizer: Making, own: Any) -> tuple[dict[str, Any], int]:
    """What torch has no place for, checked: the settings and the number of skipped steps."""
    where = 'state_dict["fusedstep"]'
    needs(own, Mapping, where, "a dict")
    name, mine = own.get("rule", optimizer.rule), RULES[optimizer.rule]
    other = RULES.get(name) if isinstance(name, str) else None
    if other is None or (tuple(other.hypers), other.states) != (tuple(mine.hypers), mine.states):
        raise ValueError(f'{where}["rule"]: got {name!r}, needs {optimizer.rule!r}')
    settings = dict(optimizer._settings)
    for key in settings.keys() & own.keys():
        try:
            settings = check_settings(settings | {key: own[key]})
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
    return settings, whole_number(own.get("skipped_steps", optimizer.skipped_steps), f'{where}["skipped_steps"]')


# ---- parameter groups ----


def _places(groups: list[dict[str, Any]], saved: Any) -> dict[Any, tuple[Tensor, int]]:
    """The parameter that each saved number stands for, and the number of its group."""
    needs(saved, (list, tuple), GROUPS, "a list of dicts")
    if len(groups) != len(saved):
        raise ValueError(
            f"loaded state dict has a different number of parameter groups: got {len(saved)}, needs {len(groups)}"
        )
    places: dict[Any, tuple[Tensor, int]] = {}
    for i, (group, entry) in enumerate(zip(groups, saved, strict=True)):
        where = f"{GROUPS}[{i}]"
        needs(entry, Mapping, where, "a dict")
        numbers = entry.get("params")
        needs(numbers, (list, tuple), f'{where}["params"]', "a list of parameter numbers")
        params = group["params"]
        if len(params) != len(numbers):
            raise ValueError(
                "loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                f"group {i} has {len(numbers)} parameters, needs {len(params)}"
            )
        for number, param in zip(numbers, _in_order_of(entry, group, where), strict=True):
            needs(number, Hashable, f'{where}["params"]', "a list of parameter numbers")
            if places.setdefault(number, (param, i))[0] is not param:
                raise ValueError(f'{where}["params"]: got {number!r} twice, needs a number for each parameter')
    return places


def _in_order_of(saved: Mapping[str, Any], group: dict[str, Any], where: str) -> Sequence[Tensor]:
    """The group's parameters in the order of the saved ones: by name if both have names."""
    params, names, theirs = group["params"], group.get("param_names"), saved.get("param_names")
    if names is None or theirs is None or len(names) != len(params):
        return list(params)
    needs(theirs, (list, tuple), f'{where}["param_names"]', "a list of names")
    for name in theirs:
        needs(name, str, f'{where}["param_names"]', "a list of names")
    here = dict(zip(names, params, strict=True))
    missing, strange = sorted(here.keys() - set(theirs)), sorted(set(theirs) - here.keys())
    if missing or strange or len(theirs) != len(names):
        raise ValueError(
            f'{where}["param_names"]: got {strange or "no others"} that the optimizer does not have, needs '
            f"{missing or 'each name once'}; without param_names in the dict parameters are matched by position"
        )
    return [here[name] for name in theirs]


def _merged(optimizer: Making, saved: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The groups as they will be: saved options, but for storage formats, and torch's defaults for missing ones."""
    merged = []
    for i, (group, entry) in enumerate(zip(optimizer.param_groups, saved, strict=True)):
        if "rule" in optimizer.kept_options and not same(entry.get("rule", group["rule"]), group["rule"]):
            raise ValueError(f'{GROUPS}[{i}]["rule"]: got {entry["rule"]!r}, needs {group["rule"]!r}')
        kept = {key: group[key] for key in ("params", *optimizer.kept_options) if key in group}
        names = {key: source[key] for source in (entry, group) for key in ("param_names",) if key in source}
        own = {name: group.get(name, value) for name, value in optimizer._own_of(group).items()}
        taken = {key: value for key, value in entry.items() if key != "params"}
        unused = {key: value for key, value in UNUSED.items() if key in entry}
        merged.append({**own, **deepcopy(taken), **unused, **kept, **names})
    optimizer._with_torchs_defaults(merged)
    for i, new in enumerate(merged):
        where, rule = f"{GROUPS}[{i}]", optimizer._rule_of(new)
        needs_entries(where, new, *RULES[rule].hypers, *GROUP_OPTIONS)
        check_group(rule, new, f'{where}["{{}}"]')
    return merged
