"""The hyper-parameters of all groups as numbers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._arguments import needs_entries
from ._hyper import FLAGS, check_hyper
from ._step_options import GROUP_VALUES
from .reference import RULES

__all__ = ["numbers"]


def numbers(
    rules: Sequence[str], groups: Sequence[Mapping[str, Any]], now: Callable[[Any], Any] = lambda value: value
) -> dict[str, float]:
    """The hyper-parameters of all groups that are numbers; `now` gives a schedule's value."""
    found: dict[str, float] = {}
    names = dict.fromkeys(name for rule in rules for name in RULES[rule].hypers)
    for name in (*names, *GROUP_VALUES):
        for i, (group, rule) in enumerate(zip(groups, rules, strict=True)):
            if name in FLAGS or name not in (*RULES[rule].hypers, *GROUP_VALUES):
                continue
            needs_entries(f"param_groups[{i}]", group, name)
            value: Any = check_hyper(name, now(group[name]), f'param_groups[{i}]["{name}"]', rule=rule)
            parts = {f"[{k}]": part for k, part in enumerate(value)} if isinstance(value, tuple) else {"": value}
            suffix = f"/{i}" * (len(groups) > 1)
            found.update({name + part + suffix: number for part, number in parts.items() if number is not None})
    return found
