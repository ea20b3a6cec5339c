"""What every schedule is: a callable of the number of steps completed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, SupportsIndex, runtime_checkable

from .._arguments import flag, whole
from .._restoring import restoring

__all__ = ["Schedule", "Stateful"]


class Schedule(ABC):
    """A hyper-parameter as a function of ``t``, the number of steps already completed.

    ``t`` is 0 for the first step, as torch.optim.lr_scheduler and optax count. A schedule returns a
    Python float, the same on every machine; it can be pickled, compared with ``==`` and printed as the
    call that makes it. Any other callable of ``t`` serves an optimizer as well.
    """

    def __call__(self, t: SupportsIndex, /) -> float:
        """Return the value for the step that follows `t` completed steps.

        Raises
        ------
        TypeError
            If `t` is not an integer.
        ValueError
            If `t` is negative, or above ``2**63 - 1``.
        """
        return self._value(whole("t", t))

    @abstractmethod
    def _value(self, t: int) -> float: ...

    def __repr__(self) -> str:
        # the call that makes it; keyword-only options are left out where they have their default
        shown = [
            f"{item.name}={getattr(self, item.name)!r}"
            for only in (False, True)
            for item in fields(self)  # type: ignore[arg-type]  # every concrete schedule is a dataclass
            if item.init and item.kw_only is only and not (only and getattr(self, item.name) == item.default)
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A subclass of others may have a constructor that must not run twice.
        if not type(self).__module__.startswith(f"{__package__}."):
            vars(self).update(state)
            return
        named = {item.name: item.init for item in fields(self)}  # type: ignore[arg-type]
        given = [name for name, init in named.items() if init]
        with restoring(self, state, given, set(state) - named.keys() if isinstance(state, dict) else ()):
            made = type(self)(**{name: state[name] for name in given})
            vars(self).update(vars(made))
            # What updates change; what none has changed yet may be the class's alone.
            later = {name: getattr(made, name) for name in named.keys() - set(given)}
            if later:
                own = {name: state[name] for name in later if name in state or name in vars(made)}
                self.load_state_dict(later | own)  # type: ignore[attr-defined]

    def _set(self, **values: object) -> None:
        # how a frozen dataclass stores its checked arguments
        for name, value in values.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True, repr=False)
class InEpochs(Schedule):
    """A schedule that counts whole epochs."""

    steps_per_epoch: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        self._set(steps_per_epoch=whole("steps_per_epoch", self.steps_per_epoch, low=1))

    def _epoch(self, t: int) -> float:
        return t // self.steps_per_epoch


@dataclass(frozen=True, repr=False)
class InPartsOfEpochs(InEpochs):
    """A schedule that counts whole epochs, or parts of them if it is told to."""

    whole_epochs: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("whole_epochs", self.whole_epochs)

    def _epoch(self, t: int) -> float:
        return super()._epoch(t) if self.whole_epochs else t / self.steps_per_epoch


@runtime_checkable
class Stateful(Protocol):
    """A schedule that remembers something beyond ``t`` and so is saved with the optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Take over what `state_dict` returned."""
