"""What the optimizers for Keras share: everything around the formula of one step."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import keras
import torch
from keras.src.backend.common.stateless_scope import in_stateless_scope

from .._arguments import number, whole
from .._core import Model
from ..reference import RULES
from ..torch._options import plain
from ..watching import Watch, watch
from ._options import AROUND_A_STEP, checked
from ._stepper import NARROW, Row, Stepper, check_variable

__all__ = ["FusedStep"]

# Methods and properties of Keras that the native step stands for. Where a subclass or an instance has its own, every
# step is taken by Keras's code, which calls them. `learning_rate` and what the constructor sets are read at every step.
REPLACED = frozenset(
    (
        "assign",
        "assign_add",
        "assign_sub",
        "iterations",
        "update_step",
        "_apply_weight_decay",
        "_backend_increment_gradient_accumulators",
        "_backend_reset_gradient_accumulators",
        "_backend_update_step",
        "_clip_by_norm",
        "_clip_gradients",
        "_get_variable_index",
        "_overwrite_variable_with_gradient",
        "_parallel_update_step",
        "_update_model_variables_moving_average",
        "_use_weight_decay",
        "_var_key",
    )
)

# Those that `apply` leaves out where they would find nothing to do.
AROUND = frozenset(
    ("_check_variables_are_known", "_filter_empty_gradients", "_overwrite_variables_directly_with_gradients")
)


class FusedStep(keras.optimizers.Optimizer):
    """Goes before a class of ``keras.optimizers`` among the bases: one native call steps the whole model.

    The variables (iterations, learning rate, states, averages, accumulators) are those of the Keras class, so that
    saving, loading and callbacks know no difference. States of 16-bit variables are kept in float32. What a subclass
    overrides is called: see `REPLACED`.
    """

    _rule: ClassVar[str]
    """Name of the update rule."""

    _rule_hypers: ClassVar[tuple[str, ...]]
    """Attributes of the Keras class that the rule depends on."""

    _rule_states: ClassVar[tuple[str, ...]]
    """Attributes of the Keras class that hold the states, in the order of the rule's."""

    _rule_decays: bool = False
    """Whether the rule itself decays the weights as Keras does; else it is a pass of its own."""

    _fused_stepper: Stepper | None = None
    _fused_given: tuple[Any, ...] = ()
    _fused_checked: dict[str, Any] = {}  # noqa: RUF012  (replaced, never changed)

    _watch: Watch | None = None
    _fused_overridden: frozenset[str] | None = None  # None: not looked for yet

    def __setattr__(self, name: str, value: Any) -> None:
        if name in REPLACED or name in AROUND:  # a method of this instance's own
            self._fused_overridden = self._fused_stepper = None
        super().__setattr__(name, value)

    def _overridden(self) -> frozenset[str]:
        """The names in `REPLACED` and `AROUND` that are neither Keras's nor this class's."""
        if self._fused_overridden is None:
            known = {name: _provider(self, name) for name in REPLACED | AROUND}
            self._fused_overridden = frozenset(
                name for name, there in known.items() if there not in (None, FusedStep) and not _is_of_keras(there)
            )
        return self._fused_overridden

    def _rule_options(self, given: dict[str, Any], step: int) -> dict[str, Any]:
        """The rule's hyper-parameters, without the learning rate, from Keras's for the step of this number."""
        raise NotImplementedError

    def _rule_scalar(self, after: float | None = None) -> float | None:
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
            for variable in () if self._overridden() & REPLACED else variables:
                check_variable(variable)
            self._check_rule_hypers()
        super().build(variables)

    def add_variable_from_reference(self, reference_variable: Any, *args: Any, **kwargs: Any) -> Any:
        """Add an optimizer variable of a model variable's shape, of its dtype or, where that has 16 bits, float32."""
        if reference_variable.dtype in NARROW and not self._overridden() & REPLACED:
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
        if torch.compiler.is_compiling():  # see `_apply_aside`
            super().apply(grads, trainable_variables)
            return
        with self._fused_claimed("apply()", step=True):
            variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
            if not self._fused_is_plain(grads, variables):
                super().apply(grads, None if trainable_variables is None else variables)
                return
            self._backend_apply_gradients(grads, variables)
            self._iterations._value.add_(1)

    def save_own_variables(self, store: Any) -> None:
        """Save the optimizer's variables, as ``keras.optimizers.Optimizer.save_own_variables``."""
        with self._fused_claimed("save_own_variables()"):
            super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the optimizer's variables, as ``keras.optimizers.Optimizer.load_own_variables``."""
        with self._fused_claimed("load_own_variables()"):
            super().load_own_variables(store)

    def _fused_claimed(self, what: str, *, step: bool = False) -> Any:
        """A context that keeps the steps of other threads out: they would use and set one count of steps."""
        claim: Model | None = self.__dict__.get("_fused_claim")
        if claim is None:
            claim = self.__dict__.setdefault("_fused_claim", Model(self._rule))
        return claim.exclusive(what, step)

    def _fused_is_plain(self, grads: Sequence[Any], variables: Sequence[Any]) -> bool:
        """Whether there are gradients for known variables, to be stepped on here and now and nothing more."""
        if (
            self._fused_stepper is None
            or self._overridden()
            or self.loss_scale_factor is not None
            or len(grads) != len(variables)
        ):
            return False
        known = self._fused_stepper.numbers
        for grad, variable in zip(grads, variables, strict=True):
            if grad is None or variable.constraint is not None or id(variable) not in known:
                return False
        return bool(variables) and not in_stateless_scope()

    def _backend_apply_gradients(self, grads: Any, trainable_variables: Any) -> None:
        # In a stateless scope, values must not change in place. A variable that comes twice gets two steps in Keras.
        if in_stateless_scope() or self._overridden() & REPLACED or _come_twice(trainable_variables):
            with torch.set_grad_enabled(in_stateless_scope() and torch.is_grad_enabled()):
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
        with self._fused_claimed("apply()", step=True):
            self._apply_fused(grads, variables)

    def _apply_fused(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        given = self._check_rule_hypers()
        if self._fused_stepper is None or self._fused_stepper.moved():
            self._fused_stepper = self._make_fused_stepper()
            if self._watch is not None:
                self._watch._attach()
        stepper, every = self._fused_stepper, given["gradient_accumulation_steps"]
        # Everything is checked before the first sum, decay or average changes a variable.
        stepper.check_mode()
        if len(grads) != len(variables):
            raise ValueError(f"grads: got {len(grads)}, needs {len(variables)}, one for every variable")
        numbers = [stepper.numbers[id(v)] for v in variables]
        grads = stepper.fit(numbers, grads, read=bool(every or given["clipnorm"]))
        steps = whole("iterations", plain(self._iterations._value, "iterations"))
        rate = self._rate_now()
        totals = self._fused_totals(variables, numbers, every) if every else []
        if every or given["use_ema"] or given["weight_decay"]:
            stepper.check_memory()
        stepped = not every or (steps + 1) % every == 0
        left = self._fused_left_out(variables if stepped else []) if given["use_ema"] else []
        if not every:
            self._step_fused(stepper, given, rate, grads, numbers, steps, 1.0)
        else:
            torch._foreach_add_(totals, grads)
            steps //= every
            if stepped:
                self._step_fused(stepper, given, rate, totals, numbers, steps, float(every))
                torch._foreach_zero_([total.value for total in self._accumulated_gradients if total is not None])
        if given["use_ema"]:
            _average(left, given["ema_momentum"] if steps else 0.0)
            frequency = given["ema_overwrite_frequency"]
            if frequency and (steps + 1) % frequency == 0:
                self._overwrite_model_variables_with_average_value(self._trainable_variables)

    def _rate_now(self) -> float:
        rate = self.learning_rate
        return number("learning_rate", rate._value if isinstance(rate, keras.Variable) else rate)

    def _fused_totals(self, variables: Sequence[Any], numbers: Sequence[int], every: int) -> list[Any]:
        """The sums of the variables' gradients, checked."""
        assert self._fused_stepper is not None
        sums = getattr(self, "_accumulated_gradients", None)
        if not sums:
            raise ValueError(
                f"gradient_accumulation_steps: got {every}, needs None, as the optimizer was built without sums of "
                "gradients; make a new one"
            )
        totals = [sums[self._get_variable_index(v)].value for v in variables]
        fitting = self._fused_stepper.fit(numbers, totals, "sums of grads", read=True)
        for variable, total, fit in zip(variables, totals, fitting, strict=True):
            if total is not fit:
                raise TypeError(
                    f'sums of grads["{variable.path}"]: got {total.dtype} of strides {total.stride()}, needs those of '
                    "a new variable"
                )
        return totals

    # ---- what is seen of steps ----

    def watch(self, every: int = 10, *, keep: int = 1000) -> Watch:
        """See what steps do to every variable, as `fusedstep.Optimizer.watch` does; names are the variables' paths.

        With `gradient_accumulation_steps`, gradients are the means. Steps that Keras's own code takes, because a
        subclass replaces a part of them, are not seen.

        Raises
        ------
        TypeError, ValueError
            Not a whole number of at least 1, or an optimizer that is watched already.
        """
        return watch(self, every, keep)

    def _watched_model(self) -> tuple[Model | None, list[str], list[str], list[dict[str, Any]]]:
        stepper = self._fused_stepper
        if stepper is None:
            return None, [], [], []
        return (
            stepper.model,
            [f'["{path}"]' for path in stepper.paths],
            [self._rule] * len(stepper.groups),
            stepper.groups,
        )

    # ---- one step ----

    def _step_fused(
        self,
        stepper: Stepper,
        given: dict[str, Any],
        rate: float,
        grads: Sequence[Any],
        numbers: list[int],
        steps: int,
        grad_scale: float,
    ) -> None:
        decay = given["weight_decay"] or 0.0
        values = {"lr": rate, **self._rule_options(given, steps + 1)}
        if given["use_ema"]:
            values["ema_decay"] = given["ema_momentum"] if steps else 0.0
        # As Keras does where attributes set more than one of the three.
        clipped = next((n for n in ("clipnorm", "global_clipnorm", "clipvalue") if (given[n] or 0.0) > 0), None)
        values["clip_value"] = given["clipvalue"] if clipped == "clipvalue" else None
        for group, factor in zip(stepper.groups, (decay, 0.0), strict=True):
            group.update(values)
            group["weight_decay"] = factor if self._rule_decays else 0.0

        if clipped == "clipnorm":
            grads = _clip_each(grads, given["clipnorm"] * grad_scale)
        max_norm = given["global_clipnorm"] if clipped == "global_clipnorm" else 0.0
        if decay and not self._rule_decays:
            grads = stepper.shrink(numbers, 1.0 - decay * rate, grads, grad_scale)
        after = stepper.step(numbers, grads, steps, grad_scale, max_norm, self._rule_scalar())
        if after is not None:
            self._rule_scalar(after)

    def _check_rule_hypers(self) -> dict[str, Any]:
        """The options as plain numbers; checked again only after one was changed."""
        names = (*self._rule_hypers, *AROUND_A_STEP)
        given = tuple(getattr(self, name) for name in names)
        if len(given) != len(self._fused_given) or any(map(operator.is_not, given, self._fused_given)):
            options = {name: checked(name, value) for name, value in zip(names, given, strict=True)}
            if options != self._fused_checked:
                self._fused_stepper = None  # a new one checks that the states which the options call for are there
            self._fused_checked, self._fused_given = options, given
        return self._fused_checked

    def _make_fused_stepper(self) -> Stepper:
        rule = RULES[self._rule]
        lists = [getattr(self, name, None) or [] for name in self._rule_states]
        averages = getattr(self, "_model_variables_moving_average", None) if self.use_ema else None
        if self.use_ema and not averages and self._trainable_variables:
            raise ValueError(
                "use_ema: got True, needs False, as the optimizer was built without averages; make a new one"
            )
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
        start = rule.hypers | dict.fromkeys(("maximize", "cautious"), False)
        start |= {"clip_value": None, "ema_decay": 0.0 if self.use_ema else None}
        start |= {"lr": 0.0, **self._rule_options(self._fused_checked, 1)}
        inference = (v.path for v in (*self._trainable_variables, *self.variables) if v._value.is_inference())
        return Stepper(self._rule, rows, [dict(start), dict(start)], next(inference, None))

    def _fused_left_out(self, stepped: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Averages of the variables that the step leaves out and these: Keras averages all of them every time."""
        known = {id(variable) for variable in stepped}
        pairs = zip(self._trainable_variables, self._model_variables_moving_average, strict=True)
        return [(a.value, v.value) for v, a in pairs if a is not None and id(v) not in known]


def _provider(optimizer: FusedStep, name: str) -> type | None:
    """The class that an attribute comes from, the optimizer's own for one of the instance, None if there is none."""
    if name in vars(optimizer):
        return type(optimizer)
    return next((cls for cls in type(optimizer).__mro__ if name in vars(cls)), None)


def _is_of_keras(cls: type | None) -> bool:
    return cls is not None and cls.__module__.partition(".")[0] == "keras"


def _come_twice(variables: Sequence[Any]) -> bool:
    return len(set(map(id, variables))) < len(variables)


def _average(pairs: Sequence[tuple[Any, Any]], momentum: float) -> None:
    if pairs:
        torch._foreach_mul_([average for average, _ in pairs], momentum)
        torch._foreach_add_([average for average, _ in pairs], [value for _, value in pairs], alpha=1.0 - momentum)


def _clip_each(grads: Sequence[Any], most: float) -> Sequence[Any]:
    """Scale every gradient whose norm is above `most` down to it, as Keras does."""
    wide = [grad.float() if grad.dtype in (torch.float16, torch.bfloat16) else grad for grad in grads]
    return torch._foreach_mul(wide, [most / max(norm.item(), most) for norm in torch._foreach_norm(wide)])
