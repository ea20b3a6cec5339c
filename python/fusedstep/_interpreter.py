"""Refuse an interpreter in which importing the native module would never end; imported before it.

On Python 3.10 and 3.11 a native module is loaded in a sub-interpreter as well (mod_wsgi runs applications in such),
and pybind11 then waits for a lock that its own thread holds; from 3.12 on it does not.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec

__all__: list[str] = []

# The module that knows is private and may be left out of a Python.
if sys.version_info < (3, 12) and find_spec("_xxsubinterpreters") is not None:
    _interpreters = import_module("_xxsubinterpreters")
    if _interpreters.get_current() != _interpreters.get_main():
        raise ImportError(
            "fusedstep: got a sub-interpreter, needs the main interpreter on Python 3.10 and 3.11; with mod_wsgi, set "
            "WSGIApplicationGroup %{GLOBAL}"
        )
