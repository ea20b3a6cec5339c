"""Other people's optimizers behind one face, as independent sources for the reference."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def load(name: str) -> Any:
    """A module that need not be installed, and whose types are its own business."""
    return importlib.import_module(name)


class TorchPeer:
    """An optimizer of torch.optim, or of a library like it, over one parameter."""

    def __init__(self, name: str, param: Array, options: dict[str, Any], library: str = "torch.optim") -> None:
        torch = self.torch = load("torch")
        torch.set_default_dtype(torch.float64 if param.dtype == np.float64 else torch.float32)
        try:
            self.tensor = torch.nn.Parameter(torch.from_numpy(param.copy()))
            self.optimizer = getattr(load(library), name)([self.tensor], foreach=False, **options)
        finally:
            torch.set_default_dtype(torch.float32)

    def step(self, grad: Array) -> None:
        # scalars such as NAdam's mu_product take torch's default dtype
        self.torch.set_default_dtype(self.tensor.dtype)
        try:
            self.tensor.grad = self.torch.from_numpy(grad.copy())
            self.optimizer.step()
        finally:
            self.torch.set_default_dtype(self.torch.float32)

    @property
    def param(self) -> Array:
        return np.asarray(self.tensor.detach().numpy())

    def state(self, name: str) -> Array:
        return np.asarray(self.optimizer.state[self.tensor][name].detach().numpy())

    def follow(self, param: Array, states: dict[str, Array]) -> None:
        """Take over parameter and states, so that the next step starts from the same numbers."""
        with self.torch.no_grad():
            self.tensor.copy_(self.torch.from_numpy(param))
        for name, value in states.items():
            if name in self.optimizer.state[self.tensor]:
                self.optimizer.state[self.tensor][name].copy_(self.torch.from_numpy(value))


class OptaxPeer:
    """An optimizer of optax over one parameter."""

    def __init__(self, make: Any, param: Array) -> None:
        self.jnp, self.optax = load("jax.numpy"), load("optax")
        with double_precision():
            self.array = self.jnp.asarray(param)
            self.transformation = make(self.optax)
            self.optimizer_state = self.transformation.init(self.array)

    def step(self, grad: Array) -> None:
        with double_precision():
            updates, self.optimizer_state = self.transformation.update(
                self.jnp.asarray(grad), self.optimizer_state, self.array
            )
            self.array = self.optax.apply_updates(self.array, updates)

    @property
    def param(self) -> Array:
        return np.asarray(self.array)


@contextmanager
def double_precision() -> Iterator[None]:
    """Let jax compute in float64, as it does not by default."""
    jax = load("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
