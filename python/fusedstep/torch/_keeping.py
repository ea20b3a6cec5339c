"""How an optimizer for torch is saved, loaded, pickled and copied."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar

from .._arguments import flag
from .._held import check_held
from .._hyper import check_hyper
from .._names import needs
from .._restoring import restoring
from .._settings import check_settings
from .._step_options import GROUP_OPTIONS
from ..reference import RULES
from ._loading import load
from ._options import GROUPS, check_group, check_is_group
from ._reporting import Reporting
from ._saved import packed, without
from ._states import check_states, whole_number

if TYPE_CHECKING:
    import os

    from typing_extensions import Self

    from ..files._writing import Saving

__all__ = ["Keeping"]


class Keeping(Reporting):
    """What an optimizer is made of again."""

    _pickled: ClassVar[tuple[str, ...]] = (
        *("defaults", "state", "param_groups"),
        *("_own", "_settings", "skipped_steps", "eager"),
    )
    """Entries of the pickles of all versions."""

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
            self._check_memory()
            hooks = self._optimizer_state_dict_post_hooks
            later = dict(hooks)
            hooks.clear()  # they are for the dict that is returned
            try:
                saved = super().state_dict()
            except KeyError:
                raise ValueError(
                    "state: got one of a parameter that is in no group, needs none; del optimizer.state[param] drops it"
                ) from None
            finally:
                hooks.update(later)
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
            for hook in later.values():
                if (changed := hook(self, saved)) is not None:
                    saved = changed
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
            return save(self._itself().state_dict(), path, keep, background)

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
            load(path, self._itself().load_state_dict)

    def _check_memory(self) -> None:
        """Check that all states are there to be copied."""
        self._check_edited()
        for state in self._all_states().values():
            for name, value in state.items() if isinstance(state, dict) else ():
                check_held(value, f"state {name}")

    def __getstate__(self) -> dict[str, Any]:
        with self._claim.exclusive("pickle"):
            self._check_memory()
            for number, group in enumerate(self.param_groups):
                for i, param in enumerate(group["params"]):
                    check_held(param, f"params[{number}][{i}]")
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
        loaded = isinstance(state, dict) and state.keys() == {"state", "param_groups"}  # by load_state_dict()
        with restoring(self, state, () if loaded else self._pickled):
            self._restore(state, loaded)

    def _restore(self, state: dict[str, Any], loaded: bool) -> None:
        if not loaded:
            for name in ("defaults", "_own"):
                needs(state[name], dict, name, "a dict")
            # One of an older version lacks options that came later.
            added = {name: value for name, value in GROUP_OPTIONS.items() if name not in state["defaults"]}
            state = state | {name: added | state[name] for name in ("defaults", "_own")}
            first = {**state["defaults"], "params": []}
            self._with_torchs_defaults([first])
            if missing := RULES[self.rule].hypers.keys() - first.keys():
                raise ValueError(f"defaults: got none of {min(missing)!r}, needs one for every hyper-parameter")
            state["defaults"] = {name: value for name, value in first.items() if name != "params"}
            skipped = whole_number(state["skipped_steps"], "skipped_steps")
            self._prepare(state["_own"], check_settings(state["_settings"]), skipped)
            state = {**state, "_settings": self._settings, "eager": flag("eager", state["eager"])}
        needs(state["state"], Mapping, "state", "a dict of states")
        check_states(state["state"])
        needs(state["param_groups"], list, "param_groups", GROUPS)
        for number, group in enumerate(state["param_groups"]):
            check_is_group(group, f"param_groups[{number}]")
        super().__setstate__(state)
        self.state = self._all_states()
        self._check_edited()
        for number, group in enumerate(self.param_groups):
            where = f"param_groups[{number}]"
            self._fill_in(group, where)
            check_group(self._rule_of(group), group, where + '["{}"]')
        for group in () if loaded else self.param_groups:
            self._hook(group["params"])

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
