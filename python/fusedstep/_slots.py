"""What an optimizer keeps for each parameter: its states in their storage format, and what training adds to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._pieces import flat
from .reference import Rule, State

__all__ = ["FLOAT32", "FLOAT64", "Slot"]

Array = NDArray[Any]

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


@dataclass
class Slot:
    """One parameter and everything that belongs to it.

    Attributes
    ----------
    param
        The caller's array.
    path
        Where it is in the caller's structure: ``'["W1"]'``.
    group
        Number of its parameter group.
    states
        By name, an array, or for an 8-bit state a pair of codes (uint8, the parameter's shape) and scales
        (float32, one per 256 elements).
    master
        float32 copy (``master="float32"``) or int16 remainders (``master="split"``) of a 16-bit parameter.
    ema
        Moving average of the parameter, in the compute type.
    grad_sum
        Sum of the gradients of the next step, in the compute type.
    number
        By which it is saved and has its noise: its place in the run's first optimizer.
    whole
        Elements of the parameter of which `param` is a piece; 0 where it is all of it.
    """

    param: Any
    path: str
    group: int
    states: dict[str, Any] = field(default_factory=dict)
    master: Array | None = None
    ema: Array | None = None
    grad_sum: Array | None = None
    number: int = 0
    whole: int = 0

    def is_small(self, group: Mapping[str, Any]) -> bool:
        """Whether the group's options keep its states out of narrow formats."""
        small: bool = (self.whole or self.param.size) < group["min_quantized_size"]
        return small

    @property
    def compute(self) -> np.dtype[Any]:
        """The dtype in which the rule works: float64 for float64 parameters, float32 for all others."""
        return FLOAT64 if self.param.dtype == FLOAT64 else FLOAT32

    @property
    def split(self) -> bool:
        """Whether `master` holds remainders."""
        return self.master is not None and self.master.dtype == np.int16

    @property
    def array(self) -> Array:
        """The parameter as a plain array: a subclass such as ``numpy.matrix`` changes what its methods do."""
        return np.asarray(self.param)

    def values(self) -> Array:
        """The parameter as the rule sees it: from its master, in the compute type; maybe the array itself."""
        if self.split:
            assert self.master is not None
            return formats.join(self.array, self.master)
        if self.master is not None:
            return formats.master_values(self.array, self.master)
        values: Array = self.array.astype(self.compute, copy=False)
        return values

    def piece(self, piece: slice) -> Array:
        """The same of some elements, in C order."""
        part = Slot(flat(self.array)[piece], self.path, self.group)
        part.master = None if self.master is None else flat(self.master)[piece]
        return part.values()

    def check_shape(self, rule: Rule, hypers: Mapping[str, Any]) -> None:
        """Check that the parameter was not reshaped in place, which its states do not follow: they could not be loaded.

        Raises
        ------
        ValueError
            It was.
        """
        shape = self.param.shape
        beside = {**self.states, "master": self.master, "ema": self.ema, "grad_sum": self.grad_sum}
        forms: dict[str, State] = {}
        for name, value in beside.items():
            array = value[0] if type(value) is tuple else value
            if array is None or array.shape == shape:
                continue
            forms = forms or {state.name: state for state in rule.states}
            if name not in forms or forms[name].shape(shape, hypers) != array.shape:
                raise ValueError(
                    f"params{self.path}: got shape {shape} now, needs the one that it had when the optimizer was made; "
                    "set it back, or make a new one"
                )

    def move(self, to: Callable[[Array], Array]) -> None:
        """Replace every array by what `to` makes of it, the parameter excepted."""
        for name, value in self.states.items():
            self.states[name] = tuple(map(to, value)) if isinstance(value, tuple) else to(value)
        if self.master is not None:
            self.master = to(self.master)
        if self.ema is not None:
            self.ema = to(self.ema)
        if self.grad_sum is not None:
            self.grad_sum = to(self.grad_sum)

    def items(self) -> Iterator[tuple[str, Array]]:
        """Every array under its key in `Optimizer.state`, the parameter excepted."""
        for name, value in self.states.items():
            if isinstance(value, tuple):
                yield name, value[0]
                yield f"{name}_scales", value[1]
            else:
                yield name, value
        if self.master is not None:
            yield ("remainder" if self.split else "master"), self.master
        if self.ema is not None:
            yield "ema", self.ema
        if self.grad_sum is not None:
            yield "grad_sum", self.grad_sum
