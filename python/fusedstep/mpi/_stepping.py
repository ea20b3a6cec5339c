"""A step over several ranks: gradients checked and averaged, the ranks' own pieces stepped, parameters sent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base import Structure
from .._core import Model
from .._rows import check_row_gradient
from ..reference import RULES
from ..sparse import SparseRows
from ._alike import step_facts
from ._growing import Growing

__all__ = ["Stepping"]

Array = NDArray[Any]


class Stepping(Growing):
    """The part of `Sharded` that steps.

    Attributes
    ----------
    _stepping, _dense
        The gradients of the step under way, and those among them that are arrays.
    _grad_scale, _summing
        What averaged gradients are divided by, and whether they are summed over several steps.
    """

    _stepping: list[Any]
    _dense: list[Array | None]
    _grad_scale: float
    _summing: bool

    def _share(self, model: Model, around: list[tuple[int, int]]) -> None:
        if len(around) == len(self._params):
            model.share_tensors(around, self._ends, self._begin, self._receive, self._ranks.sum, self._traffic.send)

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Average the gradients of all ranks and take one step, in place, on all of them.

        Parameters
        ----------
        grads
            This rank's gradients (see `Optimizer.step`); None for a parameter on all ranks or on none. With no
            argument, the gradients that were bound when the optimizer was made.
        grad_scale
            Averaged gradients are divided by it; the same on all ranks.

        Returns
        -------
        bool
            True when the step was taken, False when `skip_nonfinite` skipped it: the same on all ranks.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As one process raises them. Nothing has changed on any rank.
        RankError
            Another rank raised an error, or its options or gradients' dtypes are others. Nothing has changed on any
            rank.
        LostRankError
            Another rank did not answer in time.
        """
        with self._together("step()"):
            self._grad_scale = grad_scale
            whole = self._whole
            given = whole._grads if grads is None else grads
            if given is None:
                raise ValueError(
                    "grads: got None, needs the gradients; only an optimizer that was made with grads= can step "
                    "without them"
                )
            with whole._model.exclusive("step()", step=True):
                leaves = whole._tree.flatten(given, "grads")
            zero = self._part.zero_grads  # a schedule or another thread may set it meanwhile
            if whole._casts is not None:
                return whole._casts.run(leaves, zero, lambda flat: self._step(flat, grad_scale, zero), whole._model)
            return self._step(leaves, grad_scale, zero)

    def _step(self, leaves: list[Array | None], grad_scale: float, zero_grads: bool) -> bool:
        whole, part = self._whole, self._part
        self._summing = part.accumulate_steps > 1
        none: list[None] = [None] * len(leaves)
        # Row gradients as they are now: another thread may give them other arrays or indices meanwhile.
        every: list[Any] = [_kept(grad) if isinstance(grad, SparseRows) else grad for grad in leaves]
        rows = {i: grad for i, grad in enumerate(every) if isinstance(grad, SparseRows)}
        self._dense = [None if i in rows else grad for i, grad in enumerate(leaves)]
        whole._settings["zero_grads"] = zero_grads
        whole._configure()
        try:
            whole._model.bind(self._flat, self._dense)  # checks the gradients
            for tensor, grad in rows.items():
                self._check_rows(tensor, grad)
            whole._model.step_list(none, 1.0)  # checks that the parameters are where they were
            self._stepping, part._told = every, {}
            # A rank without elements of a tensor counts its steps too.
            flat: list[Any] = [None if grad is None else mine for grad, mine in zip(leaves, self._reduced, strict=True)]
            if rows:
                self._agree(None, self._facts)
                for tensor, grad in rows.items():
                    flat[tensor] = self._rows.receive(tensor, grad, whole._slots[tensor].compute)
                self._agreed = False  # the step itself may still fail
            given: Any = flat
            if part._grouped:
                leaf = iter(flat)
                given = [[next(leaf) for _ in range(length)] for length in self._lengths]
            if self._summing:
                self._exchange()
            counted, warned = part.steps_taken, None
            try:
                taken = part.step(given, grad_scale=grad_scale)
            except Warning as warning:  # an error by `-W error`
                if part.steps_taken == counted:
                    raise
                taken, warned = True, warning
            if not self._agreed:  # there was no native step, as gradients are still being summed up
                self._agree(None, lambda: [])
            if taken:
                self._rows.send()
        except BaseException as error:
            self._spread(error)
            raise
        finally:
            whole._model.bind(self._flat, none)  # lets go of the gradients
            self._stepping, self._dense, part._told = [], [], None
            self._rows.forget()
            if self._agreed and self._ranks.lost is None:
                self._traffic.finish()
        if (taken or self._summing) and zero_grads:
            for grad_ in every:
                if grad_ is not None:
                    (grad_.values if isinstance(grad_, SparseRows) else grad_)[...] = 0
        if warned is not None:
            self._told = warned  # the step is taken on all ranks, so this one goes on with them
            raise warned
        return taken

    def _check_rows(self, tensor: int, grad: SparseRows) -> None:
        """Check a gradient of rows before anything is sent."""
        slot, part = self._whole._slots[tensor], self._part
        if part.accumulate_steps > 1:
            raise TypeError(
                f"grads{slot.path}: got SparseRows with accumulate_steps={part.accumulate_steps}, needs an array"
            )
        for name in ("max_grad_norm", "skip_nonfinite"):
            if getattr(part, name):
                raise ValueError(f"{name}: got {getattr(part, name)!r} and SparseRows on several ranks, needs arrays")
        group = part._groups[slot.group]
        rule = RULES[part._rule_of(group)]
        options = {n: part._now(group[n]) for n in rule.hypers} | {n: group[n] for n in ("rounding", "ema_decay")}
        kept = [("params" + slot.path, slot.param), *part._slots[tensor].items()]
        check_row_gradient(
            rule, options, grad, "grads" + slot.path, slot.param, None, kept, bool(part._settings["zero_grads"])
        )

    def _begin(self) -> None:
        """Called by the native step when nothing is left that could fail on this rank alone."""
        if self._summing:
            self._agree(None, self._options)
            return
        self._agree(None, self._facts)
        self._traffic.start(self._dense, [grad is not None for grad in self._dense])

    def _receive(self, bucket: int) -> None:
        if not self._summing:
            self._traffic.receive(bucket)

    def _exchange(self) -> None:
        """With `accumulate_steps` gradients are averaged over the ranks first, and then added up by their owners."""
        self._agree(None, self._facts)
        received = self._part._summed.received
        self._traffic.start(self._dense, [g is not None or i in received for i, g in enumerate(self._stepping)])
        for bucket in range(len(self._traffic.buckets)):
            self._traffic.receive(bucket)
        self._agreed = False  # the step itself may still fail

    def _facts(self) -> list[tuple[str, str]]:
        return step_facts(self._whole._slots, self._stepping, self._grad_scale, self._part)


def _kept(grad: SparseRows) -> SparseRows:
    indices = grad.indices
    return SparseRows(indices.copy() if isinstance(indices, np.ndarray) else indices, grad.values)
