"""Gradients as they come: read, and copied where a step cannot read them as they are."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._arguments import overlapping
from ._bounds import bounds
from ._core import Model
from ._floats import default_floats
from ._held import check_held
from ._slots import FLOAT32, FLOAT64, Slot
from .sparse import SparseRows

__all__ = ["ADVICE", "Casts", "check_cleared"]

Array = NDArray[Any]

ADVICE = "; or make the optimizer with cast_grads=True"
FLOAT16 = np.dtype(np.float16)
HOSTS = (1, 3, 11)  # of DLPack's devices: memory of the CPU's own, and pinned for CUDA and ROCm
PROTOCOLS = ("__dlpack__", "__array__", "__array_interface__", "__array_struct__")


class Casts:
    """Copies of an optimizer's gradients in the form that its step reads, in buffers that are reused.

    Parameters
    ----------
    slots
        The optimizer's parameters.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._buffers: dict[int, Array] = {}

    @default_floats()
    def run(self, grads: Sequence[Any], zero_grads: bool, step: Callable[[list[Any]], bool], model: Model) -> bool:
        """Call `step` with the gradients that it can read, and clear what was copied if it was taken.

        Parameters
        ----------
        grads
            One for every parameter, in order.
        zero_grads
            Whether the caller's own arrays are set to zero; those that are not copied are left to `step`.
        model
            Whose step it is: code that a gradient runs while it is read can neither step nor change it.

        Raises
        ------
        TypeError, ValueError
            A gradient that cannot be read or has another shape, or with `zero_grads` cannot be written.
        RuntimeError
            A gradient that was read for the step cannot be read again, to be set to zero. The step was taken.
        """
        with model.exclusive("step()", step=True):
            flat = self.readable(grads, zero_grads)
        taken = step(flat)
        if taken and zero_grads:
            with model.exclusive("step()", step=True):
                self._clear(grads)
        return taken

    def _clear(self, grads: Sequence[Any]) -> None:
        """Set to zero what was copied. It is read again: whoever holds it may have moved its memory since."""
        written = _written(self._slots)
        failed: tuple[str, Exception] | None = None
        for slot, grad in zip(self._slots, grads, strict=True):
            if grad is not None and not self._is_plain(slot, grad):
                where = "grads" + slot.path
                try:
                    values = _read(grad.values if isinstance(grad, SparseRows) else grad, where)
                    _check_writeable(values, where, written)
                    values[...] = 0
                except Exception as error:
                    failed = failed or (where, error)
        if failed is not None:
            where, cause = failed
            raise RuntimeError(
                f"{where}: was read for the step, which was taken, and could not be set to zero after it: {cause}"
            ) from cause

    def readable(self, grads: Sequence[Any], zero_grads: bool) -> list[Any]:
        """The gradients, or copies of them in the compute type."""
        if len(grads) != len(self._slots):
            raise ValueError(f"grads: got {len(grads)} gradients, needs {len(self._slots)}")
        written = _written(self._slots) if zero_grads else []
        return [
            grad if grad is None or self._is_plain(slot, grad) else self._copy(i, slot, grad, written, zero_grads)
            for i, (slot, grad) in enumerate(zip(self._slots, grads, strict=True))
        ]

    def _is_plain(self, slot: Slot, grad: Any) -> bool:
        """Whether a step takes this as it is, or knows best what is wrong with it."""
        if isinstance(grad, SparseRows):
            return isinstance(grad.values, np.ndarray) and self._is_plain(slot, grad.values)
        if type(grad) is not np.ndarray:
            if not isinstance(grad, np.ndarray):
                return not any(hasattr(grad, name) for name in PROTOCOLS)
            if hasattr(grad, "mask"):
                return True
        dtype = grad.dtype
        if dtype.kind == "f":
            known = dtype in (FLOAT32, FLOAT16) or (dtype == FLOAT64 and slot.compute == FLOAT64)
        else:
            known = formats.is_bfloat16(dtype)
        return known and grad.flags.c_contiguous and grad.flags.aligned

    def _copy(self, index: int, slot: Slot, grad: Any, written: list[tuple[int, int, str]], zero_grads: bool) -> Any:
        where = "grads" + slot.path
        if isinstance(grad, SparseRows):
            values = _read(grad.values, where + ".values")
            shape, like = (values.shape[:1] + slot.param.shape[1:]), "a value for each index and the rows of"
        else:
            values = _read(grad, where)
            shape, like = slot.param.shape, "the shape of"
        if values.shape != shape:
            raise ValueError(f"{where}: got shape {values.shape}, needs {shape}, {like} params{slot.path}")
        if zero_grads:
            _check_writeable(values, where, written)
        copy = self._buffer(index, slot.compute, values.size)[: values.size].reshape(shape)
        copy[...] = values
        return SparseRows(grad.indices, copy) if isinstance(grad, SparseRows) else copy

    def _buffer(self, index: int, dtype: np.dtype[Any], size: int) -> Array:
        """Memory that belongs to a parameter; it grows where gradients are of more rows than before."""
        buffer = self._buffers.get(index)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[index] = np.empty(size, dtype)
        return buffer


