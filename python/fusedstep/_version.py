"""The version of the installed package, as the extension was built with it."""

from __future__ import annotations

from . import _core

__all__ = ["__version__"]

__version__: str = _core.__version__
