"""From parameter groups to the native model: states, masters and averages, and the model that is made of them."""

from __future__ import annotations

import bisect
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import formats
from ._accumulating import Accumulating
from ._arguments import overlapping
from ._casting import ADVICE, Casts
from ._converting import constant, convert, spread
from ._core import Model, Tree
from ._directions import NumPyDirections
from ._floats import default_floats
from ._group_options import check_group
from ._groups import Group, Groups, unknown_option
from ._held import check_released
from ._hyper import check_hyper, check_hypers
from ._memory import Memory, mapping
from ._names import param_names
from ._placing import pack_states
from ._rows import check_row_gradient
from ._slots import Slot
from ._structures import tree
from ._views import Progress, progress
from .grouping import Grouping
from .reference import RULES, State
from .reference._rule import PARAM
from .sparse import SparseRows
from .watching import Watch

__all__ = ["AwaitedModel", "Making", "check_values"]

Array = NDArray[Any]

PARAM_DTYPES = frozenset(map(np.dtype, (np.float32, np.float64, np.float16)))  # and bfloat16


class Making(Accumulating):
    """What an optimizer is made of, and how it is made."""

    _model: Model
    _tree: Tree
    _groups: Groups
    _slots: list[Slot]
    _progress: Progress
    _grads: Any
    _memory: Memory
    _others: tuple[Any, ...] = ()  # the parameters of all groups while they are made
    _grouped: bool  # gradients are a list, with an entry for each of the structures
    _structures: list[Any]
    _next_number: int
    _starting = 0  # steps taken before there is a model
    _watch: Watch | None = None
    _taken: list[Extent] | None = None  # where arrays are, once groups were added

    @property
    def steps_taken(self) -> int:
        """Steps completed; skipped ones do not count."""
        model = getattr(self, "_model", None)
        return self._starting if model is None else int(model.steps_taken)

    @default_floats()
    def _make_group(
        self,
        given: Mapping[str, Any],
        number: int,
        grouped: bool,
        whole: Grouping | None = None,
        place: int | None = None,
    ) -> tuple[Group, list[Slot]]:
        """A group, or one of the groups of a whole, and what belongs to its parameters, checked one by one.

        `place` is where its parameters are among the structures, by default the group's number.
        """
        place = number if place is None else place
        defaults = self._defaults_of(given, number)
        unknown = sorted(given.keys() - defaults.keys() - {"params"}, key=str)
        if unknown:
            raise unknown_option(f"param_groups[{number}]", unknown[0], defaults)
        options = {"params": given["params"]} | defaults | {k: v for k, v in given.items() if k != "params"}
        check_group(self._rule_of(options), options, f'param_groups[{number}]["{{}}"]')
        group = Group(options, number)
        where = f'params[{place}]["params"]' if grouped else "params"
        structure = tree(group["params"], where)
        if not structure.leaves:
            raise ValueError(f"{where}: holds no arrays, needs at least one")
        prefix = f"[{place}]" * grouped
        paths = structure.paths if whole is None else [whole.paths[i] for i in whole.members[number]]
        used = self._used(group)
        slots = []
        for leaf, path in zip(structure.leaves, paths, strict=True):
            slots.append(self._make_slot(leaf, where + path, prefix + path, number, group, used))
        pack_states(slots, self._memory, self._near())
        for slot in slots:
            self._fill(slot, group, used)
        return group, slots

    def _near(self) -> list[Any]:
        """What new memory of a caller's function must not touch: all other parameters and states."""
        if not callable(self._memory):
            return []
        return [*self._others, *(a for slot in self._slots for a in (slot.param, *(a for _, a in slot.items())))]

    def _defaults_of(self, group: Mapping[str, Any], number: int) -> dict[str, Any]:
        """The options of a group that does not give its own."""
        return self.defaults

    def _rule_of(self, group: Mapping[str, Any]) -> str:
        """The update rule of a group."""
        return self.rule

    def _loaded(self) -> None:
        """Called when a state dict, from memory or a file, was taken in."""

    def _directions(
        self, groups: Sequence[Mapping[str, Any]], slots: Sequence[Slot], first: int
    ) -> NumPyDirections | None:
        """Memory for the directions of matrices; None for rules that have none."""
        return None

    def _make_slot(
        self, param: Any, where: str, path: str, number: int, group: dict[str, Any], used: tuple[State, ...]
    ) -> Slot:
        if not isinstance(param, np.ndarray) or hasattr(param, "mask"):
            raise TypeError(f"{where}: got {type(param).__name__}, needs a NumPy array")
        check_released(param, where)
        if param.dtype not in PARAM_DTYPES and not formats.is_bfloat16(param.dtype):
            raise TypeError(
                f"{where}: got dtype {param.dtype}, needs float32, float64, float16 or bfloat16 (ml_dtypes) in this "
                "machine's byte order; array.astype(numpy.float32) converts"
            )
        slot = Slot(param, path, number)
        # Arrays of no size for now: `pack_states` gives them memory, and `_fill` what is not the same everywhere.
        if (master := group["master"]) is not None:
            if not formats.is_bfloat16(param.dtype) and (master == "split" or param.dtype != np.float16):
                needed = "bfloat16" if master == "split" else "float16 or bfloat16"
                raise TypeError(f"{where}: got {param.dtype} with master={master!r}, needs {needed}")
            slot.master = spread(np.zeros(1, np.int16 if master == "split" else np.float32), param.shape)
        if group["ema_decay"] is not None:
            slot.ema = spread(np.zeros(1, slot.compute), param.shape)
        if self._accumulate_steps > 1:
            slot.grad_sum = spread(np.zeros(1, slot.compute), param.shape)
        for state in used:
            if state.shape(slot.array.shape, group, where) is not None:
                slot.states[state.name] = self._first_state(state, slot, group)
        return slot

    def _used(self, group: Mapping[str, Any]) -> tuple[State, ...]:
        """The states that a group's options call for."""
        rule = RULES[self._rule_of(group)]
        return rule.used({name: group[name] for name in rule.hypers})

    def _first_state(self, state: State, slot: Slot, group: Mapping[str, Any]) -> Any:
        """A state before the first step; zeros where `_fill` will write the values."""
        value = self._initial_state(state.name, slot, group)
        small = slot.is_small(group)
        shape = state.shape(slot.array.shape, group)
        return constant(0.0 if callable(value) else value, slot, state.kind, group["state_format"], small, shape)

    def _fill(self, slot: Slot, group: Mapping[str, Any], used: tuple[State, ...]) -> None:
        """Write first values that come from the parameter."""
        if slot.master is not None and not slot.split:
            slot.master[...] = slot.array
        if slot.ema is not None:
            slot.ema[...] = slot.array
        for state in used:
            value = self._initial_state(state.name, slot, group)
            if callable(value):
                convert(slot.states[state.name], value, state.kind)

    def _initial_state(self, name: str, slot: Slot, group: Mapping[str, Any]) -> float | Callable[[slice], Array]:
        """The first value of a state, or a function that returns those of a slice of the flattened parameter."""
        first = RULES[self._rule_of(group)].initial(name)
        return slot.piece if first == PARAM else self._first_number(first, group)

    def _initial_scalars(self, group: Mapping[str, Any]) -> list[float]:
        """The first values of the rule's scalar states."""
        return [self._first_number(first, group) for first in RULES[self._rule_of(group)].initial_scalars.values()]

    def _first_number(self, first: float | str, group: Mapping[str, Any]) -> float:
        """A number, or the hyper-parameter of that name as it is now."""
        if not isinstance(first, str):
            return first
        number: float = check_hyper(first, self._now(group[first]), rule=self._rule_of(group))
        return number

    def _native(
        self,
        groups: Sequence[dict[str, Any]],
        slots: Sequence[Slot],
        steps: Sequence[int],
        scalars: Sequence[list[float]],
        first: int = 0,
    ) -> Model:
        """A native model of these groups, the optimizer's from number `first` on."""
        this = weakref.ref(self)  # the model must not keep its optimizer alive
        check, cross_check = check_values(self, groups, first)

        def rows(index: int, grad: Any) -> Any:
            optimizer = this()
            assert optimizer is not None
            return optimizer._check_rows(index, grad)

        model = Model(self.rule, check, cross_check)
        model.set_row_check(rows, SparseRows, RULES[self.rule].rows_without)
        directions = self._directions(groups, slots, first)
        if directions is not None:
            model.set_product(directions)
        if not self._cast_grads:
            model.advise(ADVICE)
        for group in groups:
            model.add_group(group, self._rule_of(group))
        for i, (slot, step, values) in enumerate(zip(slots, steps, scalars, strict=True)):
            group = groups[slot.group - first]
            rule = RULES[self._rule_of(group)]
            model.add(
                slot.group - first,
                slot.param,
                [slot.states.get(state.name) for state in rule.states],
                path=slot.path,
                master=slot.master,
                stochastic=group["rounding"] == "stochastic",
                ema=slot.ema,
                direction=None if directions is None else directions.of(i, slot.array.shape),
                step=step,
                scalars=values,
            )
        model.finish()
        for i, slot in enumerate(slots):
            if slot.number != i:
                model.set_index(i, slot.number)
        return model

    def _build(self, steps: Sequence[int], scalars: Sequence[list[float]], taken: int) -> Model:
        """Make the native model from the groups and slots, in the place of the one before."""
        before = getattr(self, "_model", None)
        model = self._native(self._groups, self._slots, steps, scalars)
        structure = tree(self._structures if self._grouped else self._structures[0], "params")
        model.steps_taken = taken
        if before is not None:
            model.share_claim(before.real if isinstance(before, AwaitedModel) else before)
        casts = Casts(self._slots) if self._cast_grads else None
        self._adder = self._make_adder()
        self._configure(model)
        if self._grads is not None:
            grads = structure.flatten(self._grads, "grads")
            if casts is not None:
                grads = casts.readable(grads, self._settings["zero_grads"])
            (self._adder or model).bind(Tree(list(range(len(grads))), "params"), grads)
        if isinstance(self._memory, str):
            mapping[id(self)] = self
        self._tree, self._casts = structure, casts
        self._model = self._progress.model = model
        if self._watch is not None:
            self._watch._attach()
        return model

    def _watched_model(self) -> tuple[Model | None, list[str], list[str], list[dict[str, Any]]]:
        return (
            self._made_model(),
            [slot.path for slot in self._slots],
            [self._rule_of(group) for group in self._groups],
            [dict(group) for group in self._groups],
        )

    def _names(self) -> list[list[str]]:
        """The parameters' names, group by group."""
        return param_names(self._slots, len(self._groups), self._grouped)

    def _number(self, slots: Iterable[Slot]) -> None:
        """Give new parameters the next free numbers."""
        for slot in slots:
            slot.number = self._next_number
            self._next_number += 1

    def _made_model(self) -> Model:
        return self._model.make() if isinstance(self._model, AwaitedModel) else self._model

    def _check_rows(self, index: int, grad: Any) -> Any:
        slot = self._slots[index]
        group = self.param_groups[slot.group]
        rule = RULES[self._rule_of(group)]
        options = {n: self._now(group[n]) for n in rule.hypers} | {n: group[n] for n in ("rounding", "ema_decay")}
        kept = [("params" + slot.path, slot.param), *slot.items()]
        zero = self._settings["zero_grads"]
        return check_row_gradient(rule, options, grad, "grads" + slot.path, slot.param, slot.master, kept, zero)

    def _now(self, value: Any) -> Any:
        return value(self.steps_taken) if callable(value) else value

    def _check_together(self, group: Mapping[str, Any], number: int) -> None:
        rule = self._rule_of(group)
        values = {name: self._now(group[name]) for name in (*RULES[rule].hypers, "cautious")}
        check_hypers(rule, values, f'param_groups[{number}]["{{}}"]')

    def _check_apart(self, slots: list[Slot]) -> None:
        """Check that further parameters overlap no array that there is, and remember where all of them are."""
        taken = self._taken
        if taken is None:
            taken = sorted(_extents(self._slots), key=lambda extent: extent[0])
        added = _extents(slots)
        for begin, end, slot, name in added:
            after = bisect.bisect_right(taken, begin, key=lambda extent: extent[1])
            if after < len(taken) and taken[after][0] < end:
                other = taken[after]
                path = other[2].path if self._grouped else f"[0]{other[2].path}"
                raise overlapping(f"params{path}{other[3]}", f"params{slot.path}{name}")
        for extent in added:
            bisect.insort(taken, extent, key=lambda extent: extent[0])
        self._taken = taken