def check_cleared(slots: Sequence[Slot], grads: Sequence[Any]) -> None:
    """Check that gradients can be set to zero, and nothing that a step writes by that."""
    written = _written(slots)
    for slot, grad in zip(slots, grads, strict=False):
        if isinstance(grad, np.ndarray):
            _check_writeable(np.asarray(grad), "grads" + slot.path, written)


def _written(slots: Sequence[Slot]) -> list[tuple[int, int, str]]:
    """Where the arrays that a step writes begin and end."""
    found = []
    for slot in slots:
        for name, array in (("", slot.array), *slot.items()):
            if array.size:
                begin = array.__array_interface__["data"][0]
                found.append((begin, begin + array.nbytes, f"params{slot.path}" + f" {name}" * bool(name)))
    return sorted(found)


def _read(grad: Any, where: str) -> Array:
    """A plain array of an object's numbers, its own memory wherever it lets NumPy see that."""
    if isinstance(grad, np.ndarray):
        array: Array = np.asarray(grad)
    else:
        array = _from_protocol(grad, where)
    if array.dtype.kind not in "fiu" and (array.dtype.kind != "V" or not np.can_cast(array.dtype, FLOAT32)):
        raise TypeError(f"{where}: got dtype {array.dtype}, needs real numbers")
    return array


def _from_protocol(grad: Any, where: str) -> Array:
    kind = type(grad).__name__
    check_held(grad, where)
    if not any(hasattr(grad, name) for name in PROTOCOLS):
        raise TypeError(f"{where}: got {kind}, needs a NumPy array")
    try:
        device = int(grad.__dlpack_device__()[0]) if hasattr(grad, "__dlpack_device__") else HOSTS[0]
    except Exception as error:
        raise TypeError(f"{where}: got {kind}, needs an array that NumPy can read: {error}") from error
    if device not in HOSTS:
        raise TypeError(f"{where}: got {kind} on another device (DLPack's {device}), needs one in the CPU's memory")
    if hasattr(grad, "__dlpack__") and not isinstance(grad, np.generic):
        try:
            return np.from_dlpack(grad)
        except Exception as error:  # a dtype that DLPack does not have, several devices, a tensor of autograd's
            refused = error
            if not hasattr(grad, "__array__"):
                raise TypeError(f"{where}: got {kind}, needs an array that NumPy can read: {error}") from error
    else:
        refused = None
    try:
        array = np.asanyarray(grad)  # of its own class, which may have a mask
    except Exception as error:
        said = error if refused is None else refused
        raise TypeError(f"{where}: got {kind}, needs an array that NumPy can read: {said}") from error
    if hasattr(array, "mask"):
        raise TypeError(f"{where}: got {kind}, which gives an array with a mask, needs a NumPy array")
    return np.asarray(array)


def _check_writeable(values: Array, where: str, written: list[tuple[int, int, str]]) -> None:
    """Check that a gradient can be set to zero, and nothing else by that."""
    if not values.flags.writeable:
        raise ValueError(f"{where}: got a read-only array, needs a writeable one, since zero_grads=True clears it")
    if not values.size:
        return
    begin, end = bounds(values)
    after = bisect.bisect_right(written, begin, key=lambda extent: extent[1])
    if after < len(written) and written[after][0] < end:
        raise overlapping(where, written[after][2])
