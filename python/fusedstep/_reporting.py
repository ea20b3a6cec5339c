"""What an optimizer tells of itself: states, averages, memory, figures of a training and of single steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ._arguments import same
from ._converting import stored_values
from ._group_options import Structure
from ._making import Making
from ._metrics import numbers
from ._step_options import GROUP_OPTIONS
from ._structures import rebuilt
from ._views import StateView, StateViews
from .reference import RULES
from .reference.watching import counted_state, effective_rates
from .watching import Watch, watch, watched

__all__ = ["Reporting"]


class Reporting(Making):
    """What can be read of an optimizer."""

    @property
    def nonfinite_blocks(self) -> int:
        """Blocks of 8-bit states that held an infinity or NaN in the last step (they read as NaN since)."""
        return self._model.nonfinite_blocks

    @property
    def state(self) -> Sequence[StateView]:
        """One mapping per parameter, in flattened order: ``{"step": 3, "exp_avg": array, ...}``."""
        scalars = [RULES[self._rule_of(group)].scalars for group in self._groups]
        return StateViews(self._slots, self._progress, scalars)

    def ema_params(self) -> Structure:
        """The moving averages in the structure of the parameters; the arrays are the live ones.

        Raises
        ------
        ValueError
            The optimizer, or one of its groups, was made without `ema_decay`.
        """
        averages = []
        for slot in self._slots:
            if slot.ema is None:
                raise ValueError(f"params{slot.path}: has no average, make the optimizer with ema_decay")
            averages.append(slot.ema)
        leaves = iter(averages)
        structures = [rebuilt(structure, lambda _: next(leaves)) for structure in self._structures]
        return structures if self._grouped else structures[0]

    def memory(self) -> dict[str, float]:
        """Bytes held per parameter (element), by kind: the parameters, each state, masters, averages.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedstep as fs
        >>> fs.Adam(np.zeros(8192, np.float32), state_format="8bit").memory()
        {'params': 4.0, 'exp_avg': 1.015625, 'exp_avg_sq': 1.015625, 'total': 6.03125}
        """
        elements = sum(slot.param.size for slot in self._slots) or 1
        held: dict[str, int] = {"params": sum(slot.param.nbytes for slot in self._slots)}
        for slot in self._slots:
            for name, array in slot.items():
                kind = name.removesuffix("_scales")
                held[kind] = held.get(kind, 0) + array.nbytes
        held["total"] = sum(held.values())
        return {kind: size / elements for kind, size in held.items()}

    def metrics(self) -> dict[str, float]:
        """What a training log wants to know, as a flat dict of floats: for TensorBoard, Weights & Biases or a CSV file.

        Returns
        -------
        dict
            ``"steps_taken"``, ``"skipped_steps"``, ``"nonfinite_blocks"``, ``"grad_norm"`` where it was computed,
            ``"accumulated"`` with `accumulate_steps`, and the hyper-parameters that are numbers, as the next step uses
            them: ``"lr"``, or ``"lr/0"``, ``"lr/1"`` of several groups; ``"betas[0]"`` of a pair. With `watch`, the
            whole model's figures of the last watched step: ``"watch/step"``, ``"watch/ratio"`` and so on
            (`WatchedStep.metrics`). The keys stay the same from step to step, but for ``"grad_norm"`` and those of
            `watch` before the first.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedstep as fs
        >>> opt = fs.SGD(np.zeros(2), lr=lambda t: 0.1 / (t + 1), max_grad_norm=1.0)
        >>> opt.step(np.array([3.0, 4.0]))
        True
        >>> found = opt.metrics()
        >>> found["grad_norm"], found["lr"], found["steps_taken"]
        (5.0, 0.05, 1.0)
        """
        found: dict[str, float] = {
            "steps_taken": float(self.steps_taken),
            "skipped_steps": float(self.skipped_steps),
            "nonfinite_blocks": float(self.nonfinite_blocks),
        }
        if (norm := self.grad_norm) is not None:  # read once, as another thread may step or set it
            found["grad_norm"] = norm
        if self.accumulate_steps > 1:
            found["accumulated"] = float(self.accumulated)
        if (most := self.max_grad_norm) is not None:
            found["max_grad_norm"] = most
        rules = [self._rule_of(group) for group in self._groups]
        return found | numbers(rules, self._groups, self._now) | watched(self._watch)

    def effective_rates(self) -> Structure:
        """The learning rate of every element, in the structure of the parameters.

        What the bias-corrected first moment is multiplied by (the gradient, for rules without one): for Adam
        ``lr / (sqrt(v_hat + eps_root) + eps)``, with the second moment as it is now and the hyper-parameters of the
        next step. Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 1. LAMB's and
        StableAdamW's leave out the factor of the whole tensor.

        Returns
        -------
        structure of arrays of float64
            New arrays. `WatchedStep.rates` has their histogram, at no cost.

        Raises
        ------
        ValueError
            The rule has one rate for all elements, or a parameter has taken no step.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedstep as fs
        >>> opt = fs.Adam({"W": np.ones(3)}, lr=0.1)
        >>> opt.step({"W": np.array([1.0, 2.0, 4.0])})
        True
        >>> opt.effective_rates()["W"].round(4)
        array([0.1  , 0.05 , 0.025])
        """
        leaves = self._rates()
        structures = [rebuilt(structure, lambda _: next(leaves)) for structure in self._structures]
        return structures if self._grouped else structures[0]

    def _rates(self) -> Iterator[NDArray[np.float64]]:
        """The learning rates of every element, parameter by parameter."""
        for slot, state in zip(self._slots, self.state, strict=True):
            group = self._groups[slot.group]
            rule = self._rule_of(group)
            name = counted_state(rule, group)
            if name is None:
                raise ValueError(f"effective_rates: got {rule}, needs a rule that divides by a root of second moments")
            if not state["step"]:
                raise ValueError(f"effective_rates: got params{slot.path} before its first step, needs one")
            kind = next(kept.kind for kept in RULES[rule].states if kept.name == name)
            hypers = {name: self._now(group[name]) for name in RULES[rule].hypers}
            second = stored_values(slot.states[name], kind, slot.compute)
            found = effective_rates(rule, second, state["step"], hypers)
            yield np.full(second.shape, hypers["lr"]) if found is None else found

    def watch(self, every: int = 10, *, keep: int = 1000) -> Watch:
        """See what steps do: norms of gradients, parameters and updates, and more, of every parameter.

        They are summed up in the pass that steps, on the watched steps alone.

        Parameters
        ----------
        every
            The next step is watched, and of those after it every so many.
        keep
            How many watched steps `Watch.history` keeps.

        Returns
        -------
        Watch
            ``watch.last["W1"].ratio``, ``watch.history``, ``watch.close()``. Copies of the optimizer, and loaded ones,
            are not watched.

        Raises
        ------
        TypeError, ValueError
            Not a whole number of at least 1, or an optimizer that is watched already.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedstep as fs
        >>> opt = fs.SGD({"W": np.array([3.0, 4.0])}, lr=0.5)
        >>> watch = opt.watch(every=10)
        >>> opt.step({"W": np.array([0.0, 2.0])})
        True
        >>> seen = watch.last["W"]
        >>> seen.grad_norm, seen.update_norm, seen.zeros
        (2.0, 1.0, 0.5)
        """
        return watch(self, every, keep)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        sizes = [0] * len(self._groups)
        for slot in self._slots:
            sizes[slot.group] += slot.param.size
        for size, group in zip(sizes, self._groups, strict=True):
            shown = {k: v for k, v in group.items() if k != "params" and not same(v, GROUP_OPTIONS.get(k, ...))}
            lines.append(f"  {size} parameters: " + ", ".join(f"{k}={v!r}" for k, v in shown.items()))
        return "\n".join([*lines, ")"])
