"""Lets threadpoolctl see and limit the threads of steps; ``import fusedstep.threadpoolctl`` registers them.

threadpoolctl knows OpenMP by itself. With this module, ``threadpool_info()`` lists ``fusedstep`` too, and
``threadpool_limits(1)`` holds for steps, with either kind of threads.

>>> import fusedstep.threadpoolctl
>>> from threadpoolctl import threadpool_limits
>>> with threadpool_limits(1, user_api="fusedstep"):
...     print(fusedstep.get_num_threads())
1
"""

from __future__ import annotations

import threadpoolctl  # type: ignore[import-untyped,unused-ignore]

from . import _core

__all__ = ["Controller"]


class Controller(threadpoolctl.LibController):  # type: ignore[misc,unused-ignore]
    """What threadpoolctl calls for the extension module."""

    user_api = "fusedstep"
    internal_api = "fusedstep"
    filename_prefixes = ("_core.",)
    check_symbols = ("fusedstep_version",)

    def get_num_threads(self) -> int:
        """Return `fusedstep.get_num_threads`."""
        return _core.get_num_threads()

    def set_num_threads(self, num_threads: int) -> None:
        """Call `fusedstep.set_num_threads`."""
        _core.set_num_threads(num_threads)

    def get_version(self) -> str:
        """Return the package's version."""
        return _core.__version__

    def set_additional_attributes(self) -> None:
        """Add which kind of threads takes a step."""
        self.threading_layer = _core.get_threading()


threadpoolctl.register(Controller)
