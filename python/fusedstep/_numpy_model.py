"""A model whose rule is a NumPy function: what the native model does, with the step of the reference."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import Exclusive, Model, Tree
from ._floats import default_floats
from ._hyper import check_hyper
from ._slots import Slot
from ._step_options import GROUP_VALUES
from .reference import RULES, watching
from .reference._arithmetic import sum_of_squares
from .reference._checks import check_array, check_overlap
from .reference._step import _check_scale, _is_finite, _multiplier, _step_one
from .reference._storage import Stored, check_gradient, store_param, store_state
from .reference._tensors import Tensor
from .watching import Record

__all__ = ["NumPyModel"]

Array = NDArray[Any]


class NumPyModel:
    """Stands in the native model's place.

    Parameters
    ----------
    rule, maths
        Name of the rule, and the function that changes a parameter and its states in place.
    groups, slots
        The optimizer's, or those that are added; `first` is the number of the first of these groups.
    steps
        Steps that each parameter has taken.
    check, cross_check
        Look at one value of a group, and at all of them together.
    """

    def __init__(
        self,
        rule: str,
        maths: Callable[..., None],
        groups: Sequence[dict[str, Any]],
        slots: Sequence[Slot],
        steps: Sequence[int],
        first: int,
        check: Callable[[int, str, Any], Any],
        cross_check: Callable[[int], None],
    ) -> None:
        self._rule, self._maths = RULES[rule], maths
        self._groups, self._slots, self._first = groups, list(slots), first
        self._check, self._cross_check = check, cross_check
        self._steps = list(steps)
        self._claim = Model("sgd")  # keeps other threads out
        self._bound: list[Any] | None = None
        self._copies: dict[int, dict[int, Array]] = {}
        self.steps_taken = 0
        self.grad_norm: float | None = None
        self.nonfinite_blocks = 0
        self.configure(0.0, False, False, 0)
        self.watch_steps(0, 0, [], [], 0)
        self._tensors([None] * len(self._slots))

    # ---- what the native model offers ----

    def exclusive(self, what: str, step: bool = False) -> Exclusive:
        return self._claim.exclusive(what, step)

    def share_claim(self, other: Any) -> None:
        self._claim = other._claim

    def configure(self, max_grad_norm: float, skip_nonfinite: bool, zero_grads: bool, seed: int) -> None:
        self._max_grad_norm, self._skip_nonfinite = max_grad_norm or None, skip_nonfinite
        self._zero_grads, self._seed = zero_grads, seed
        self._zeroing = zero_grads

    def __len__(self) -> int:
        return len(self._slots)

    def get_step(self, index: int) -> int:
        return self._steps[index]

    def set_step(self, index: int, step: int) -> None:
        self._steps[index] = step

    def set_index(self, index: int, number: int) -> None:
        """The noise is that of `Slot.number`."""

    def get_scalars(self, index: int) -> list[float]:
        return []

    def set_scalars(self, index: int, values: list[float]) -> None:
        """There are none."""

    def bind(self, tree: Tree, grads: Any) -> None:
        flat = tree.flatten(grads, "grads")
        self._tensors(flat)
        self._bound = flat

    def prepare(self, grad_scale: float) -> None:
        with self.exclusive("step()", step=True):
            self._hypers()
            self._tensors([None] * len(self._slots))

    def step_bound(self, grad_scale: float) -> bool:
        if self._bound is None:
            raise ValueError(
                "grads: got None, needs the gradients; only an optimizer that was made with grads= can step without "
                "them"
            )
        return self._step(lambda: self._bound or [], grad_scale)

    def step_tree(self, tree: Tree, grads: Any, grad_scale: float) -> bool:
        taken = self._step(lambda: tree.flatten(grads, "grads"), grad_scale)
        self.warn_of_nonfinite()
        return taken

    def step_list(self, grads: Sequence[Any], grad_scale: float, zero_grads: bool | None = None) -> bool:
        return self._step(lambda: list(grads), grad_scale, zero_grads)

    def watch_steps(self, every: int, until: int, states: Sequence[int], records: list[Record], keep: int) -> None:
        self._every, self.until_watched, self._records, self._keep = every, until, records, keep

    def warn_of_nonfinite(self) -> None:
        if self.nonfinite_blocks:
            warnings.warn(
                f"{self.nonfinite_blocks} block(s) of 256 8-bit state values hold an infinity or NaN and read as NaN "
                "from now on",
                RuntimeWarning,
                stacklevel=3,
            )

    # ---- a step ----

    def _step(self, gradients: Callable[[], list[Any]], grad_scale: float, zero_grads: bool | None = None) -> bool:
        with self.exclusive("step()", step=True):
            hypers = self._hypers()
            self._zeroing = self._zero_grads if zero_grads is None else zero_grads
            flat = gradients()
            tensors = self._tensors(flat)
            with default_floats():
                return self._take(hypers, tensors, flat, check_hyper("grad_scale", grad_scale))

    def _hypers(self) -> list[dict[str, Any]]:
        """The checked values of every group; schedules are called here."""
        found = []
        for i, group in enumerate(self._groups):
            with default_floats():
                names = (*self._rule.hypers, *GROUP_VALUES)
                found.append({name: self._check(i, name, group[name]) for name in names})
                self._cross_check(i)
        for slot in self._slots:
            if (slot.ema is None) != (found[slot.group - self._first]["ema_decay"] is None):
                made = "without" if slot.ema is None else "with"
                raise ValueError(
                    f'param_groups[{slot.group}]["ema_decay"]: got a value for an optimizer that was made {made} '
                    "averages of the parameters; make a new one"
                )
        return found

    def _tensors(self, grads: Sequence[Any]) -> list[tuple[int, Tensor]]:
        """The parameters that have a gradient, checked together with all that is written."""
        if len(grads) != len(self._slots):
            raise ValueError(f"grads: got {len(grads)} gradients, needs {len(self._slots)}")
        found = []
        memory: list[tuple[str, Array, bool]] = []
        for i, (slot, grad) in enumerate(zip(self._slots, grads, strict=True)):
            name, step = "params" + slot.path, self._steps[i] + 1
            rounding = self._groups[slot.group - self._first]["rounding"]
            param = store_param(slot.param, name, slot.master, rounding, (self._seed, slot.number, step))
            states = [
                store_state(slot.states[s.name], f"{name} {s.name}", s.kind, param, slot.array.shape)
                for s in self._rule.states
            ]
            memory += [*param.memory, *(item for state in states for item in state.memory)]
            if slot.ema is not None:
                memory.append(
                    (f"{name} ema", check_array(slot.ema, f"{name} ema", (param.kind,), slot.param.shape), True)
                )
            if grad is not None:
                given = check_gradient(grad, "grads" + slot.path, param, self._zeroing)
                memory.append(("grads" + slot.path, given, self._zeroing))
                kept: list[Stored | None] = [*states]
                found.append((i, Tensor(param, given, kept, [], slot.ema, step, given, None)))
        check_overlap(memory)
        return found

    def _take(
        self, hypers: list[dict[str, Any]], found: list[tuple[int, Tensor]], flat: Sequence[Any], grad_scale: float
    ) -> bool:
        tensors = [tensor for _, tensor in found]
        _check_scale(tensors, grad_scale)
        options = {"grad_scale": grad_scale, "max_grad_norm": self._max_grad_norm}
        multipliers = {way: _multiplier(tensors, options | {"maximize": way}) for way in (False, True)}
        if self._max_grad_norm is not None or self._skip_nonfinite:
            total = 0.0
            for tensor in tensors:
                total += sum_of_squares(tensor.grad)
            self.grad_norm = math.sqrt(total) / grad_scale
        watched = bool(self._every) and self.until_watched == 0
        values = [tensor.param.decode().copy() for tensor in tensors] if watched else []
        if self._skip_nonfinite and not all(_is_finite(tensor, multipliers[False]) for tensor in tensors):
            if watched:
                self._record(found, values, grad_scale, False)
            return False
        before = [Kept(self._slots[i], tensor, flat[i], self._copies.setdefault(i, {})) for i, tensor in found]

        def maths(*args: Any, **kwargs: Any) -> None:
            # The formula gets views of its own: what it makes of them is not what is stored afterwards.
            self._maths(*(arg.view() if isinstance(arg, np.ndarray) else arg for arg in args), **kwargs)
            kept.check()

        maths.__name__ = self._maths.__name__
        try:
            for kept, (i, tensor) in zip(before, found, strict=True):
                kept.check()
                own = dict(hypers[self._slots[i].group - self._first])
                way, options = own.pop("maximize"), {name: own.pop(name) for name in GROUP_VALUES if name in own}
                exact = _step_one(maths, tensor, multipliers[way], own, options)
                half = tensor.param.array.dtype == np.float16
                if half and (np.isinf(tensor.param.array.reshape(-1)) & np.isfinite(exact)).any():
                    raise OverflowError(
                        f"params{self._slots[i].path}: the step would take an element beyond 65504, the largest "
                        "float16; nothing was changed. Use bfloat16 or float32, or a smaller lr"
                    )
            for kept in before:  # a formula may know the arrays of others
                kept.check()
            steps = list(self._steps)
            for i, _ in found:
                steps[i] += 1
            self._steps, self.steps_taken = steps, self.steps_taken + 1
        except BaseException:  # the formula's own errors as well
            for kept in before:
                kept.put_back()
            raise
        self.nonfinite_blocks = 0
        if watched:
            self._record(found, values, grad_scale, True)
        self.until_watched = self._every - 1 if watched else self.until_watched - 1
        for _, tensor in found:
            if self._zeroing:
                tensor.given[...] = 0
            for state in tensor.states:
                if state is not None and state.format.startswith("8bit") and state.extra is not None:
                    self.nonfinite_blocks += int(np.count_nonzero(~np.isfinite(state.extra)))
        return True

    def _record(self, found: list[tuple[int, Tensor]], before: list[Array], grad_scale: float, taken: bool) -> None:
        """Note what a step did, as the native model does."""
        rows = np.zeros((len(found), 9))
        for row, (i, tensor), values in zip(rows, found, before, strict=True):
            grad = tensor.grad.reshape(-1).astype(tensor.param.kind)
            row[:4] = i, self._slots[i].group - self._first, tensor.step, grad.size
            row[4:] = watching.watched(grad, values, tensor.param.decode())
        hypers = bytes(8 * len(self._groups))
        self._records.append((taken, False, grad_scale, rows.tobytes(), b"", hypers))
        del self._records[: -self._keep]


class Kept:
    """What a step writes of one parameter, as it was before.

    Parameters
    ----------
    slot, tensor, grad
        The parameter, as the optimizer and as the reference have it, and its gradient as it came.
    copies
        Memory for the copies, which is kept from step to step.
    """

    def __init__(self, slot: Slot, tensor: Tensor, grad: Any, copies: dict[int, Array]) -> None:
        self.path, self.saved = slot.path, []
        for k, array in enumerate(_written(tensor)):
            copy = copies.get(k)
            if copy is None or copy.shape != array.shape:
                copy = copies[k] = np.empty_like(array)
            copy[...] = array
            # The view stays writeable whatever becomes of the array.
            self.saved.append((array.view(), copy, slot.param if k == 0 else array))
        self.arrays = [owner for _, _, owner in self.saved] + [grad]
        self.memory = [_memory_of(array) for array in self.arrays]

    def check(self) -> None:
        """Raise ValueError if an array was changed in place; its memory may be gone then."""
        if any(_memory_of(array) != was for array, was in zip(self.arrays, self.memory, strict=True)):
            raise ValueError(
                f"update: got params{self.path}, a state or the gradient resized, retyped or made read-only in place, "
                "needs other values alone"
            )

    def put_back(self) -> None:
        """Write the values back where the memory is still there."""
        for (view, values, owner), was in zip(self.saved, self.memory, strict=False):
            if _memory_of(owner)[0] == was[0]:
                view[...] = values


def _memory_of(array: Array) -> tuple[Any, ...]:
    """Where an array's memory is, and what it holds."""
    about = array.__array_interface__
    return (about["data"][0], array.nbytes), about["data"][1], array.dtype, array.strides


def _written(tensor: Tensor) -> Iterator[Array]:
    for stored in (tensor.param, *tensor.states):
        if stored is not None:
            yield stored.array
            if stored.extra is not None:
                yield stored.extra
    if tensor.ema is not None:
        yield tensor.ema
