"""The version of the installed package, as the extension was built with it."""

from __future__ import annotations

from ._core import build_info

__all__ = ["__version__"]

__version__: str = build_info()["version"]
