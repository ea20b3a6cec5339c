"""Docstrings of the API pages: directives and roles of reStructuredText, as Markdown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

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


class Markdown(griffe.Extension):
    """Converts every docstring when it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
