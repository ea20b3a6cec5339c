"""How an optimizer is saved, loaded, pickled and copied."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from . import _loading, _saving
from ._accumulating import NOTHING, Summed, check_accumulate_steps
from ._arguments import whole
from ._group_options import check_group
from ._groups import Group, Groups, fixed, same_memory
from ._hyper import check_hyper
from ._placing import pack_states
from ._reporting import Reporting
from ._restoring import restoring
from ._settings import check_settings
from ._step_options import GROUP_OPTIONS
from ._structures import rebuilt, tree
from ._views import Progress, progress
from .reference import RULES

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from .files._writing import Saving

__all__ = ["Keeping"]


# What an optimizer makes of the rest, and what pickles cannot have.
MADE_AGAIN = frozenset(("_model", "_memory", "_tree", "_casts", "_adder", "_taken", "_progress", "_groups", "_watch"))


class Keeping(Reporting):
    """What an optimizer is made of again."""

    _pickled: ClassVar[tuple[str, ...]] = (
        *("_progress", "param_groups", "_slots", "_settings", "_grouped", "_grads", "_next_number", "defaults"),
        "skipped_steps",
    )
    """Entries of the pickles of all versions."""

    def state_dict(self, *, state_format: str | None = None) -> dict[str, Any]:
        """Everything a resumed run needs, with the keys and layout of ``torch.optim``.

        Parameters
        ----------
        state_format
            Convert the states to this format first; None keeps each as it is.

        Returns
        -------
        dict
            ``"state"`` (by parameter number: ``"step"`` and copies of the arrays), ``"param_groups"`` (options, and
            the numbers of the parameters) and ``"fusedstep"`` (what torch has no place for). The parameters
            themselves are the caller's to save.
        """
        if state_format is not None:
            check_hyper("state_format", state_format)
        with self._model.exclusive("state_dict()"):
            return _saving.save(self._content(), state_format)

    def _check_shapes(self) -> None:
        rules = [RULES[self._rule_of(group)] for group in self._groups]
        for slot in self._slots:
            slot.check_shape(rules[slot.group], self._groups[slot.group])

    def _content(self) -> _saving.Content:
        self._check_shapes()
        counts = {"skipped_steps": self.skipped_steps}
        if self.accumulated:
            counts["accumulated"] = self.accumulated
        return _saving.Content(
            slots=self._slots,
            groups=self._groups,
            rules=[self._rule_of(group) for group in self._groups],
            names=self._names(),
            model=self._model,
            summed=self._summed.received,
            rule=RULES[self.rule].name,
            counts=counts,
            settings=self._settings,
            now=self._now,
        )

    def _for_file(self) -> tuple[dict[str, Any], dict[tuple[Any, ...], str]]:
        """The state dict with the live arrays, and what files call each parameter's, by its place in a file's tree."""
        names: dict[tuple[Any, ...], str] = {
            ("optimizer", "state", slot.number): f"optimizer{slot.path}" for slot in self._slots
        }
        return _saving.save(self._content(), None, copies=False), names

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict`, or one of ``torch.optim``, was made.

        States are converted to this optimizer's own formats where they differ; the options of the groups are taken
        over, but for formats and for hyper-parameters that are schedules here.

        Raises
        ------
        TypeError, ValueError
            It is of another model or optimizer, or holds values that do not fit. Nothing has changed.
        """
        with self._model.exclusive("load_state_dict()"):
            _loading.load(self, state_dict)

    def save(self, path: str | os.PathLike[str], *, keep: int = 1, background: bool = False) -> Saving | None:
        """Save what `state_dict` holds to a file, without a copy of it in memory.

        `fusedstep.save` says what the arguments mean, and saves the parameters as well.

        Raises
        ------
        OSError
            The folder is missing or read-only, or the disk is full. The file that was there is whole.
        """
        from .files._writing import save

        with self._model.exclusive("save()"):
            state, names = self._for_file()
            return save(path, {"optimizer": state}, names, keep=keep, background=background)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Continue from a file that `save` or `fusedstep.save` made, as `load_state_dict` does from a state dict.

        Raises
        ------
        OSError
            The file cannot be read. Nothing has changed, unless another program cut it off after the check.
        TypeError, ValueError
            It was not saved here, was cut off or changed, or does not fit. Nothing has changed.
        """
        from .files._reading import Opened

        with Opened(path) as file, file.named(), self._model.exclusive("load()"):
            _loading.load(self, file.tree("optimizer"))

    def __getstate__(self) -> dict[str, Any]:
        with self._model.exclusive("pickle"):
            self._check_shapes()
            kept = {k: v for k, v in self.__dict__.items() if k not in MADE_AGAIN}
            return kept | {"_progress": progress(self._model), "param_groups": [dict(g) for g in self._groups]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        there = getattr(self, "_model", None)  # of an optimizer that is made another one
        with contextlib.nullcontext() if there is None else there.exclusive("__setstate__()"):
            strange = [name for name in state if not self._may_have(name)] if isinstance(state, dict) else []
            with restoring(self, state, self._pickled, strange):
                self._restore(state)

    def _may_have(self, name: Any) -> bool:
        """Whether a state may have an entry of this name: attributes that this class or a subclass has."""
        if not isinstance(name, str) or name in MADE_AGAIN - {"_progress"}:
            return False
        return name.startswith("_") or name in self._attributes or hasattr(type(self), name)

    def _restore(self, state: dict[str, Any]) -> None:
        steps, scalars, taken = state["_progress"]
        object.__setattr__(self, "_memory", getattr(self, "_memory", None))  # unpickled: ordinary memory
        for name, value in state.items():
            if name not in ("_progress", "param_groups"):
                object.__setattr__(self, name, value)
        self._settings = check_settings(state["_settings"])
        self.skipped_steps = whole("skipped_steps", state["skipped_steps"])
        self._next_number = whole("_next_number", state["_next_number"])
        self._accumulate_steps = check_accumulate_steps(self._accumulate_steps)
        self._grouped, self._cast_grads = bool(state["_grouped"]), check_hyper("cast_grads", self._cast_grads)
        # What an older version has not: options that came later, and what it kept otherwise.
        self.defaults = GROUP_OPTIONS | self.defaults
        check_group(self.rule, self.defaults, 'defaults["{}"]')
        groups = [group | {n: v for n, v in GROUP_OPTIONS.items() if n not in group} for group in state["param_groups"]]
        for i, group in enumerate(groups):
            check_group(self._rule_of(group), group, f'param_groups[{i}]["{{}}"]')
        self._groups = Groups([Group(group, i) for i, group in enumerate(groups)], self)
        self._structures = list(state.get("_structures", [group["params"] for group in self._groups]))
        if "_summed" not in state:
            self._summed = Summed(state.get("_accumulated", 0), state.get("_received", NOTHING))
        self._summed = self._summed.checked(len(state["_slots"]))
        self._slots = [replace(slot, states=dict(slot.states)) for slot in state["_slots"]]
        without = [slot.path for slot in self._slots if slot.grad_sum is None]
        if len(without) not in (0, len(self._slots)) or (without and self._accumulate_steps > 1):
            raise ValueError(f"params{without[0]}: got no sum of gradients, needs one")
        self._progress = Progress()
        self._starting = taken
        self._join_structures()
        pack_states(self._slots, self._memory)
        self._build(steps, scalars, taken)

    def _join_structures(self) -> None:
        """Let the structures hold the parameters again where a pickler wrote each place of an array for itself."""
        params = [slot.param for slot in self._slots]
        held = [leaf for structure in self._structures for leaf in tree(structure, "params").leaves]
        if len(held) == len(params) and all(map(same_memory, held, params)):
            return
        members = [[slot.param for slot in self._slots if slot.group == i] for i in range(len(self._groups))]
        grouped = [leaf for group in self._groups for leaf in tree(group["params"], "params").leaves]
        if _kinds(held) != _kinds(params) or _kinds(grouped) != _kinds([leaf for group in members for leaf in group]):
            raise ValueError("_structures: got other arrays than the parameters, needs the same")
        leaves = iter(params)
        self._structures = [fixed(rebuilt(structure, lambda _: next(leaves))) for structure in self._structures]
        in_groups = (leaf for own in members for leaf in own)
        for group in self._groups:
            dict.__setitem__(group, "params", fixed(rebuilt(group["params"], lambda _: next(in_groups))))
        warnings.warn(
            f"{type(self).__name__}: got arrays that were written once for each place they are in (joblib.dump does), "
            'needs one array each; this optimizer steps those of its own, param_groups[0]["params"], and reads bound '
            "gradients of its own: take these, or write with pickle, or fusedstep.save",
            RuntimeWarning,
            stacklevel=2,
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with self._model.exclusive("copy.deepcopy()"):
            other = type(self).__new__(type(self))
            object.__setattr__(other, "_memory", self._memory)
            memo[id(self)] = other
            state = self.__getstate__()
            slots = state.pop("_slots")
            state = copy.deepcopy(state, memo)
            # The states are not copied here, as `pack_states` moves them to new memory.
            state["_slots"] = [
                replace(slot, param=copy.deepcopy(slot.param, memo), states=dict(slot.states)) for slot in slots
            ]
            other.__setstate__(state)
            return other

    def __copy__(self) -> Self:
        raise TypeError("two optimizers cannot share one set of states; use copy.deepcopy, or make a new one")


def _kinds(arrays: list[Any]) -> list[Any]:
    """What arrays that stand for each other have in common."""
    return [(array.shape, array.dtype) for array in arrays]
