"""The optimizers: one function per update rule, with the arguments of the class for NumPy but for its parameters.

That class's docstring has the formula and its source; the options are those of `fusedstep.jax`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .._constructors import bind, signature
from ..reference import RULES
from ._optimizer import CLASSES, Optimizer

# All but those whose step is no function of arrays alone: products of matrices, states of other shapes than the
# parameters, and gradients of some rows.
__all__ = sorted(rule for rule in CLASSES if not RULES[rule].needs_shape and rule != "sparse_adam")


def _function(rule: str) -> Callable[..., Optimizer]:
    """The function that makes an optimizer of a rule."""
    shown = signature([], RULES[rule].arguments, "Options", "Optimizer")

    def make(*args: Any, **kwargs: Any) -> Optimizer:
        hypers, options = bind(rule, shown, args, kwargs)
        return Optimizer(rule, hypers | options)

    summary = (CLASSES[rule].__doc__ or "").partition("\n")[0]
    make.__doc__ = f"{summary} See `fusedstep.{CLASSES[rule].__name__}`."
    make.__name__ = make.__qualname__ = rule
    make.__module__ = __name__
    setattr(make, "__signature__", shown)  # noqa: B010  (mypy knows no such attribute)
    return make


for _rule in __all__:
    globals()[_rule] = _function(_rule)
