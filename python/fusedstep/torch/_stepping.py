"""Steps of an optimizer for torch: the native model behind them, and when it has to be made anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import optimizer as _torch

from .. import _core
from ..watching import Watch
from . import _gradients, _sparse
from ._building import build
from ._making import Making
from ._parts import Parts, announce, distributed
from ._slots import TensorSlot, check_places
from ._states import check_mode, local, set_to_zero

__all__ = ["Stepping"]

NOTHING: dict[int, Tensor | None] = {}
TAKEN, SKIPPED, STALE = _core.StepAnswer.TAKEN, _core.StepAnswer.SKIPPED, _core.StepAnswer.STALE
_profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


@torch.optim.Optimizer.profile_hook_step
def _with_hooks(optimizer: Stepping, *closure: Callable[[], Any]) -> Any:
    return optimizer._advance(*closure)


class Stepping(Making):
    """How steps are taken."""

    _slots: list[TensorSlot]
    _works: list[TensorSlot]
    _numbers: dict[int, int]
    _parts: Parts | None
    _watch: Watch | None
    _brought: dict[int, Tensor | None]

    def _prepare(self, own: dict[str, Any], settings: dict[str, Any], skipped: int) -> None:
        super()._prepare(own, settings, skipped)
        this = self.__dict__
        this["_slots"], this["_works"] = [], []
        this["_numbers"] = {}  # of the parameters in the model, by their identity, once they are needed
        this["_parts"] = None  # the other processes of distributed tensors
        this["_watch"] = None
        this["_brought"] = NOTHING  # by number, what stands for the parameters' own gradients

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, in place.

        Parameters
        ----------
        closure
            Called first, with gradients enabled, to compute them; its result is returned.

        Raises
        ------
        TypeError, ValueError
            A gradient that does not fit its parameter, or a hyper-parameter out of its range. Nothing has changed.
        """
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or _torch._global_optimizer_pre_hooks
            or _torch._global_optimizer_post_hooks
            or _profiling()
        ):
            return _with_hooks(self) if closure is None else _with_hooks(self, closure)
        return self._advance(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch need not wrap it: hooks are called above

    def _advance(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    def _step(self, only: Tensor | None = None) -> None:
        """Step all parameters that have a gradient, or only this one."""
        if (parts := self._parts) is not None:
            parts.agreed = False
        try:
            self._take(only)
        except Exception as error:
            if distributed(self):
                announce(self, self._parts, error)
            raise

    def _take(self, only: Tensor | None) -> None:
        model, tensors, answer = self._model, self._tensors, STALE
        if tensors is not None and not self._works and not self._all_states().changed:
            answer = tensors.step(self.param_groups, 1.0, NOTHING, -1 if only is None else self._number(only))
        if answer is not TAKEN:
            with self._claim.exclusive("step()"):
                self._resolve(answer, only)
            model = self._model
        if model is not None:
            model.warn_of_nonfinite()  # when all is done, as it may be an error

    def _arrived(self, param: Tensor) -> None:
        self._step(param)
        if self._number(param) < len(self._slots):  # not taken out of the groups
            param.grad = None

    def _number(self, param: Tensor) -> int:
        """The number of a parameter in the native model; beyond all if it has none."""
        if not self._numbers:
            self._numbers = {id(slot.param): i for i, slot in enumerate(self._slots)}
        return self._numbers.get(id(param), len(self._slots))

    def _resolve(self, answer: _core.StepAnswer, only: Tensor | None) -> None:
        """Take a step that does not pass at once; `answer` is that of the native step."""
        sparse: dict[int, Callable[[bool], None]] = {}
        substitutes: dict[int, Tensor | None] = {}
        tensors, attempts = self._tensors, 0
        while answer is not TAKEN and answer is not SKIPPED:
            attempts += 1
            if attempts > 4:
                raise RuntimeError("parameters, gradients or states are being changed while a step is taken")
            if answer is STALE:
                if attempts > 1 or self._model is None or self._all_states().changed:
                    self._build()
                self._load_works()
                substitutes, sparse = dict(self._brought), {}
            else:
                for i in answer.which:
                    slot = self._slots[i]
                    grad = slot.param.grad
                    if grad is not None and grad.layout is not torch.strided:
                        sparse[i] = _sparse.prepare(self, slot, self.param_groups[slot.group])
                        substitutes[i] = None
                    else:
                        substitutes[i] = _gradients.fitting_copy(slot.param, slot.like, slot.name)
            number = -1 if only is None else self._number(only)
            if number == len(self._slots):
                return  # it was taken out of the groups
            tensors = self._tensors  # None where another thread has just cleared the states
            answer = STALE if tensors is None else tensors.step(self.param_groups, 1.0, substitutes, number)
        if sparse:
            self._expose(True)  # step counts are changed here
        for take in sparse.values():
            assert tensors is not None
            take(tensors.zeroes)
        self._finish(tensors, answer is TAKEN, substitutes)

    def _finish(self, tensors: _core.TorchModel | None, taken: bool, substitutes: dict[int, Tensor | None]) -> None:
        """What is left to do after the native step of a model."""
        if not taken:
            self.skipped_steps += 1
            return
        assert tensors is not None
        with torch.no_grad():
            for i in tensors.stepped() if any(slot.work is not None for slot in self._slots) else ():
                if (work := self._slots[i].work) is not None:
                    self._slots[i].param.copy_(work, non_blocking=True)
            # As the native step read the option: a hook or another thread may have set it since.
            for i, copy in substitutes.items() if tensors.zeroes else ():
                if copy is not None and (grad := self._slots[i].param.grad) is not None:
                    set_to_zero(grad)

    def _load_works(self) -> None:
        """Fill the copies that take the step in their parameters' place."""
        for slot in self._works:
            if slot.work is not None and (slot.work.shape, slot.work.dtype) != (slot.param.shape, slot.param.dtype):
                self._build()
                break
        for slot in self._works:
            if slot.param.is_inference():
                check_mode(slot.name)
        with torch.no_grad():
            self._copy_works()

    def _copy_works(self) -> None:
        for slot in self._works:
            assert slot.work is not None
            check_places(local(slot.param), slot.name)
            slot.work.copy_(slot.param)

    # ---- the native model ----

    def _stale(self) -> None:
        """Have the native model made anew before the next step."""
        model, tensors = self._model, self._tensors
        if model is None or tensors is None:
            return
        if self._watch is not None:
            self._watch._detach()
        tensors.states_exposed = True  # has it write the step counts, rounded to the tensors' dtype
        self._counts = {
            id(slot.param): (model.get_step(i), model.get_scalars(i), slot.untouched)
            for i, slot in enumerate(self._slots)
        }
        self._model, self._tensors, self._works, self._numbers, self._parts = None, None, [], {}, None

    def _build(self) -> None:
        self._stale()
        self._complete_groups()
        with self._all_states().completed():
            model, tensors, self._slots = build(self, self._counts)
        model.share_claim(self._claim)
        if distributed(self):
            self._parts = Parts(self._itself, [slot.param for slot in self._slots], tensors.stepped)
            model.share_parts(self._parts.begin, self._parts.sum)
        self._works = [slot for slot in self._slots if slot.work is not None]
        self._model, self._tensors = model, tensors
        self._brought = NOTHING
        self._configure()
        self._expose(self._exposed)
        self._all_states().changed = False
        self._counts = {}
        if self._watch is not None:
            self._watch._attach()
