"""What the optimizers for Keras share: everything around the formula of one step."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import keras
import torch
from keras.src.backend.common.stateless_scope import in_stateless_scope

from .._arguments import real
from ..reference import RULES
from ._stepper import NARROW, Row, Stepper, check_variable

__all__ = ["FusedStep"]

# The allowed range of every hyper-parameter; Keras itself checks few.
RANGES: dict[str, dict[str, float]] = {
    "momentum": {"low": 0.0},
    "rho": {"low": 0.0, "high": 1.0},
    "beta_1": {"low": 0.0, "below": 1.0},
    "beta_2": {"low": 0.0, "below": 1.0},
    "epsilon": {"low": 0.0},
    "weight_decay": {},
}


class FusedStep(keras.optimizers.Optimizer):
    """Goes before a class of ``keras.optimizers`` among the bases: one native call steps the whole model.

    The variables (iterations, learning rate, states, averages, accumulators) are those of the Keras class, so that
    saving, loading and callbacks know no difference. States of 16-bit variables are kept in float32.
    """

    rule: ClassVar[str]
    """Name of the update rule."""

    hypers: ClassVar[tuple[str, ...]]
    """Attributes of the Keras class that the rule depends on."""

    state_lists: ClassVar[tuple[str, ...]]
    """Attributes of the Keras class that hold the states, in the order of the rule's."""

    decays: bool = False
    """Whether the rule itself decays the weights as Keras does; else it is a pass of its own."""

    _stepper: Stepper | None = None
    _given: tuple[Any, ...] = ()
    _checked: dict[str, Any] = {}  # noqa: RUF012  (replaced, never changed)

    def options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """The rule's hyper-parameters, without the learning rate, from Keras's for the step of this number."""
        raise NotImplementedError

    def _scalar(self, after: float | None = None) -> float | None:
        """The rule's scalar state, for rules that have one; `after` is its value once a step was taken."""
        return None

    # ---- what Keras calls ----

    def build(self, variables: list[Any]) -> None:
        """Make the optimizer's variables.

        Raises
        ------
        TypeError, ValueError
            A variable of a dtype or on a device that no step can be taken on.
        """
        if not self.built:
            for variable in variables:
                check_variable(variable)
            self._check_hypers()
        super().build(variables)

    def add_variable_from_reference(self, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        """Add an optimizer variable of a model variable's shape, of its dtype or, where that has 16 bits, float32."""
        if reference_variable.dtype in NARROW:
            reference_variable = SimpleNamespace(
                shape=reference_variable.shape,
                dtype="float32",
                path=reference_variable.path,
                name=reference_variable.name,
            )
        return super().add_variable_from_reference(reference_variable, *args, **kwargs)

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Apply gradients, as ``keras.optimizers.Optimizer.apply``.

        When nothing is to be done around the step, what Keras looks at to find that out is left out: it costs more than
        the step of a small model.
        """
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        if not self._is_plain(grads, variables):
            super().apply(grads, trainable_variables)
            return
        self._backend_apply_gradients(grads, variables)
        self._iterations._value.add_(1)

    def _is_plain(self, grads: Sequence[Any], variables: Sequence[Any]) -> bool:
        """Whether there are gradients for known variables, to be stepped on here and now and nothing more."""
        if self._stepper is None or self.loss_scale_factor is not None or len(grads) != len(variables):
            return False
        known = self._stepper.numbers
        for grad, variable in zip(grads, variables, strict=True):
            if grad is None or variable.constraint is not None or id(variable) not in known:
                return False
        return bool(variables) and not in_stateless_scope() and not torch.compiler.is_compiling()

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        if in_stateless_scope():  # there, values must not change in place
            super()._backend_apply_gradients(grads, trainable_variables)
            return
        apply = self._apply_aside if torch.compiler.is_compiling() else self._apply_fused
        if torch.is_grad_enabled():
            with torch.no_grad():
                apply(grads, trainable_variables)
        else:
            apply(grads, trainable_variables)

    @torch.compiler.disable  # a compiled train step has nothing to compile here
    def _apply_aside(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        self._apply_fused(grads, variables)

    def _apply_fused(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        given = self._check_hypers()
        if self._stepper is None or self._stepper.moved():
            self._stepper = self._make_stepper()
        numbers = [self._stepper.numbers[id(v)] for v in variables]
        grads = self._stepper.fit(numbers, grads)
        steps, every = self._iterations._value.item(), self.gradient_accumulation_steps
        stepped = True
        if not every:
            self._step_fused(self._stepper, given, grads, numbers, steps, 1.0)
        else:
            totals = [self._accumulated_gradients[self._get_variable_index(v)].value for v in variables]
            torch._foreach_add_(totals, grads)
            stepped = (steps + 1) % every == 0
            steps //= every
            if stepped:
                self._step_fused(self._stepper, given, totals, numbers, steps, float(every))
                torch._foreach_zero_([total.value for total in self._accumulated_gradients if total is not None])
        if self.use_ema:
            self._average_rest(variables if stepped else [], steps)
            if self.ema_overwrite_frequency and (steps + 1) % self.ema_overwrite_frequency == 0:
                self._overwrite_model_variables_with_average_value(self._trainable_variables)

    # ---- one step ----

    def _step_fused(
        self,
        stepper: Stepper,
        given: dict[str, Any],
        grads: Sequence[Any],
        numbers: list[int],
        steps: int,
        grad_scale: float,
    ) -> None:
        rate = self._get_current_learning_rate()
        rate = rate._value.item() if isinstance(rate, keras.Variable) else float(rate)
        decay = given["weight_decay"] or 0.0
        values = {"lr": rate, **self.options(given, steps + 1)}
        if self.use_ema:
            values["ema_decay"] = float(self.ema_momentum) if steps else 0.0
        values["clip_value"] = float(self.clipvalue) if self.clipvalue and self.clipvalue > 0 else None
        for group, factor in zip(stepper.groups, (decay, 0.0), strict=True):
            group.update(values)
            group["weight_decay"] = factor if self.decays else 0.0

        max_norm = 0.0
        if self.clipnorm and self.clipnorm > 0:
            grads = _clip_each(grads, self.clipnorm * grad_scale)
        elif self.global_clipnorm and self.global_clipnorm > 0:
            max_norm = float(self.global_clipnorm)
        if decay and not self.decays:
            stepper.shrink(numbers, 1.0 - decay * rate)
        after = stepper.step(numbers, grads, steps, grad_scale, max_norm, self._scalar())
        if after is not None:
            self._scalar(after)

    def _check_hypers(self) -> dict[str, Any]:
        """The hyper-parameters as plain numbers; checked again only after one was changed."""
        names = (*self.hypers, "weight_decay")
        given = tuple(getattr(self, name) for name in names)
        if given != self._given or not self._checked:
            checked: dict[str, Any] = {}
            for name, value in zip(names, given, strict=True):
                if name not in RANGES:
                    checked[name] = bool(value)
                elif value is None and name == "weight_decay":
                    checked[name] = None
                else:
                    checked[name] = real(name, value.item() if hasattr(value, "item") else value, **RANGES[name])
            self._checked, self._given = checked, given
            self._stepper = None  # making it anew checks that the states which the options call for are there
        return self._checked

    def _make_stepper(self) -> Stepper:
        about = RULES[self.rule]
        lists = [getattr(self, name, None) or [] for name in self.state_lists]
        averages = self._model_variables_moving_average if self.use_ema else None
        rows = []
        for i, variable in enumerate(self._trainable_variables):
            if self._overwrite_variable_with_gradient(variable):
                continue
            rows.append(
                Row(
                    variable,
                    [states[i] if states else None for states in lists],
                    averages[i] if averages else None,
                    0 if self._use_weight_decay(variable) else 1,
                )
            )
        start = about.hypers | {"maximize": False, "clip_value": None, "ema_decay": 0.0 if self.use_ema else None}
        start |= {"lr": 0.0, **self.options(self._checked, 1)}
        return Stepper(self.rule, rows, [dict(start), dict(start)])

    def _average_rest(self, averaged: Sequence[Any], steps: int) -> None:
        """Average the variables that the step left out, as Keras averages all of them every time."""
        known = {id(variable) for variable in averaged}
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        left = [(v.value, a.value) for v, a in pairs if a is not None and id(v) not in known]
        if left:
            momentum = float(self.ema_momentum) if steps else 0.0
            torch._foreach_mul_([average for _, average in left], momentum)
            torch._foreach_add_([average for _, average in left], [value for value, _ in left], alpha=1.0 - momentum)


def _clip_each(grads: Sequence[Any], most: float) -> Sequence[Any]:
    """Scale every gradient whose norm is above `most` down to it, as Keras does."""
    wide = [grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad for grad in grads]
    return torch._foreach_mul(wide, [most / max(norm.item(), most) for norm in torch._foreach_norm(wide)])
