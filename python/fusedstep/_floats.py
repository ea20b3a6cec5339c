"""The floating-point environment in which NumPy works for this package, whatever the calling thread has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from . import _core

__all__ = ["default_floats"]


@contextmanager
def default_floats() -> Iterator[None]:
    """Round to nearest, keep subnormal numbers, and report no floating-point error; then as it was before.

    For every computation whose bits are promised. The native steps do the same by themselves. A context manager that
    also serves as a decorator.

    Examples
    --------
    >>> import numpy as np
    >>> with np.errstate(all="raise"), default_floats():
    ...     print(np.float32(1e-30) * np.float32(1e-10))
    1e-40
    """
    with _core.DefaultFloats(), np.errstate(all="ignore"):
        yield
