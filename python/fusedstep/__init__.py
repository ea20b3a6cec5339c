"""One optimizer step over a whole model in one pass over memory, in place, with the same bits on every CPU.

>>> import numpy as np
>>> import fusedstep as fs
>>> params = {"W": np.ones((2, 3), np.float32), "b": np.zeros(3, np.float32)}
>>> opt = fs.Adam(params, lr=0.1)
>>> opt.step({"W": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)})
True
>>> params["W"][0]
array([0.9, 0.9, 0.9], dtype=float32)
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from . import _interpreter as _interpreter  # first, as it may refuse

# isort: split
from . import _core as _core
from ._version import __version__ as __version__

if TYPE_CHECKING:  # a checker sees the names themselves, so that a wrong one is an error to it
    from . import functional as functional
    from . import schedules as schedules
    from ._public import *  # noqa: F403
    from ._public import __all__ as __all__
    from .checkpoint import Checkpoint as Checkpoint
    from .checkpoint import Saving as Saving
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .optimizers import *  # noqa: F403
else:

    def __getattr__(name: str) -> Any:
        # All but this is imported when it is first used: `import fusedstep` costs little beside NumPy's own import.
        if name == "__all__" or not name.startswith("_"):
            # The import of a module asks for its name first and must not import what needs that module.
            if find_spec(f"{__name__}.{name}") is not None:
                return import_module(f"{__name__}.{name}")
            public = import_module("._public", __name__)
            if name == "__all__" or name in public.__all__:
                return globals().setdefault(name, getattr(public, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
