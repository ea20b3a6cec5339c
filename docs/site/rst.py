"""Docstrings of the API pages: directives and roles of reStructuredText, as Markdown."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
from typing import Any

import griffe

COMPLETED = ("fusedstep.reference.", "fusedstep.optimizers.")
BLOCK = re.compile(r"^( *)\.\. math::[ ]*(.*)\n((?:\1 +.*\n|[ ]*\n)*)", re.M)


def to_markdown(text: str) -> str:
    """Formulas between dollars, and code in single backticks."""

    def block(found: re.Match[str]) -> str:
        lines = textwrap.dedent(found[2] + "\n" + found[3]).strip()
        if "&" in lines or r"\\" in lines:
            lines = rf"\begin{{split}}{lines}\end{{split}}"
        return f"{found[1]}$$\n{textwrap.indent(lines, found[1])}\n{found[1]}$$\n\n"

    text = BLOCK.sub(block, text + "\n").rstrip("\n")
    text = re.sub(r":math:`([^`]+)`", r"$\1$", text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def completed(obj: griffe.Object) -> str:
    """The docstring as `help` shows it: the package writes what is common to all rules, and to their classes, once."""
    assert obj.docstring is not None
    module, _, name = obj.path.rpartition(".")
    if obj.parent is None or not obj.parent.is_module or not module.startswith(COMPLETED):
        return str(obj.docstring.value)
    return inspect.getdoc(getattr(importlib.import_module(module), name)) or ""


class Markdown(griffe.Extension):
    """Completes and converts every docstring when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None and not obj.is_module:
            obj.docstring.value = completed(obj)
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)


class Stubs(griffe.Extension):
    """Gives classes the constructors that their stubs have.

    A stub `optimizers/__init__.pyi` has ``class Adam(adam.Adam)`` with the constructor: the class itself, with its
    docstring, is in the module ``adam``.
    """

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called when a package and its stubs are loaded."""
        for package in ("optimizers", "torch") if pkg.name == "fusedstep" else ():
            module = pkg[package]
            for name, stub in list(module.members.items()):
                if not stub.is_alias and stub.is_class and str(stub.bases[0]).endswith(f".{name}"):
                    real = module[str(stub.bases[0])]
                    real.set_member("__init__", stub.members["__init__"])
                    module.members[name] = griffe.Alias(name, real, parent=module)
        for name, made in pkg["jax.optimizers"].members.items() if pkg.name == "fusedstep" else ():
            if not made.is_alias and made.is_function and not name.startswith("_"):
                pkg["jax"].members[name] = griffe.Alias(name, made, parent=pkg["jax"])
