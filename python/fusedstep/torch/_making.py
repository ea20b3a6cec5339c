"""What an optimizer for torch is made of: groups, states, and what its rule says of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor

from .. import _core
from .._arguments import needs_entries
from .._names import needs
from .._settings import Settings
from .._step_options import GROUP_OPTIONS, STORAGE
from ..reference import RULES
from ..reference._rule import PARAM
from ._data_parallel import check_gradients_final
from ._directions import TensorDirections
from ._options import GROUPS, check_group, check_is_group, plain
from ._slots import TensorSlot, check_initialized, make_slot
from ._states import States, check_states

__all__ = ["Making"]


_compiling = torch.compiler.is_dynamo_compiling  # always False in code that is not being traced


def _number(first: float | str, group: dict[str, Any]) -> float:
    """A number, or the hyper-parameter of that name."""
    return float(plain(group[first])) if isinstance(first, str) else first


class Making(Settings, torch.optim.Optimizer):
    """Groups, their states and what stands for their parameters: all that a native model is made of."""

    rule: ClassVar[str]
    """Name of the update rule."""

    extra: ClassVar[dict[str, Any]] = {}
    """Options of torch's class that the rule has not, with their defaults: earlier versions of torch lack them."""

    counts_steps: ClassVar[bool] = True
    """Whether torch keeps a step count in the state."""

    kept_options: ClassVar[tuple[str, ...]] = STORAGE
    """Options of the groups that loading a state dict leaves as they are."""

    eager: bool
    """Whether each parameter is stepped, and gets its state, as its gradient arrives."""

    skipped_steps: int
    _tensors: _core.TorchModel | None  # takes the steps of _model
    _counts: dict[int, tuple[int, list[float], dict[str, ref[Tensor]]]]
    _claim: _core.Model
    _itself: Callable[[], Any]
    _own: dict[str, Any]
    _exposed: bool

    def _prepare(self, own: dict[str, Any], settings: dict[str, Any], skipped: int) -> None:
        """Set the attributes that torch's optimizers have not, all of them on the instance.

        A wrapper that makes a subclass of this one and forwards what it has not itself would find a class's.
        """
        this = self.__dict__
        this["_itself"] = ref(self)
        this["_own"], this["_settings"], this["skipped_steps"], this["eager"] = own, settings, skipped, False
        this["_model"], this["_tensors"], this["_exposed"] = None, None, True
        this["_counts"] = {}  # exact step counts and scalars of the model before, by the identity of the parameter
        this["_claim"] = _core.Model(self.rule)  # shared by all models that are made

    @classmethod
    def _options(cls) -> frozenset[str]:
        """The hyper-parameters and options that a group may have for itself."""
        return frozenset((*RULES[cls.rule].hypers, *GROUP_OPTIONS))

    @classmethod
    def _torchs_class(cls) -> Any:
        """The class of torch's that this one derives from; for this package's own, the base of all."""
        return next(base for base in cls.__mro__ if base.__module__.startswith("torch."))

    def _with_torchs_defaults(self, groups: list[dict[str, Any]]) -> None:
        """Fill in options that came later than a state dict or group, as the class of torch's does."""
        theirs = self._torchs_class()
        scratch = theirs.__new__(theirs)
        scratch.__setstate__({"state": {}, "param_groups": groups, "defaults": {}})

    # ---- states ----

    @property  # type: ignore[override]
    def state(self) -> States:
        """The state of each parameter, as in ``torch.optim``."""
        if "state" not in self.__dict__:
            raise AttributeError("state")  # a wrapper that forwards attributes is asked next
        if not self._exposed:
            self._expose(True)
        return self._all_states()

    @state.setter
    def state(self, value: Any) -> None:
        this: Making = self._itself()
        this.__dict__["state"] = states = States(dict, value)
        states.owner = self._itself
        this._stale()
        this._counts = {}
        this._expose(True)

    def _all_states(self) -> States:
        """The states, which nobody else gets to see by this."""
        found: States | None = self.__dict__.get("state")
        if found is None:  # this is a wrapper
            found = self._itself().__dict__["state"]
            assert found is not None
        return found

    def _check_edited(self) -> None:
        """Check what anyone may have put among the states and groups."""
        check_states(self._all_states())
        needs(self.param_groups, list, "param_groups", GROUPS)
        for number, group in enumerate(self.param_groups):
            where = f"param_groups[{number}]"
            check_is_group(group, where)
            params, names = group["params"], group.get("param_names")
            if isinstance(params, Tensor) or not isinstance(params, Collection):  # an iterator would be used up
                raise TypeError(f'{where}["params"]: got {type(params).__name__}, needs a list of tensors')
            params = params if isinstance(params, list) else list(params)
            for i, param in enumerate(params):
                needs(param, Tensor, f'{where}["params"][{i}]', "a tensor")
            group["params"] = params
            if names is not None:
                needs(names, (list, tuple), f'{where}["param_names"]', "a list of names")

    def _complete_groups(self) -> None:
        """Check what anyone may have put among the states and groups, and give groups the options that they lack."""
        self._check_edited()
        for number, group in enumerate(self.param_groups):
            self._fill_in(group, f"param_groups[{number}]")

    def _expose(self, exposed: bool) -> None:
        """Note whether others may hold states: only then could they change unseen, and must be read again.

        While others do not hold them, step counts are kept by the native model alone.
        """
        self._exposed = exposed
        if self._tensors is not None:
            self._tensors.states_exposed = exposed

    def _initial_state(self, name: str, like: Tensor, group: dict[str, Any]) -> float | Tensor:
        """What a state starts from: a number for every element, or a tensor like the parameter."""
        first = RULES[self._rule_of(group)].initial(name)
        return like.detach() if first == PARAM else _number(first, group)

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        """What the rule's scalar states start from."""
        return [_number(first, group) for first in RULES[self._rule_of(group)].initial_scalars.values()]

    # ---- groups ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see ``torch.optim.Optimizer.add_param_group``)."""
        with self._claim.exclusive("add_param_group()"):
            self._check_edited()
            if isinstance(param_group, dict):
                for name, value in self._own_of(param_group).items():
                    param_group.setdefault(name, value)
            super().add_param_group(param_group)
            group = self.param_groups[-1]
            try:
                check_group(self._rule_of(group), group, f'param_groups[{len(self.param_groups) - 1}]["{{}}"]')
                self._hook(group["params"])
            except Exception:
                self.param_groups.pop()
                raise
            self._stale()

    def _fill_in(self, group: dict[str, Any], where: str) -> None:
        """Give a group that was made by hand the options that it lacks."""
        for name, value in self._own_of(group).items():
            group.setdefault(name, value)
        hypers = RULES[self._rule_of(group)].hypers
        if not hypers.keys() <= group.keys() or "maximize" not in group:
            self._with_torchs_defaults([group])
            group.setdefault("maximize", False)
        needs_entries(where, group, *hypers)

    def _plain_groups(self) -> list[dict[str, Any]]:
        """The options of the groups, their values as numbers."""
        found = []
        for number, group in enumerate(self.param_groups):
            names = (*RULES[self._rule_of(group)].hypers, *GROUP_OPTIONS)
            where = f'param_groups[{number}]["{{}}"]'
            found.append({name: plain(group[name], where.format(name)) for name in names if name in group})
        return found

    def _rule_of(self, group: dict[str, Any]) -> str:
        """The update rule of a group."""
        return self.rule

    def _own_of(self, group: dict[str, Any]) -> dict[str, Any]:
        """This package's own options and their defaults, as a group has them."""
        return self._own

    def _has_count(self, group: dict[str, Any]) -> bool:
        """Whether the states of a group have a step count."""
        return self.counts_steps

    # ---- parameters ----

    def _is_active(self, param: Tensor) -> bool:
        """Whether a parameter takes part in the next step. Other parameters are not checked."""
        return param.grad is not None or (self.eager and param.requires_grad)

    def _make_slot(self, param: Tensor, name: str) -> TensorSlot:
        """Where the step on a parameter is taken."""
        return make_slot(param, name)

    def _directions(self, slots: Sequence[TensorSlot]) -> TensorDirections | None:
        """Memory for the directions of matrices; None for rules that have none."""
        return None

    def _facts(self) -> list[tuple[str, str]]:
        """What else must be the same in all processes that have parts of the parameters."""
        return []

    def _hook(self, params: list[Tensor]) -> None:
        """Have parameters stepped as their gradients arrive, if this optimizer does that."""
        if not self.eager:
            return
        check_gradients_final(params)
        for i, param in enumerate(params):
            check_initialized(param, f"params[{i}]")
        this = self._itself  # a parameter keeps its hooks: they must not keep the optimizer in turn
        checked = False

        def arrived(param: Tensor) -> None:
            nonlocal checked
            if (found := this()) is not None:
                if not checked:  # again, as the model may have been wrapped since
                    check_gradients_final([p for group in found.param_groups for p in group["params"]])
                    checked = True
                found._arrived(param)

        aside = torch._disable_dynamo(arrived)  # type: ignore[attr-defined]

        def hook(param: Tensor) -> None:
            (aside if _compiling() else arrived)(param)

        for param in params:
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def _arrived(self, param: Tensor) -> None:
        """Called with a parameter that has just got its gradient, if `eager`."""
