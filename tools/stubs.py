"""Writes what is made of the rules and of the table of step options where type checkers, editors and the site read it.

`python tools/stubs.py` writes stubs into python/fusedstep, where that of torch's classes has the installed torch's
signatures, and the types and texts of the step options into the sources and docs/step_options.md.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from textwrap import indent
from types import ModuleType
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
HEAD = "# Written by tools/stubs.py.\n"


def text_of(parameter: inspect.Parameter, retype: Callable[[str, str], str]) -> str:
    """One parameter as source."""
    if parameter.name == "self":
        return "self"
    if parameter.name == "params":
        return "params: Params"
    given = parameter.annotation
    kind = given if isinstance(given, str) else inspect.formatannotation(given).replace("torch.Tensor", "Tensor")
    if parameter.kind is parameter.VAR_KEYWORD:
        return f"**{parameter.name}: {kind}"
    shown = repr(parameter.default)
    return f"{parameter.name}: {retype(parameter.name, kind)} = {'...' if shown == 'inf' else shown}"


def function(name: str, shown: inspect.Signature, retype: Callable[[str, str], str]) -> str:
    """A function without its body."""
    parts, keyword = [], False
    for parameter in shown.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            parts.append("*")
            keyword = True
        parts.append(text_of(parameter, retype))
    return f"def {name}({', '.join(parts)}) -> {shown.return_annotation}: ..."


def classes(module: ModuleType, retype: Callable[[str, str], str]) -> str:
    """The classes of a package: those with a constructor that was made, and imports of all else that it exports."""
    imports, made = set(), []
    for name in sorted(module.__all__):
        found = getattr(module, name)
        home = found.__module__.removeprefix(module.__name__).removeprefix(".")
        outside = home.startswith("fusedstep")
        shown = getattr(vars(found).get("__init__"), "__signature__", None)
        if shown is None or outside:
            source = "." + found.__module__.removeprefix("fusedstep") if outside else f".{home}"
            imports.add(f"from {source} import {name} as {name}")
        else:
            imports.add(f"from . import {home}")
            made.append(f"class {name}({home}.{name}):\n    {function('__init__', shown, retype)}\n")
    names = ", ".join(f'"{name}"' for name in sorted(module.__all__))
    return "\n".join([*sorted(imports), f"__all__ = [{names}]", *made])


def for_numpy() -> str:
    """The stub of `fusedstep.optimizers`."""
    import fusedstep.optimizers as module

    def retype(_: str, kind: str) -> str:
        return "Number" if kind == "float" else kind

    head = "from typing_extensions import Unpack\nfrom .._base import Number, Options, Structure as Params\n"
    return HEAD + head + classes(module, retype)


def for_torch() -> str:
    """The stub of `fusedstep.torch`."""
    import fusedstep.torch as module

    def retype(name: str, kind: str) -> str:
        return "float | Tensor" if name == "lr" else kind

    head = "from torch import Tensor\nfrom typing_extensions import Unpack\nfrom ._options import Own\n"
    return HEAD + head + "from .optimizers import Params\n" + classes(module, retype)


def for_jax() -> str:
    """The stub of `fusedstep.jax.optimizers`."""
    import fusedstep.jax.optimizers as module

    def retype(_: str, kind: str) -> str:
        return "Numbers" if kind.startswith("tuple") else re.sub(r"^(float|int)$", "Number", kind)

    head = "from typing_extensions import Unpack\nfrom ._options import Number, Numbers, Options\n"
    head += "from ._optimizer import Optimizer\n"
    made = [(name, getattr(module, name)) for name in module.__all__]
    texts = [
        function(name, make.__signature__, retype).replace(": ...", f':\n    """{make.__doc__}"""')
        for name, make in made
    ]
    names = ", ".join(f'"{name}"' for name, _ in made)
    return HEAD + head + f"__all__ = [{names}]\n" + "\n".join(texts)


STUBS = {"optimizers/__init__.pyi": for_numpy, "torch/__init__.pyi": for_torch, "jax/optimizers.pyi": for_jax}


def types(face: str) -> str:
    """The options of a face as the entries of a TypedDict."""
    from fusedstep._step_options import STEP_OPTIONS

    entries = []
    for option in STEP_OPTIONS:
        if face in option.faces and (face, option.name) != ("torch", "maximize"):  # which torch's own classes have
            kind = option.arrays[0] if option.arrays is not None and face == "functions" else option.type
            kind = kind.replace("float |", "Number |") if face == "jax" else kind  # there also an array or a function
            entries.append(f"    {option.name}: {kind}")
    return "\n".join(entries)


def docstring() -> str:
    """The options in the docstring of `Optimizer`."""
    from fusedstep._step_options import described

    return indent(described("numpy"), "    ")


def table() -> str:
    """The rows of the table in docs/step_options.md."""
    from fusedstep._step_options import STEP_OPTIONS

    rows = []
    for option in STEP_OPTIONS:
        if option.faces != ("functions",):
            scope = {"storage": "group, when made", "constructor": "optimizer, when made"}.get(option.per, option.per)
            default = repr(option.default).replace("'", '"')
            text = option.text.replace("``", "`").replace("|", "\\|")
            rows.append(f"| `{option.name}={default}` | {text} | {scope} | {', '.join(option.faces)} |")
    return "\n".join(rows)


class Section(NamedTuple):
    """Lines of a file, what stands before and behind them, and who writes them."""

    path: str
    before: str
    behind: str
    write: Callable[[], str]

    def find(self) -> tuple[str, str, str]:
        """The file: up to the lines, the lines, and what follows."""
        text = (ROOT / self.path).read_text(encoding="utf-8")
        assert text.count(self.before) == 1, f"{self.path}: needs {self.before!r} once"
        head, _, rest = text.partition(self.before)
        end = rest.index(self.behind)
        return head + self.before, rest[:end], rest[end:]


TYPES = "    # the table of step options, by tools/stubs.py\n"
SECTIONS = {
    "types of functions": Section("python/fusedstep/reference/_rule.py", TYPES, "\n\n", partial(types, "functions")),
    "types": Section("python/fusedstep/_group_options.py", TYPES, "\n\n", partial(types, "numpy")),
    "types of torch": Section("python/fusedstep/torch/_options.py", TYPES, "\n    eps_root", partial(types, "torch")),
    "types of jax": Section("python/fusedstep/jax/_options.py", TYPES, "\n    mask", partial(types, "jax")),
    "docstring": Section(
        "python/fusedstep/_base.py", "for groups that do not give theirs.\n", "\n\n    Notes\n", docstring
    ),
    "page": Section(
        "docs/step_options.md", "| option | effect | scope | taken by |\n|---|---|---|---|\n", "\n\n", table
    ),
}


def formatted(text: str) -> str:
    """The text as ruff formats it."""
    for command in (["check", "--fix-only", "--select=I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename=stub.pyi", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


if __name__ == "__main__":
    for name, write in STUBS.items():
        (ROOT / "python" / "fusedstep" / name).write_text(formatted(write()), encoding="utf-8")
    for section in SECTIONS.values():
        head, _, rest = section.find()
        (ROOT / section.path).write_text(head + section.write() + rest, encoding="utf-8")
