"""One small module per peer. Each has ``peers()``: the names it offers and how each prepares a step."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

MODULES: dict[str, tuple[str, ...]] = {
    "fusedstep_steps": ("fusedstep", "fusedstep (passed)", "fusedstep reference"),
    "torch_optim": ("torch fused", "torch foreach", "torch single"),
    "deepspeed_ops": ("deepspeed",),
    "numba_loops": ("numba", "numba serial"),
    "optax_jit": ("optax jit",),
    "pytorch_optimizer_loops": ("pytorch_optimizer",),
    "numpy_plain": ("numpy",),
    "thinc_optimizer": ("thinc",),
    "sklearn_optimizer": ("scikit-learn",),
}
"""Adapters and the peers each offers, in the order of the columns."""


@dataclass(frozen=True)
class Rule:
    """A rule as the tables name it, with torch's names and defaults for the hyper-parameters.

    Attributes
    ----------
    name : str
        Name in the tables.
    states : int
        Arrays of state that a step reads and writes beside the parameter.
    hyper : dict of str to float
        Hyper-parameters, named and meant as in torch.optim, or as in this package where torch has no such rule.
    whole : bool
        Whether an element's step depends on all elements of its tensor, so that a tile alone cannot be its check.
    """

    name: str
    states: int
    hyper: dict[str, Any] = field(default_factory=dict)
    whole: bool = False


_BETAS = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("adam", 2, dict(_BETAS)),
        Rule("rmsprop", 1, {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8}),
        Rule("momentum", 1, {"lr": 1e-3, "momentum": 0.9}),
        Rule("sgd", 0, {"lr": 1e-3}),
        Rule("adamw", 2, {**_BETAS, "weight_decay": 1e-2}),
        Rule("adagrad", 1, {"lr": 1e-2, "eps": 1e-10}),
        Rule("adadelta", 2, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
        Rule("adamax", 2, {"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8}),
        Rule("nadam", 2, {**_BETAS, "lr": 2e-3}),
        Rule("radam", 2, dict(_BETAS)),
        Rule("asgd", 1, {"lr": 1e-2, "lambd": 1e-4, "alpha": 0.75, "t0": 1e6}),
        Rule("rprop", 2, {"lr": 1e-3}),
        Rule("lion", 1, {"lr": 1e-4, "betas": (0.9, 0.99)}),
        Rule("adabelief", 2, {**_BETAS, "eps": 1e-16}),
        Rule("adan", 4, {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0.0}),
        Rule("ademamix", 3, {**_BETAS, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "weight_decay": 0.0}),
        Rule("yogi", 2, {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-3, "weight_decay": 0.0}),
        Rule("stable_adamw", 2, {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 1e-2}, whole=True),
        Rule("novograd", 1, {**_BETAS, "betas": (0.95, 0.98), "grad_averaging": True}, whole=True),
        Rule("adafactor", 0, {"lr": 1e-2}, whole=True),
    )
}
"""Every rule that at least one peer has too. ``momentum`` is torch's SGD with a momentum (heavy ball)."""


@dataclass
class Problem:
    """What to step: the rule, the dtype's name, the tensors' values at the start, the gradients, the
    threads."""

    rule: Rule
    dtype: str
    params: Sequence[Array]
    grads: Sequence[Array]
    threads: int

    def copies(self) -> list[Array]:
        """Return fresh arrays with the starting values, allocated like everyone's."""
        return [np.array(param) for param in self.params]


@dataclass
class Session:
    """A peer ready to step.

    Attributes
    ----------
    step : callable
        Makes one step as that library's user would.
    values : callable
        Returns the parameters as NumPy arrays, in order.
    before : callable or None
        What has to be put back before each step but is not the step (and so is not timed).
    """

    step: Callable[[], object]
    values: Callable[[], list[Array]]
    before: Callable[[], object] | None = None


Build = Callable[[Problem], Session]


class Unsupported(Exception):
    """The peer has no such rule, dtype or size; the message says which."""


@dataclass(frozen=True)
class Peer:
    """A contestant: how it prepares a step, and the largest model it is asked to step.

    Attributes
    ----------
    build : callable
        Returns a :class:`Session` or raises :class:`Unsupported`.
    most : int
        Elements beyond which it is left out, because it would only cost minutes (plain NumPy's temporaries).
    """

    build: Build
    most: int = 10**9


def names(wanted: Sequence[str] | None = None) -> list[str]:
    """Return the peers that ``wanted`` asks for, by name (``"torch fused"``) or first word (``"torch"``).

    A word that is a whole name means that one alone (``"numba"``, ``"fusedstep"``).
    """
    known = [name for offered in MODULES.values() for name in offered]
    if wanted is None:
        return known
    families = set(wanted) - set(known)
    return [name for name in known if name in wanted or name.split()[0] in families]


def load(wanted: Sequence[str] | None = None) -> tuple[dict[str, Peer], list[str]]:
    """Return the peers that are installed, in order, and a line for each module that is not.

    Only the modules of the peers asked for are imported (see :func:`names`).
    """
    found: dict[str, Peer] = {}
    missing: list[str] = []
    chosen = names(wanted)
    for module, offered in MODULES.items():
        if not set(offered) & set(chosen):
            continue
        try:
            built: dict[str, Peer] = importlib.import_module(f"adapters.{module}").peers()
        except ImportError as error:
            missing.append(f"{module}: {error}")
            continue
        found.update({name: built[name] for name in offered if name in chosen})
    return found, missing
