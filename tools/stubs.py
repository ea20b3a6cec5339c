"""Writes the stubs of what is made of the rules: type checkers, editors and the site read its signatures there.

`python tools/stubs.py` writes them into python/fusedstep. That of torch's classes has the installed torch's signatures.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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
    return f"{parameter.name}: {retype(parameter.name, kind)} = {parameter.default!r}"


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


def formatted(text: str) -> str:
    """The text as ruff formats it."""
    for command in (["check", "--fix-only", "--select=I"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename=stub.pyi", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


if __name__ == "__main__":
    for name, write in STUBS.items():
        (ROOT / "python" / "fusedstep" / name).write_text(formatted(write()), encoding="utf-8")
