"""What the commands need beyond NumPy, and the message when it is not there."""

from __future__ import annotations

from importlib.util import find_spec

# The name to import and the name to install, where they differ.
_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


class MissingExtraError(ImportError):
    """An optional package is not installed; the message says what to type."""


def need(*modules: str, extra: str = "demo") -> None:
    """Raise `MissingExtraError` that names every one of `modules` that cannot be imported.

    Examples
    --------
    >>> need("math")
    >>> need("no_such_module")
    Traceback (most recent call last):
    fusedstep._extras.MissingExtraError: no_such_module is not installed: pip install "fusedstep[demo]"
    """
    absent = [_DISTRIBUTIONS.get(module, module) for module in modules if find_spec(module) is None]
    if absent:
        verb = "is" if len(absent) == 1 else "are"
        raise MissingExtraError(f'{" and ".join(absent)} {verb} not installed: pip install "fusedstep[{extra}]"')
