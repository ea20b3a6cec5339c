"""Docstrings in numpydoc's form: what many have in common is written once."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from textwrap import indent

__all__ = ["sections", "with_parameters"]

TITLE = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.M)
ENTRY = re.compile(r"^(?=[\w*])", re.M)
LAST = ("Notes", "References", "Examples")


def sections(text: str | None) -> dict[str, str]:
    """The sections of a docstring by title, without empty lines around them; the text before the first has none.

    Examples
    --------
    >>> sections("Take a step.\\n\\nParameters\\n----------\\nlr\\n    Learning rate.")
    {'': 'Take a step.', 'Parameters': 'lr\\n    Learning rate.'}
    """
    first, *rest = TITLE.split(inspect.cleandoc(text or ""))
    return {"": first.strip("\n")} | {
        title: body.strip("\n") for title, body in zip(rest[::2], rest[1::2], strict=True)
    }


def with_parameters(
    text: str | None, names: Sequence[str], common: Mapping[str, str], more: Mapping[str, str] | None = None
) -> str:
    """A docstring whose ``Parameters`` are complete and in order.

    Parameters
    ----------
    text
        A docstring.
    names
        The parameters in order.
    common
        What is said of those that the text does not describe. Neighbours with one text share it.
    more
        Further sections.
    """
    found = sections(text) | dict(more or {})
    own = {}
    for entry in ENTRY.split(found.get("Parameters", "")):
        for name in entry.partition("\n")[0].split(","):
            own[name.partition(":")[0].strip()] = entry.rstrip("\n")
    entries: list[tuple[list[str], str]] = []
    for name in names:
        described = own.get(name, common.get(name, ""))
        if entries and entries[-1][1] == described:
            entries[-1][0].append(name)
        elif described and (name not in own or all(text != described for _, text in entries)):
            entries.append(([name], described))
    found["Parameters"] = "\n".join(
        described if shared[0] in own else f"{', '.join(shared)}\n{indent(described, '    ')}"
        for shared, described in entries
    )
    first = ("Parameters", "Other Parameters", "Returns", "Raises")
    order = [*first, *(title for title in found if title not in ("", *first, *LAST)), *LAST]
    parts = [f"{title}\n{'-' * len(title)}\n{found[title]}" for title in order if found.get(title)]
    return "\n\n".join([found[""], *parts])
