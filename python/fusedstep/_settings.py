"""Options of a whole optimizer, which belong to no group."""

from __future__ import annotations

from typing import Any

from ._core import Model
from ._hyper import check_hyper
from ._step_options import MODEL_OPTIONS

__all__ = ["Settings", "check_settings"]


def check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Check all of them; return them with their own types."""
    return {name: check_hyper(name, settings[name]) for name in MODEL_OPTIONS}


class Settings:
    """The options as attributes; what is set holds from the next step on."""

    _settings: dict[str, Any]
    _model: Model | None

    def _stale(self) -> None:
        """Called when gradients will be read a first time, or no longer; a model of tensors is then made anew."""

    def _configure(self, model: Model | None = None) -> None:
        model = self._model if model is None else model
        if model is not None:
            kept = self._settings
            norm = kept["max_grad_norm"] or 0.0
            model.configure(norm, kept["skip_nonfinite"], kept["zero_grads"], kept["seed"])

    def _set(self, name: str, value: Any) -> None:
        self._settings = check_settings(self._settings | {name: value})
        self._configure()

    @property
    def max_grad_norm(self) -> float | None:
        """Norm that the gradients of the whole model are scaled down to."""
        value: float | None = self._settings["max_grad_norm"]
        return value

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        self._set("max_grad_norm", value)
        self._stale()

    @property
    def skip_nonfinite(self) -> bool:
        """Whether a step whose gradients hold an infinity or NaN is skipped."""
        return bool(self._settings["skip_nonfinite"])

    @skip_nonfinite.setter
    def skip_nonfinite(self, value: bool) -> None:
        self._set("skip_nonfinite", value)
        self._stale()

    @property
    def zero_grads(self) -> bool:
        """Whether a step leaves the gradients zero."""
        return bool(self._settings["zero_grads"])

    @zero_grads.setter
    def zero_grads(self, value: bool) -> None:
        self._set("zero_grads", value)

    @property
    def seed(self) -> int:
        """Seed of the noise of stochastic rounding."""
        return int(self._settings["seed"])

    @property
    def grad_norm(self) -> float | None:
        """Norm of the last step's gradients, all together and unscaled; None where it was not computed.

        It is with `max_grad_norm` and `skip_nonfinite`: ``max_grad_norm=math.inf`` computes the norm and clips nothing.
        """
        return self._model.grad_norm if self._model is not None else None
