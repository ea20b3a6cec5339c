"""Base class of all optimizers: its arguments, parameter groups and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from ._accumulating import Summed, check_accumulate_steps
from ._attributes import shared_option
from ._constructors import constructor, docstring
from ._core import Model
from ._group_options import Number, Options, Structure, check_group
from ._groups import Groups, fixed
from ._hyper import check_hyper, unexpected
from ._keeping import Keeping
from ._making import AwaitedModel
from ._memory import check_memory
from ._option_trees import by_trees, is_tree
from ._settings import check_settings
from ._step_options import GROUP_OPTIONS, MODEL_OPTIONS, options_of
from ._structures import tree
from ._views import Progress
from .grouping import Grouping
from .reference import RULES

__all__ = ["Number", "Optimizer", "Options", "Structure", "is_group", "shared_option"]


class Optimizer(Keeping):
    """What all optimizers share; make one of its subclasses.

    Parameters
    ----------
    params
        The parameters, changed in place by every step: a C-contiguous array of float32, float64, float16 or
        bfloat16 (``ml_dtypes``), or any nesting of them in dicts and other mappings, lists, tuples, dataclasses and
        what `register_structure` knows, None where there is no array; or a list of parameter groups,
        ``[{"params": ..., "lr": 1e-4}, {"params": ...}]``, each with options of its own.
    defaults
        Hyper-parameters of the rule, for groups that do not give theirs.
    grads
        Gradients bound once, of the structure of `params`; then ``step()`` takes no argument. Fill the same
        arrays before each step.
    cast_grads
        Take gradients of any real dtype and layout, and of any object that NumPy can read in the CPU's memory
        (``__dlpack__``, ``__array__``, ``__array_interface__``): what a step cannot read as it is, is copied
        into a buffer that is reused.
    accumulate_steps
        Average the gradients of so many calls of `step` for one step: they are summed in the compute type, and
        the last call steps with their mean and clears the sum.
    maximize
        Ascend instead of descend.
    max_grad_norm
        The gradients of the whole model together are scaled down to this norm. Computing theirs reads them once
        more.
    clip_value
        Every gradient element is cut off at plus and minus this value, after the scaling.
    skip_nonfinite
        A step whose gradients hold an infinity or NaN, or would when divided by `grad_scale`, changes nothing
        and returns False. An optimizer counts it in `skipped_steps`.
    ema_decay
        Keeps an exponential moving average of the parameters, with this weight of the old average, in [0, 1).
    cautious
        Step only the elements whose step goes against their gradient; the step is divided by their share of the
        tensor, 0.001 at least (Liang et al., 2024, "Cautious optimizers: improving training with one line of
        code"). A pass before the step counts them. A decoupled weight decay goes on for all elements. Only for
        rules whose first moment or momentum can disagree with the gradient.
    zero_grads
        Set the gradients to zero in the same pass.
    state_format
        How states are stored: ``"float32"`` (float64 for float64 parameters), ``"bfloat16"`` or ``"8bit"``.
    min_quantized_size
        Parameters of fewer elements keep their states in the compute type whatever `state_format` says.
    master
        For 16-bit parameters: ``"float32"`` keeps a float32 copy, ``"split"`` (bfloat16) a 16-bit remainder
        that restores the float32 value exactly, None neither. Parameters that are changed between steps count
        with either: a copy is dropped where the parameter is no longer its rounding.
    rounding
        How 16-bit parameters without a master are rounded, ``"nearest"`` or ``"stochastic"``.
    seed
        Key of the noise of stochastic rounding.
    memory
        Where states, masters and averages live: None for ordinary memory; the path of a folder, for files
        without a name that are mapped; or a function that takes a number of bytes and returns a writeable
        buffer of them.

    Notes
    -----
    A hyper-parameter may be a callable of the number of steps completed, a schedule: ``lr=lambda t: 0.1 / (t + 1)``.

    Hyper-parameters and options are attributes as well: ``opt.lr = 1e-4`` sets it in all groups. Setting a name that
    there is not is an AttributeError. A subclass declares its own attributes in the class body, or begins their names
    with an underscore.

    Raises
    ------
    TypeError
        An argument of the wrong kind or dtype.
    ValueError
        A wrong value, shape or layout, or arrays that overlap in memory. Nothing has changed.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in vars(cls) and "rule" in vars(cls) and (arguments := RULES[cls.rule].arguments):
            setattr(cls, "__init__", constructor(cls, arguments, "Options"))  # noqa: B010  (mypy reads the stub)
            cls.__doc__ = docstring(cls, arguments)

    def __init__(self, params: Structure, defaults: dict[str, Any], options: Options) -> None:
        given: dict[str, Any] = dict(options)
        grads, cast_grads = given.pop("grads", None), given.pop("cast_grads", False)
        self._summed = Summed()
        self._accumulate_steps = check_accumulate_steps(given.pop("accumulate_steps", 1))
        self._memory = check_memory(given.pop("memory", None))
        unknown = sorted(given.keys() - GROUP_OPTIONS.keys() - MODEL_OPTIONS.keys())
        if unknown:
            raise unexpected(type(self).__name__, unknown[0], {*defaults, *options_of("numpy")})
        self.defaults = defaults | {name: given.get(name, value) for name, value in GROUP_OPTIONS.items()}
        params = self._split_by_trees(params)
        check_group(self.rule, self.defaults, "{}")
        self._settings = check_settings({name: given.get(name, value) for name, value in MODEL_OPTIONS.items()})

        grouped = _are_groups(params)
        self._grouped = grouped
        self._cast_grads = check_hyper("cast_grads", cast_grads)
        self.skipped_steps = 0
        self._next_number = 0
        self._slots = []
        if callable(self._memory):
            structures = [group["params"] for group in params] if grouped else [params]
            self._others = tuple(leaf for structure in structures for leaf in tree(structure, "params").leaves)
        whole = params.checked() if isinstance(params, Grouping) else None
        made = [
            self._make_group(group, i, grouped and whole is None, whole)
            for i, group in enumerate(params if grouped else [{"params": params}])
        ]
        self._groups = Groups([group for group, _ in made], self)
        self._slots = [slot for _, slots in made for slot in slots]
        self._structures = [group["params"] for group in self._groups]
        if whole is not None:
            self._grouped, self._structures = False, [fixed(whole.structure)]
            places = [i for members in whole.members for i in members]
            self._slots = [slot for _, slot in sorted(zip(places, self._slots, strict=True), key=lambda pair: pair[0])]
        self._others = ()
        self._number(self._slots)
        self._grads = grads
        self._progress = Progress()
        self._build([0] * len(self._slots), [self._initial_scalars(self._groups[s.group]) for s in self._slots], 0)

    def _split_by_trees(self, params: Structure) -> Structure:
        """Groups of the parameters where options are trees; of these, the rule's own defaults take the place."""
        if isinstance(params, np.ndarray):
            return params
        trees = {name: value for name, value in self.defaults.items() if is_tree(name, value, self.rule)}
        if not trees:
            return params
        if not isinstance(params, Grouping) and _are_groups(params):
            name, value = next(iter(trees.items()))
            raise TypeError(f"{name}: got {type(value).__name__}, needs one value; or give each group its own")
        hypers = RULES[self.rule].hypers
        split = by_trees(self.rule, hypers, params, trees)
        self.defaults |= {name: (hypers | GROUP_OPTIONS)[name] for name in trees}
        return split

    # ---- what a user does ----

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Take one step, in place.

        Parameters
        ----------
        grads
            Gradients of the structure of the parameters (a list with one entry per group where there are groups),
            in the parameter's dtype or a narrower one, or in any form with `cast_grads`. None for a parameter leaves
            it and its states alone. With no argument, the gradients that were bound when the optimizer was made.
        grad_scale
            Gradients are divided by it first; the arrays themselves are only read.

        Returns
        -------
        bool
            True when the step was taken or, with `accumulate_steps`, a gradient added; False when `skip_nonfinite`
            skipped the step.

        Raises
        ------
        TypeError
            A gradient of the wrong kind or dtype.
        ValueError
            A structure, shape or layout that does not fit the parameters, or a hyper-parameter out of its range.
            Nothing has changed.
        """
        model = self._model
        if type(grad_scale) is not float:
            grad_scale = check_hyper("grad_scale", grad_scale)
        if self._casts is not None or self._adder is not None:
            taken = self._step_copied(grads, grad_scale)
        else:
            taken = model.step_bound(grad_scale) if grads is None else model.step_tree(self._tree, grads, grad_scale)
        if not taken:
            self.skipped_steps += 1
        return taken

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """One dict per group: ``"params"`` and its hyper-parameters, which may be changed between steps.

        The list takes further groups, as `add_param_group` does, and other dicts in the place of its own, whose
        options are taken over.

        Raises
        ------
        ValueError
            On setting what the next step would not use: an unknown option, other parameters, another storage format,
            fewer groups.
        """
        return self._groups

    @param_groups.setter
    def param_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        if not isinstance(groups, (list, tuple)) or not all(is_group(group) for group in groups):
            raise TypeError(f'param_groups: got {type(groups).__name__}, needs a list of dicts with an entry "params"')
        kept = len(self._groups)
        if len(groups) < kept:
            raise ValueError(
                f"param_groups: got {len(groups)} groups, needs the {kept} that there are, as the optimizer holds "
                "their states; make a new optimizer of those that stay"
            )
        options = []
        for i, (group, given) in enumerate(zip(self._groups, groups[:kept], strict=True)):
            merged = {**self._defaults_of(group, i), **given}
            for name, value in merged.items():
                group.check(name, value)
            check_group(self._rule_of(group), merged, f'param_groups[{i}]["{{}}"]')
            options.append(merged)
        for group in groups[kept:]:
            self.add_param_group(group)
        for group, merged in zip(self._groups, options, strict=False):
            group.update(merged)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own, as ``torch.optim.Optimizer.add_param_group``.

        From then on gradients are a list with one entry per group.

        Raises
        ------
        ValueError
            Gradients were bound: their structure would no longer fit.
        """
        if not is_group(group):
            raise TypeError(f'group: got {type(group).__name__}, needs a dict with an entry "params"')
        if self._grads is not None:
            raise ValueError("add_param_group: gradients are bound to the old groups; make a new optimizer")
        with self._model.exclusive("add_param_group()"):
            number = len(self._groups)
            made, slots = self._make_group(group, number, True, place=len(self._structures))
            first = self._initial_scalars(made)
            self._native([made], slots, [0] * len(slots), [first] * len(slots), number)
            self._check_apart(slots)
            if len(self._groups) != number:  # `memory` and schedules are the caller's functions
                raise RuntimeError("add_param_group(): got a call from within itself, needs one after the other")
            if not self._grouped:
                for slot in self._slots:
                    slot.path = "[0]" + slot.path
                self._grouped = True
            self._groups.add(made)
            self._structures.append(made["params"])
            self._number(slots)
            self._slots.extend(slots)
            if not isinstance(self._model, AwaitedModel):
                self._model = self._progress.model = cast(Model, AwaitedModel(self, self._model))
            cast(AwaitedModel, self._model).extend(len(slots), first)


def _are_groups(params: Structure) -> bool:
    return isinstance(params, (list, tuple)) and bool(params) and all(is_group(p) for p in params)


def is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value
