"""What every optimizer for torch shares: the native model behind ``step`` and when it has to be made anew."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import ref

import torch
from torch import Tensor
from torch.optim import optimizer as _torch

from .. import _core
from .._constructors import constructor
from .._hyper import check_hyper, unexpected
from .._metrics import numbers
from .._settings import Settings, check_settings
from .._step_options import GROUP_OPTIONS, MODEL_OPTIONS, STORAGE
from ..reference import RULES
from ..reference._about import PARAM
from ..watching import Watch, watch, watched
from . import _gradients, _sparse, _states
from ._building import Slot, build, check_places, make_slot
from ._loading import load, torchs_class, with_torchs_defaults
from ._options import check_group, check_implementation, likely_meant, plain
from ._parts import Parts, announce, distributed
from ._saved import packed, without

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from ..files._writing import Saving
    from ._directions import TensorDirections

__all__ = ["FusedOptimizer"]

# Methods of torch's optimizers that are left out here.
REPLACED = ("_init_group", "_process_value_according_to_param_policy")

# Attributes of the optimizer that a wrapper of it must not get in its place.
OWN = frozenset(
    (
        *("_settings", "_model", "_tensors", "_works", "_slots", "_exposed", "_counts", "_numbers", "_brought"),
        *("skipped_steps", "eager", "_pending", "_hosts", "_buffers", "_streams", "_parts", "_watch"),
    )
)
# Arguments of torch's that choose one of its implementations.
IMPLEMENTATION = ("foreach", "fused", "capturable", "differentiable")
NOTHING: dict[int, Tensor | None] = {}
TAKEN, SKIPPED, STALE = _core.StepAnswer.TAKEN, _core.StepAnswer.SKIPPED, _core.StepAnswer.STALE
_profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]


@torch.optim.Optimizer.profile_hook_step
def _with_hooks(optimizer: FusedOptimizer, *closure: Callable[[], Any]) -> Any:
    return optimizer._advance(*closure)


def _number(first: float | str, group: dict[str, Any]) -> float:
    """A number, or the hyper-parameter of that name."""
    return float(plain(group[first])) if isinstance(first, str) else first


def _option(name: str) -> property:
    """An option of the groups that have it, as an attribute of the optimizer."""

    def having(optimizer: FusedOptimizer) -> list[tuple[int, dict[str, Any]]]:
        groups = enumerate(optimizer.param_groups)
        return [(i, g) for i, g in groups if name in GROUP_OPTIONS or name in RULES[optimizer._rule_of(g)].hypers]

    def get(optimizer: FusedOptimizer) -> Any:
        groups = having(optimizer)
        first, value = (groups[0][0], groups[0][1].get(name)) if groups else (0, None)
        for number, group in groups:
            if plain(group.get(name)) != plain(value):
                raise AttributeError(
                    f"{name}: got {value!r} in param_groups[{first}] and {group.get(name)!r} in "
                    f'param_groups[{number}], needs one value for all groups; read param_groups[i]["{name}"]'
                )
        return value

    def put(optimizer: FusedOptimizer, value: Any) -> None:
        groups = having(optimizer)
        for number, group in groups:
            check_group(optimizer._rule_of(group), {**group, name: value}, f'param_groups[{number}]["{{}}"]')
        for _, group in groups:
            group[name] = value

    return property(get, put, doc=f"`{name}` of all parameter groups.")


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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in REPLACED:
            owner = next((base for base in cls.__mro__ if name in vars(base)), None)
            if owner is not None and owner.__module__.partition(".")[0] != "torch":
                raise TypeError(
                    f"{cls.__name__}.{name}: got a method of its own, needs torch's, as nothing here calls it; change "
                    "gradients, groups and states in step() before super().step(), or use the class of torch.optim"
                )
        if "rule" in cls.__dict__:
            for name in cls._options():
                setattr(cls, name, _option(name))
            if "__init__" not in cls.__dict__:
                setattr(cls, "__init__", constructor(cls, *cls._arguments()))  # noqa: B010  (mypy reads the stub)

    @classmethod
    def _arguments(cls) -> tuple[list[inspect.Parameter], str]:
        """What the constructor takes after the parameters, as the installed class of torch's, and its options' type."""
        parameters = list(inspect.signature(torchs_class(cls).__init__).parameters.values())[2:]
        return [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD], "Own"

    extra: ClassVar[dict[str, Any]] = {}
    """Options of torch's class that the rule has not, with their defaults: earlier versions of torch lack them."""

    counts_steps: ClassVar[bool] = True
    """Whether torch keeps a step count in the state."""

    kept_options: ClassVar[tuple[str, ...]] = STORAGE
    """Options of the groups that loading a state dict leaves as they are."""

    scalar_dtype: ClassVar[torch.dtype] = torch.float32
    """Of the tensors that hold scalar states: float32 as in torch, or float64 to resume with the same bits."""

    eager: bool
    """Whether each parameter is stepped, and gets its state, as its gradient arrives."""

    skipped_steps: int
    _watch: Watch | None
    _model: _core.Model | None
    _tensors: _core.TorchModel | None  # takes the steps of _model
    _works: list[Slot]
    _slots: list[Slot]
    _counts: dict[int, tuple[int, list[float], dict[str, ref[Tensor]]]]
    _brought: dict[int, Tensor | None]
    _numbers: dict[int, int]
    _claim: _core.Model
    _parts: Parts | None
    _itself: Callable[[], Any]
    _own: dict[str, Any]
    _exposed: bool

    def __init__(self, params: Any, hypers: dict[str, Any], options: Mapping[str, Any]) -> None:
        given = {**hypers, **options}
        check_implementation(given)
        for name in IMPLEMENTATION:
            given.pop(name, None)
        settings = check_settings({name: given.pop(name, value) for name, value in MODEL_OPTIONS.items()})
        first = {parameter.name: parameter.default for parameter in RULES[self.rule].arguments}
        own = {name: given.pop(name, value) for name, value in (self.extra | first | GROUP_OPTIONS).items()}
        accepted = {parameter.name: parameter.default for parameter in self._arguments()[0]}
        for name, value in list(given.items()):
            if name in accepted and value == accepted[name]:
                del given[name]  # of a later version of torch, and not in use
        if given:
            raise unexpected(type(self).__name__, min(given), self._options() | MODEL_OPTIONS.keys())
        theirs = {name: own.pop(name) for name in accepted if name in own}
        self._prepare(own, settings, 0)
        self._make(params, theirs)
        self.defaults.update(self._own)
        self.state = self._all_states()
        self._expose(False)

    def _prepare(self, own: dict[str, Any], settings: dict[str, Any], skipped: int) -> None:
        """Set the attributes that torch's optimizers have not, all of them on the instance.

        A wrapper that makes a subclass of this one and forwards what it has not itself would find a class's.
        """
        this = self.__dict__
        this["_itself"] = ref(self)
        this["_own"], this["_settings"], this["skipped_steps"], this["eager"] = own, settings, skipped, False
        this["_model"], this["_tensors"], this["_works"], this["_slots"], this["_exposed"] = None, None, [], [], True
        this["_counts"] = {}  # exact step counts and scalars of the model before, by the identity of the parameter
        this["_numbers"] = {}  # of the parameters in the model, by their identity, once they are needed
        this["_parts"] = None  # the other processes of distributed tensors
        this["_watch"] = None
        this["_brought"] = NOTHING  # by number, what stands for the parameters' own gradients
        this["_claim"] = _core.Model(self.rule)  # shared by all models that are made

    def _make(self, params: Any, hypers: dict[str, Any]) -> None:
        """Let the class of torch's check its arguments and make the groups."""
        super().__init__(params, **hypers)

    # ---- attributes ----

    @classmethod
    def _options(cls) -> frozenset[str]:
        """The hyper-parameters and options that a group may have for itself."""
        return frozenset((*RULES[cls.rule].hypers, *GROUP_OPTIONS))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN and "_itself" not in self.__dict__:  # this is a wrapper that forwards attributes
            setattr(self._itself(), name, value)
        elif "param_groups" not in self.__dict__ or name in self.__dict__ or hasattr(type(self), name):
            super().__setattr__(name, list(value) if name == "param_groups" else value)
        elif (meant := likely_meant(name, self._options())) is not None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}, did you mean {meant}?")
        else:
            super().__setattr__(name, value)

    # ---- what torch calls ----

    @property  # type: ignore[override]
    def state(self) -> _states.States:
        """The state of each parameter, as in ``torch.optim``."""
        if "state" not in self.__dict__:
            raise AttributeError("state")  # a wrapper that forwards attributes is asked next
        if not self._exposed:
            self._expose(True)
        return self._all_states()

    @state.setter
    def state(self, value: Any) -> None:
        this: FusedOptimizer = self._itself()
        this.__dict__["state"] = states = _states.States(dict, value)
        states.owner = self._itself
        this._stale()
        this._counts = {}
        this._expose(True)

    def _all_states(self) -> _states.States:
        """The states, which nobody else gets to see by this."""
        found: _states.States | None = self.__dict__.get("state")
        if found is None:  # this is a wrapper
            found = self._itself().__dict__["state"]
            assert found is not None
        return found

    def _expose(self, exposed: bool) -> None:
        """Note whether others may hold states: only then could they change unseen, and must be looked at.

        While others do not hold them, step counts are kept by the native model alone.
        """
        self._exposed = exposed
        if self._tensors is not None:
            self._tensors.states_exposed = exposed

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own (see ``torch.optim.Optimizer.add_param_group``)."""
        with self._claim.exclusive("add_param_group()"):
            if isinstance(param_group, dict):
                for name, value in self._own_of(param_group).items():
                    param_group.setdefault(name, value)
            super().add_param_group(param_group)
            group = self.param_groups[-1]
            try:
                check_group(self._rule_of(group), group, f'param_groups[{len(self.param_groups) - 1}]["{{}}"]')
            except Exception:
                self.param_groups.pop()
                raise
            self._stale()
        self._hook(group["params"])

    def _fill_in(self, group: dict[str, Any], where: str) -> None:
        """Give a group that was made by hand the options that it lacks."""
        params = group["params"]
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(f'{where}["params"]: got {type(params).__name__}, needs a list of tensors')
        params = params if isinstance(params, list) else list(params)
        for i, param in enumerate(params):
            if not isinstance(param, Tensor):
                raise TypeError(f'{where}["params"][{i}]: got {type(param).__name__}, needs a tensor')
        group["params"] = params
        for name, value in self._own_of(group).items():
            group.setdefault(name, value)
        hypers = RULES[self._rule_of(group)].hypers
        if not hypers.keys() <= group.keys() or "maximize" not in group:
            with_torchs_defaults(self, [group])
            group.setdefault("maximize", False)
        for name in hypers:
            if name not in group:
                raise ValueError(f'{where}: has no entry "{name}"')

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
                self._settle(answer, only)
            model = self._model
        if model is not None:
            model.warn_of_nonfinite()  # when all is done, as it may be an error

    def _number(self, param: Tensor) -> int:
        """The number of a parameter in the native model; beyond all if it has none."""
        if not self._numbers:
            self._numbers = {id(slot.param): i for i, slot in enumerate(self._slots)}
        return self._numbers.get(id(param), len(self._slots))

    def _settle(self, answer: _core.StepAnswer, only: Tensor | None) -> None:
        """Take a step that does not pass at once; `answer` is that of the native step."""
        sparse: dict[int, Callable[[], None]] = {}
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
            take()
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
            for i, copy in substitutes.items() if self.zero_grads else ():
                if copy is not None and (grad := self._slots[i].param.grad) is not None:
                    grad.zero_()

    def _load_works(self) -> None:
        """Fill the copies that take the step in their parameters' place."""
        for slot in self._works:
            if slot.work is not None and (slot.work.shape, slot.work.dtype) != (slot.param.shape, slot.param.dtype):
                self._build()
                break
        if not torch.is_inference_mode_enabled():
            for slot in self._works:
                if slot.param.is_inference():
                    raise RuntimeError(f"{slot.name} was made in inference mode, needs a step in inference mode")
        with torch.no_grad():
            self._copy_works()

    def _copy_works(self) -> None:
        for slot in self._works:
            assert slot.work is not None
            check_places(_states.local(slot.param), slot.name)
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
        for number, group in enumerate(self.param_groups):
            self._fill_in(group, f"param_groups[{number}]")
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

    def _watched_model(self) -> tuple[_core.Model | None, list[str], list[str], list[dict[str, Any]]]:
        paths = [slot.name.removeprefix("params") for slot in self._slots]
        return self._model, paths, [self._rule_of(group) for group in self.param_groups], self._plain_groups()

    def _plain_groups(self) -> list[dict[str, Any]]:
        """The options of the groups, their values as numbers."""
        found = []
        for group in self.param_groups:
            names = (*RULES[self._rule_of(group)].hypers, *GROUP_OPTIONS)
            found.append({name: plain(group[name]) for name in names if name in group})
        return found

    def watch(self, every: int = 10, *, keep: int = 1000) -> Watch:
        """See what steps do to every parameter, as `fusedstep.Optimizer.watch` does.

        Names are those of ``param_names`` where the groups have them (``opt = AdamW(model.named_parameters())``), else
        ``"0.1"``: group 0, parameter 1. With `apply_in_backward`, steps 1, 1 + `every`, ... of each parameter are
        watched.

        Raises
        ------
        TypeError, ValueError
            Not a whole number of at least 1, or an optimizer that is watched already.

        Examples
        --------
        >>> import torch
        >>> from fusedstep.torch import SGD
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> opt = SGD([("weight", weight)], lr=0.5)
        >>> watch = opt.watch(every=10)
        >>> weight[1].mul(2).backward()
        >>> opt.step()
        >>> watch.last["weight"].update_norm
        1.0
        """
        return watch(self._itself(), every, keep)

    def metrics(self) -> dict[str, float]:
        """What a training log wants to know, as a flat dict of floats.

        Returns
        -------
        dict
            ``"skipped_steps"``, ``"grad_norm"`` where it was computed, the hyper-parameters that are numbers, by group
            (``"lr"``, or ``"lr/0"``, ``"lr/1"``), and with `watch` the whole model's figures of the last watched step:
            ``"watch/ratio"`` and so on.
        """
        found: dict[str, float] = {"skipped_steps": float(self.skipped_steps)}
        if self.grad_norm is not None:
            found["grad_norm"] = self.grad_norm
        if self.max_grad_norm is not None:
            found["max_grad_norm"] = self.max_grad_norm
        rules = [self._rule_of(group) for group in self.param_groups]
        return found | numbers(rules, self._plain_groups()) | watched(self._watch)

    def _untouched(self) -> dict[int, set[str]]:
        """States of zeros that no step has changed, where torch has none, by the identity of their parameter."""
        if self.counts_steps:
            return {}
        counts = self._counts
        if (model := self._model) is not None:
            counts = {id(slot.param): (model.get_step(i), [], slot.untouched) for i, slot in enumerate(self._slots)}
        return {
            number: {name for name, tensor in untouched.items() if tensor() is not None}
            for number, (step, _, untouched) in counts.items()
            if step == 0 and untouched
        }

    def _is_active(self, param: Tensor) -> bool:
        """Whether a parameter takes part in the next step. Other parameters are not checked."""
        return param.grad is not None or (self.eager and param.requires_grad)

    def _hook(self, params: list[Tensor]) -> None:
        """Have parameters stepped as their gradients arrive, if this optimizer does that."""
        this = self._itself  # a parameter keeps its hooks: they must not keep the optimizer in turn

        def hook(param: Tensor) -> None:
            if (found := this()) is not None:
                found._arrived(param)

        for param in params if self.eager else ():
            if param.requires_grad:
                param.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def _arrived(self, param: Tensor) -> None:
        self._step(param)
        param.grad = None

    def _make_slot(self, param: Tensor, name: str) -> Slot:
        """Where the step on a parameter is taken."""
        return make_slot(param, name)

    def _rule_of(self, group: dict[str, Any]) -> str:
        """The update rule of a group."""
        return self.rule

    def _own_of(self, group: dict[str, Any]) -> dict[str, Any]:
        """This package's own options and their defaults, as a group has them."""
        return self._own

    def _has_count(self, group: dict[str, Any]) -> bool:
        """Whether the states of a group have a step count."""
        return self.counts_steps

    def _directions(self, slots: Sequence[Slot]) -> TensorDirections | None:
        """Memory for the directions of matrices; None for rules that have none."""
        return None

    def _initial_state(self, name: str, like: Tensor, group: dict[str, Any]) -> float | Tensor:
        """What a state starts from: a number for every element, or a tensor like the parameter."""
        first = RULES[self._rule_of(group)].initial(name)
        return like.detach() if first == PARAM else _number(first, group)

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        """What the rule's scalar states start from."""
        return [_number(first, group) for first in RULES[self._rule_of(group)].initial_scalars.values()]

    # ---- averages ----

    def ema_params(self) -> list[list[Tensor]]:
        """The moving averages of the parameters, one list per group.

        An average begins with a parameter's first step; before it, and of one that is frozen, it is the parameter.

        Raises
        ------
        ValueError
            A group has no `ema_decay`.
        """
        averages = []
        states = self.state
        for number, group in enumerate(self.param_groups):
            if group["ema_decay"] is None:
                raise ValueError(f"param_groups[{number}]: has no averages, needs ema_decay")
            averages.append([states.get(param, {}).get("ema", param) for param in group["params"]])
        return averages

    # ---- saving and copying ----

    def state_dict(self, *, state_format: str | None = None) -> dict[str, Any]:
        """Everything a resumed run needs.

        As torch's, with an entry ``"fusedstep"`` for what torch has no place for. ``torch.optim`` can load it, unless
        it holds 8-bit states: those it refuses.

        Parameters
        ----------
        state_format
            ``"float32"``, ``"bfloat16"`` or ``"8bit"`` converts the states; None saves them as they are.

        Raises
        ------
        ValueError
            Another `state_format`.
        """
        if state_format is not None:
            check_hyper("state_format", state_format)
        with self._claim.exclusive("state_dict()"):
            saved = super().state_dict()
            states, untouched = saved["state"], self._untouched()
            for group, numbers in zip(self.param_groups, saved["param_groups"], strict=True):
                for param, number in zip(group["params"], numbers["params"], strict=True):
                    if id(param) in untouched and number in states:
                        states[number] = without(states[number], untouched[id(param)])
                    if number in states:
                        states[number] = packed(self, param, group, states[number], state_format)
                        if not states[number]:
                            del states[number]
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
        with self._claim.exclusive("load_state_dict()"):
            load(self._itself(), state_dict)

    def save(self, path: str | os.PathLike[str], *, keep: int = 1, background: bool = False) -> Saving | None:
        """Save what `state_dict` holds to a ``.safetensors`` or ``.npz`` file, without a copy of it in memory.

        The file is there whole or not at all, under checksums, and holds no pickle; see `fusedstep.save`.

        Parameters
        ----------
        path
            The file. Arrays are called after ``param_names`` where the groups have them, else by number.
        keep
            How many files are kept, the new one among them.
        background
            Return once all is copied; the result's ``result()`` waits for the file.

        Raises
        ------
        OSError
            The folder is missing or read-only, or the disk is full. The file that was there is whole.
        TypeError
            States are parts of tensors, as of FSDP, or of a dtype that files do not have.
        """
        from ._files import save

        with self._claim.exclusive("save()"):
            return save(self._itself(), path, keep, background)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file that `save` made, as `load_state_dict` does from a state dict.

        Raises
        ------
        OSError
            The file cannot be read.
        TypeError, ValueError
            It was not saved here, was cut off or changed, or does not fit. Nothing has changed.
        """
        from ._files import load

        with self._claim.exclusive("load()"):
            load(self._itself(), path)

    def __getstate__(self) -> dict[str, Any]:
        with self._claim.exclusive("pickle"):
            kept = dict(super().__getstate__())
            untouched = self._untouched()
            kept["state"] = {p: without(state, untouched.get(id(p), ())) for p, state in self.state.items()}
        own = ("_own", "_settings", "skipped_steps", "eager")
        return kept | {name: getattr(self, name) for name in own}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = memo[id(self)] = object.__new__(type(self))
        with self._claim.exclusive("copy.deepcopy()"):
            state = deepcopy(self.__getstate__(), memo)
        copied.__setstate__(state)
        return copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        whole = "_settings" in state  # a copy of an optimizer; else what load_state_dict() has
        if whole:
            # One of an older version lacks options that came later.
            added = {name: value for name, value in GROUP_OPTIONS.items() if name not in state["defaults"]}
            state = state | {name: added | state[name] for name in ("defaults", "_own")}
            self._prepare(state["_own"], state["_settings"], state["skipped_steps"])
        super().__setstate__(state)
        self.state = self._all_states()
        for number, group in enumerate(self.param_groups):
            self._fill_in(group, f"param_groups[{number}]")
            if whole:
                self._hook(group["params"])
