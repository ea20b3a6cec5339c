"""What every optimizer for torch shares: the native model behind ``step`` and when it has to be made anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as _torch

from .. import _core
from .._settings import MODEL_OPTIONS, Settings, check_settings
from ..reference import RULES
from . import _gradients, _sparse, _states
from ._building import Slot, build
from ._loading import load
from ._options import GROUP_OPTIONS, check_group, check_implementation

__all__ = ["FusedOptimizer"]

NOTHING: dict[int, Tensor | None] = {}
_profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


@torch.optim.Optimizer.profile_hook_step
def _with_hooks(optimizer: FusedOptimizer, *closure: Callable[[], Any]) -> Any:
    return optimizer._advance(*closure)


class FusedOptimizer(Settings, torch.optim.Optimizer):
    """Base of the optimizers of this module; make one of its subclasses.

    A step is one call to native code for the whole model. It reads where parameters, gradients, states and step
    counts lie and takes them as they are; groups, options and states may be changed between steps as with
    ``torch.optim``.

    Attributes
    ----------
    skipped_steps : int
        Steps that `skip_nonfinite` left out.
    """

    rule: ClassVar[str]
    """Name of the update rule."""

    counts_steps: ClassVar[bool] = True
    """Whether torch keeps a step count in the state."""

    needs_whole_tensors: ClassVar[bool] = False
    """Whether a step needs more of a parameter than one process's part."""

    eager: bool = False
    """Whether parameters get their states before they have a gradient."""

    _model: _core.TensorModel | None = None
    _last: _core.TensorModel | None = None  # the one before, whose counts are still to be taken over

    def __init__(self, params: Any, hypers: dict[str, Any], options: Mapping[str, Any]) -> None:
        given = dict(options)
        check_implementation(given)
        for name in ("foreach", "fused", "capturable", "differentiable"):
            given.pop(name, None)
        extra = {name: value for name, value in RULES[self.rule].hypers.items() if name not in hypers}
        self._own: dict[str, Any] = {}
        for name, value in (extra | GROUP_OPTIONS).items():
            option = given.pop(name, value)
            if name == "maximize":
                hypers = hypers | {name: option}
            else:
                self._own[name] = option
        self._settings = check_settings({name: given.pop(name, value) for name, value in MODEL_OPTIONS.items()})
        if given:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {min(given)!r}")
        self.skipped_steps = 0
        self._stale()
        self._slots: list[Slot] = []
        self._make(params, hypers)
        self.defaults.update(self._own)
        self.state = self._all_states()
        self._expose(False)

    def _make(self, params: Any, hypers: dict[str, Any]) -> None:
        """Let the class of torch's check its arguments and make the groups."""
        super().__init__(params, **hypers)

    # ---- what torch calls ----

    @property  # type: ignore[override]
    def state(self) -> _states.States:
        """The state of each parameter, as in ``torch.optim``."""
        self._expose(True)
        return self._all_states()

    @state.setter
    def state(self, value: Any) -> None:
        self.__dict__["state"] = _states.States(dict, value)
        self._stale()
        self._expose(True)

    def _all_states(self) -> _states.States:
        """The states, which nobody else gets to see by this."""
        found: _states.States = self.__dict__["state"]
        return found

    def _expose(self, exposed: bool) -> None:
        """Note whether others may hold states: only then could they change unseen, and must be looked at.

        While others do not hold them, step counts are kept by the native model alone.
        """
        self._exposed = exposed
        if self._model is not None:
            self._model.states_exposed = exposed

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see ``torch.optim.Optimizer.add_param_group``)."""
        if isinstance(param_group, dict):
            for name, value in self._own.items():
                param_group.setdefault(name, value)
        super().add_param_group(param_group)
        try:
            check_group(self.rule, self.param_groups[-1], f'param_groups[{len(self.param_groups) - 1}]["{{}}"]')
        except Exception:
            self.param_groups.pop()
            raise
        self._stale()

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

    def _step(self, only: int = -1) -> None:
        """Step all parameters that have a gradient, or only the one of this number."""
        if self._model is None or self._all_states().changed:
            self._build()
        if self._works:
            self._load_works()
        done = self._model.step(self.param_groups, 1.0, NOTHING, only)  # type: ignore[union-attr]
        if done is not True or self._works:
            self._settle(done, only)

    def _settle(self, done: bool | list[int] | None, only: int) -> None:
        """Finish a step that did not pass at once; `done` is what the native step answered."""
        substitutes: dict[int, Tensor | None] = {}
        sparse: dict[int, Callable[[], None]] = {}
        attempts = 0
        while not isinstance(done, bool):
            attempts += 1
            if attempts > 4:
                raise RuntimeError("parameters, gradients or states are being changed while a step is taken")
            if done is None:
                self._build()
                self._load_works()
            else:
                for i in done:
                    slot = self._slots[i]
                    grad = slot.param.grad
                    if grad is not None and grad.layout is not torch.strided:
                        group = next(g for g in self.param_groups if any(p is slot.param for p in g["params"]))
                        sparse[i] = _sparse.prepare(self, slot, group)
                        substitutes[i] = None
                    else:
                        substitutes[i] = _gradients.fitting_copy(slot.param, slot.like, slot.name)
            assert self._model is not None
            done = self._model.step(self.param_groups, 1.0, substitutes, only)
        if sparse:
            self._expose(True)  # step counts are changed here
        for take in sparse.values():
            take()
        self._finish(done, substitutes)

    def _finish(self, taken: bool, substitutes: dict[int, Tensor | None]) -> None:
        """What is left to do after the native step."""
        if not taken:
            self.skipped_steps += 1
            return
        assert self._model is not None
        with torch.no_grad():
            for i in self._model.stepped() if self._works else ():
                if (work := self._slots[i].work) is not None:
                    self._slots[i].param.copy_(work)
            for i, copy in substitutes.items() if self.zero_grads else ():
                if copy is not None:
                    self._slots[i].param.grad.zero_()  # type: ignore[union-attr]

    def _load_works(self) -> None:
        """Fill the dense copies of parameters that have gaps."""
        with torch.no_grad():
            for slot in self._works:
                assert slot.work is not None
                slot.work.copy_(slot.param)

    # ---- the native model ----

    def _stale(self) -> None:
        """Have the native model made anew before the next step."""
        if self._model is not None:
            self._model.states_exposed = True  # has it write the step counts
            self._last = self._model
        self._model = None
        self._works: list[Slot] = []

    def _build(self) -> None:
        self._stale()
        before: dict[int, tuple[int, list[float]]] = {}
        if self._last is not None:  # the exact counts, of which tensors hold the rounded ones
            for i, slot in enumerate(self._slots):
                before[id(slot.param)] = self._last.get_step(i), self._last.get_scalars(i)
        model, self._slots = build(self, before)
        self._works = [slot for slot in self._slots if slot.work is not None]
        self._model = model
        self._configure()
        self._expose(self._exposed)
        self._all_states().changed = False
        self._last = None

    def _rule_of(self, group: dict[str, Any]) -> str:
        """The update rule of a group; all of an optimizer's have the same hyper-parameters and states."""
        return self.rule

    def _initial_state(self, name: str, like: Tensor, group: dict[str, Any]) -> float | Tensor:
        """What a state starts from: a number for every element, or a tensor like the parameter."""
        return 0.0

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        """What the rule's scalar states start from."""
        return []

    # ---- averages ----

    def ema_params(self) -> list[list[Tensor]]:
        """The moving averages of the parameters, one list per group; they begin with the first step.

        Raises
        ------
        ValueError
            A group has no `ema_decay`, or one of its parameters took no step yet.
        """
        averages = []
        for number, group in enumerate(self.param_groups):
            if any("ema" not in self.state.get(param, {}) for param in group["params"]):
                raise ValueError(f"param_groups[{number}]: has no averages; they need ema_decay and a step")
            averages.append([self.state[param]["ema"] for param in group["params"]])
        return averages

    # ---- saving and copying ----

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs; ``torch.optim`` can load it too.

        As torch's, with an entry ``"fusedstep"`` for what torch has no place for.
        """
        saved = super().state_dict()
        saved["fusedstep"] = {"rule": self.rule, "skipped_steps": self.skipped_steps, **self._settings}
        return saved

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict`, or one of ``torch.optim``, was made.

        States are converted to this optimizer's own formats; the options of the groups are taken over, but for those
        formats.

        Raises
        ------
        TypeError, ValueError
            It is of another model, or holds values that do not fit. Nothing has changed.
        """
        load(self, state_dict)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(super().__getstate__())
        return kept | {"_own": self._own, "_settings": self._settings, "skipped_steps": self.skipped_steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._slots = []
        self.state = self._all_states()
        self._last = None
        self._expose(True)
        for group in self.param_groups:
            for name, value in self._own.items():
                group.setdefault(name, value)
