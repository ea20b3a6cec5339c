"""The two points of a schedule-free optimizer, and the way from one to the other in both faces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._floats import default_floats
from ._hyper import check_hyper
from ._names import needs
from ._pieces import pieces
from .reference import schedule_free_average, schedule_free_interpolation

__all__ = ["TRAIN_MODE", "Weights", "check_training", "is_training", "switch"]

Array = NDArray[Any]

TRAIN_MODE = "train_mode"
"""The entry of a parameter group that says where its parameters are, named as in the authors' package."""


@dataclass
class Weights:
    """One parameter with what belongs to it, all flat.

    Attributes
    ----------
    name
        What messages call it.
    param
        float32 or float64, or the bit patterns (uint16) of 16-bit floats.
    dtype
        The name of its dtype.
    z
        The rule's state of that name.
    beta
        Interpolation between z and the average.
    master
        float32 copy or int16 remainders of a 16-bit parameter.
    """

    name: str
    param: Array
    dtype: str
    z: Array
    beta: float
    master: Array | None = None

    def check(self) -> None:
        """Check that it can be written, and that all arrays are of one size."""
        for array in (self.param, self.z, *([] if self.master is None else [self.master])):
            if array.size != self.param.size:
                raise ValueError(
                    f"{self.name}: got {self.param.size} elements, needs {self.z.size}, as the state z has"
                )
        if not self.param.flags.writeable:
            raise ValueError(f"{self.name}: got a read-only array, needs a writeable one")

    def moved(self, to_average: bool) -> Iterator[tuple[slice, Array]]:
        """The values at the other point, piece by piece."""
        formula = schedule_free_average if to_average else schedule_free_interpolation
        for part in pieces(self.param.size):  # no temporary is as large as a parameter
            yield part, formula(self._values(part), self.z[part], beta=self.beta)

    def _values(self, part: slice) -> Array:
        """The parameter as the rule sees it, in the compute type."""
        stored = self.param[part]
        if self.dtype not in formats.HALF:
            return stored
        if self.master is None:
            return formats.HALF[self.dtype][1](stored)
        master = self.master[part]
        if master.dtype == np.int16:
            return formats.join(stored, master)
        return formats.kept_master(stored, master, self.dtype)

    def write(self, part: slice, values: Array) -> None:
        """Store new values, rounded to nearest."""
        if self.dtype not in formats.HALF:
            self.param[part] = values
        elif self.master is not None and self.master.dtype == np.int16:
            self.param[part], self.master[part] = formats.split(values)
        else:
            if self.master is not None:
                self.master[part] = values
            self.param[part] = formats.HALF[self.dtype][0](values)

    def overflows(self, to_average: bool) -> bool:
        """Whether an element would end beyond the largest float16."""
        return self.dtype == "float16" and any(
            (np.isinf(formats.encode_float16(values).view(np.float16)) & np.isfinite(values)).any()
            for _, values in self.moved(to_average)
        )


@default_floats()
def switch(weights: Sequence[Weights], to_average: bool) -> None:
    """Take parameters from where gradients are taken to the average, or back.

    Raises
    ------
    ValueError
        An array cannot be written or has another size. Nothing has changed.
    OverflowError
        An element would end beyond the largest float16. Nothing has changed.
    """
    for one in weights:
        one.check()
        if one.overflows(to_average):
            raise OverflowError(
                f"{one.name}: the other weights of a schedule-free optimizer have an element beyond 65504, the largest "
                "float16; nothing was changed. Use bfloat16 or float32"
            )
    for one in weights:
        for part, values in one.moved(to_average):
            one.write(part, values)


def is_training(group: Mapping[str, Any], number: int) -> bool:
    """Whether a group's parameters are where gradients are taken.

    Raises
    ------
    TypeError
        The entry is neither True nor False: neither `eval` nor `train` would know what to do. Or there is no group.
    """
    needs(group, Mapping, f"param_groups[{number}]", 'a dict with an entry "params"')
    mode = group.get(TRAIN_MODE, True)
    return mode if type(mode) is bool else check_hyper(TRAIN_MODE, mode, f'param_groups[{number}]["{TRAIN_MODE}"]')


def check_training(groups: Sequence[dict[str, Any]]) -> None:
    """Check that parameters are where gradients are taken.

    Raises
    ------
    RuntimeError
        They are not.
    """
    for number, group in enumerate(groups):
        if not is_training(group, number):
            raise RuntimeError("step: got the weights of eval(), needs those of train(); call train() first")
