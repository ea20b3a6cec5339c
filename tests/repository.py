"""The repository that the tests are in, and its programs as modules."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType

__all__ = ["ROOT", "script"]

ROOT = pathlib.Path(__file__).parent.parent


def script(path: str) -> ModuleType:
    """A program of the repository, imported anew; its folder stays off the path."""
    spec = importlib.util.spec_from_file_location(path.removesuffix(".py").replace("/", "."), ROOT / path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where dataclasses look it up
    spec.loader.exec_module(module)
    return module