Extent = tuple[int, int, Slot, str]


def _extents(slots: Iterable[Slot]) -> list[Extent]:
    """Where the arrays of parameters begin and end, whose they are, and what messages call them beside the path."""
    extents = []
    for slot in slots:
        for name, array in (("", slot.param), *slot.items()):
            if array.size:
                begin = array.__array_interface__["data"][0]
                extents.append((begin, begin + array.nbytes, slot, f" {name}" if name else ""))
    return extents


def check_values(
    optimizer: Making, groups: Sequence[Mapping[str, Any]], first: int
) -> tuple[Callable[[int, str, Any], Any], Callable[[int], None]]:
    """How a model of these groups has one value checked, and all of a group's together."""
    this = weakref.ref(optimizer)

    def check(number: int, name: str, value: Any) -> Any:
        owner = this()
        assert owner is not None
        where = f'param_groups[{first + number}]["{name}"]'
        return check_hyper(name, owner._now(value), where, rule=owner._rule_of(groups[number]))

    def cross_check(number: int) -> None:
        owner = this()
        assert owner is not None
        owner._check_together(groups[number], first + number)

    return check, cross_check


class AwaitedModel:
    """Stands for the native model after groups were added, until it is needed: so adding many is not quadratic."""

    def __init__(self, optimizer: Making, real: Model) -> None:
        self.real = real
        self.steps, self.scalars, self.steps_taken = progress(real)
        self.optimizer = weakref.ref(optimizer)
        self.exclusive = real.exclusive

    def extend(self, count: int, scalars: list[float]) -> None:
        """Take in parameters that have made no step."""
        self.steps += [0] * count
        self.scalars += [scalars] * count

    def get_step(self, index: int) -> int:
        return self.steps[index]

    def get_scalars(self, index: int) -> list[float]:
        return self.scalars[index]

    def __len__(self) -> int:
        return len(self.steps)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.make(), name)

    def make(self) -> Model:
        """Make the model, and put it in this one's place."""
        optimizer = self.optimizer()
        assert optimizer is not None
        with self.exclusive("step()"):
            if isinstance(optimizer._model, AwaitedModel):
                optimizer._build(self.steps, self.scalars, self.steps_taken)
        return optimizer._model
