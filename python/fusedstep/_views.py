"""States as the caller sees them: read-only mappings whose arrays are the live ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, overload

from ._core import Model
from ._slots import Slot

__all__ = ["Progress", "StateView", "StateViews", "progress"]


def progress(model: Model) -> tuple[list[int], list[list[float]], int]:
    """Step counts and scalar states of every parameter, and the optimizer's own count of steps."""
    every = range(len(model))
    return [model.get_step(i) for i in every], [model.get_scalars(i) for i in every], model.steps_taken


class Progress:
    """Where an optimizer's step counts and scalars are: its native model, which may be made anew."""

    model: Model


class StateView(Mapping[str, Any]):
    """The state of one parameter, read-only as a mapping; its arrays are the live ones.

    Keys are ``"step"`` (int), the rule's states (``"exp_avg"``; with 8-bit storage the codes, and their scales
    under ``"exp_avg_scales"``), scalar states (float), and ``"master"``, ``"remainder"`` and ``"ema"`` where
    there are any.
    """

    def __init__(self, slot: Slot, progress: Progress, index: int, scalars: tuple[str, ...]) -> None:
        self._slot = slot
        self._progress = progress
        self._index = index
        self._scalars = scalars

    def _all(self) -> dict[str, Any]:
        found: dict[str, Any] = {"step": self._progress.model.get_step(self._index)}
        found.update(self._slot.items())
        if self._scalars:
            found.update(zip(self._scalars, self._progress.model.get_scalars(self._index), strict=True))
        return found

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


class StateViews(Sequence[StateView]):
    """The states of all parameters; each view is made when it is asked for."""

    def __init__(self, slots: list[Slot], progress: Progress, scalars: Sequence[tuple[str, ...]]) -> None:
        self._slots = slots
        self._progress = progress
        self._scalars = scalars  # by group

    def __len__(self) -> int:
        return len(self._slots)

    @overload
    def __getitem__(self, index: int) -> StateView: ...

    @overload
    def __getitem__(self, index: slice) -> list[StateView]: ...

    def __getitem__(self, index: int | slice) -> StateView | list[StateView]:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        slot = self._slots[place]
        return StateView(slot, self._progress, place, self._scalars[slot.group])

    def __repr__(self) -> str:
        return repr(list(self))
