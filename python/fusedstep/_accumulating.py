"""Steps whose gradients are copied first: converted, or summed up over several calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from ._arguments import whole
from ._attributes import Attributes
from ._casting import ADVICE, Casts, check_cleared
from ._core import Model, Tree
from ._settings import Settings
from ._slots import Slot
from ._step_options import GROUP_OPTIONS
from .reference import RULES
from .sparse import SparseRows

__all__ = ["Accumulating", "check_accumulate_steps"]

# The rule that adds (`fusedstep.reference.accumulate`): p - 1 * (-g) has the bits of p + g.
ADD = RULES["sgd"].hypers | GROUP_OPTIONS | {"lr": 1.0, "maximize": True}

NOTHING: frozenset[int] = frozenset()


class Summed:
    """What is in the sums: a plain object, as no signal comes between two plain assignments.

    Attributes
    ----------
    count
        Gradients.
    received
        Numbers of the parameters that have one.
    unclear
        The sums are left over from a step that was skipped.
    """

    def __init__(self, count: int = 0, received: frozenset[int] = NOTHING) -> None:
        self.count, self.received, self.unclear = count, received, False

    def checked(self, params: int) -> Summed:
        """A copy of one that was pickled, of an optimizer with so many parameters."""
        numbers = (whole("_summed.received", number, high=params - 1) for number in self.received)
        made = Summed(whole("_summed.count", self.count), frozenset(numbers))
        made.unclear = bool(self.unclear)
        return made


def check_accumulate_steps(value: Any) -> int:
    return whole("accumulate_steps", value, low=1)


class Accumulating(Attributes, Settings):
    """How an optimizer takes gradients that its native step does not read where they are."""

    _tree: Tree
    _slots: list[Slot]
    _grads: Any
    _cast_grads: bool = False
    _casts: Casts | None = None
    _accumulate_steps: int = 1
    _summed: Summed
    _adder: Model | None = None  # writes the sums, `Slot.grad_sum`

    @property
    def accumulate_steps(self) -> int:
        """How many gradients are averaged for one step."""
        return self._accumulate_steps

    @accumulate_steps.setter
    def accumulate_steps(self, value: int) -> None:
        number = check_accumulate_steps(value)
        if self._adder is None and number > 1:
            raise ValueError(
                f"accumulate_steps: got {number}, needs 1, as this optimizer was made without sums of gradients; make "
                "a new one and load this one's state_dict()"
            )
        if number <= self._summed.count:
            raise ValueError(
                f"accumulate_steps: got {number}, needs more than the {self._summed.count} gradients that are summed"
            )
        self._accumulate_steps = number

    @property
    def accumulated(self) -> int:
        """How many gradients are summed for the next step: 0 right after one."""
        return self._summed.count

    def _made_model(self) -> Model:
        raise NotImplementedError

    def _configure(self, model: Model | None = None) -> None:
        super()._configure(model)
        if self._adder is not None:
            kept, main = self._settings, self._model if model is None else model
            assert main is not None
            # A step clears the sums; what clears the caller's gradients is adding them.
            main.configure(kept["max_grad_norm"] or 0.0, kept["skip_nonfinite"], True, kept["seed"])
            self._adder.configure(0.0, False, kept["zero_grads"], 0)

    def _make_adder(self) -> Model | None:
        """The native model whose parameters are the sums."""
        if not self._slots or self._slots[0].grad_sum is None:
            return None
        adder = Model("sgd")
        if not self._cast_grads:
            adder.advise(ADVICE)
        adder.add_group(dict(ADD))
        for slot in self._slots:
            adder.add(0, slot.grad_sum, [None], path=slot.path)
        adder.finish()
        return adder

    def _step_copied(self, grads: Any, grad_scale: float) -> bool:
        """A step with gradients that are converted, summed, or both."""
        model = self._made_model()
        with model.exclusive("step()"):
            given = self._grads if grads is None else grads
            if given is None:
                return model.step_bound(grad_scale)  # which says that there are none
            with model.exclusive("step()", step=True):  # containers may run code of theirs
                leaves = self._tree.flatten(given, "grads")
            taken, interrupt = True, None
            zero = self.zero_grads  # a schedule or another thread may set it meanwhile

            def step(flat: list[Any]) -> bool:
                nonlocal taken, interrupt
                if self._adder is not None:
                    taken, interrupt = self._step_summed(self._adder, flat, grad_scale, self._accumulate_steps, zero)
                    return True  # they are in the sum, whatever becomes of that
                taken, interrupt = _completed(model, lambda: model.step_list(flat, grad_scale, zero))
                return taken

            if self._casts is None:
                step(leaves)
            else:
                self._casts.run(leaves, zero, step, model)
            model.warn_of_nonfinite()
        if interrupt is not None:
            raise interrupt
        return taken

    def _step_summed(
        self, adder: Model, flat: Sequence[Any], grad_scale: float, number: int, zero_grads: bool
    ) -> tuple[bool, BaseException | None]:
        """Add gradients to the sums; with the last of `number`, step with the mean. Returns what `_completed` does.

        `number` is `accumulate_steps` and `zero_grads` that option as they were at first.
        """
        model = self._made_model()
        for slot, grad in zip(self._slots, flat, strict=False):
            assert slot.grad_sum is not None
            if slot.grad_sum.shape != slot.array.shape:
                raise ValueError(
                    f"params{slot.path}: got shape {slot.array.shape} and {slot.grad_sum.shape} of its sum of "
                    "gradients, needs the same; one of them was reshaped in place"
                )
            if isinstance(grad, SparseRows):
                raise TypeError(
                    f"grads{slot.path}: got SparseRows with accumulate_steps={number}, needs an array; "
                    "or join the rows of several gradients, with values divided by their number, into one"
                )
        if zero_grads:
            check_cleared(self._slots, flat)
        summed = self._summed
        if summed.unclear:
            self._clear_sums()
        earlier: BaseException | None = None
        if summed.count >= number:  # an interrupt came before the step with these
            _, earlier = self._step_with_sums()
        count, received = summed.count, summed.received
        last = count + 1 == number
        kept: list[tuple[Any, Any]] = []
        if last:
            # What may be wrong with the step is found before the sums change, but for numbers beyond float16 and for
            # what a formula in Python may raise.
            model.prepare(float(number))
            if not isinstance(model, Model) or any(slot.param.dtype == np.float16 for slot in self._slots):
                arrays = [slot.grad_sum for slot in self._slots]
                arrays += [grad for grad in flat if zero_grads and isinstance(grad, np.ndarray)]
                kept = [(array, cast(Any, array).copy()) for array in arrays]
        both = received | {i for i, grad in enumerate(flat) if grad is not None}
        _, interrupt = _completed(adder, lambda: adder.step_list(list(flat), grad_scale, zero_grads))
        interrupt = earlier or interrupt
        summed.count, summed.received = count + 1, both
        if not last:
            return True, interrupt
        try:
            taken, later = self._step_with_sums()
        except BaseException:
            if kept:
                for array, values in kept:
                    array[...] = values
                summed.count, summed.received = count, received
            raise
        return taken, interrupt or later

    def _step_with_sums(self) -> tuple[bool, BaseException | None]:
        """Step with the mean of the gradients that were summed."""
        model, summed = self._made_model(), self._summed
        sums = [slot.grad_sum if i in summed.received else None for i, slot in enumerate(self._slots)]
        taken, interrupt = _completed(model, lambda: model.step_list(sums, float(summed.count)))
        summed.count, summed.received, summed.unclear = 0, NOTHING, not taken
        if not taken:
            self._clear_sums()
        return taken, interrupt

    def _clear_sums(self) -> None:
        for slot in self._slots:
            assert slot.grad_sum is not None
            slot.grad_sum[...] = 0
        self._summed.unclear = False


def _completed(model: Model, step: Callable[[], bool]) -> tuple[bool, BaseException | None]:
    """Whether a step was taken, and an interrupt that came meanwhile, to be raised when all is done.

    A signal during native code, such as that of Ctrl-C, becomes an exception when the code returns: the step counts,
    and so must what goes with it.
    """
    before = model.steps_taken
    try:
        return step(), None
    except BaseException as error:
        if model.steps_taken == before:
            raise
        return True, error
