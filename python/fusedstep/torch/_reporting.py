"""What an optimizer for torch tells of itself: averages, and figures of a training and of single steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import _core
from .._metrics import numbers
from ..watching import Watch, watch, watched
from ._stepping import Stepping

__all__ = ["Reporting"]


class Reporting(Stepping):
    """What can be read of an optimizer."""

    def ema_params(self) -> list[list[Tensor]]:
        """The moving averages of the parameters, one list per group.

        An average begins with a parameter's first step; before it, and of one that is frozen, it is the parameter.

        Raises
        ------
        ValueError
            A group has no `ema_decay`.
        """
        self._check_edited()
        averages = []
        states = self.state
        for number, group in enumerate(self.param_groups):
            if group.get("ema_decay") is None:
                raise ValueError(f"param_groups[{number}]: has no averages, needs ema_decay")
            averages.append([states.get(param, {}).get("ema", param) for param in group["params"]])
        return averages

    def metrics(self) -> dict[str, float]:
        """What a training log wants to know, as a flat dict of floats.

        Returns
        -------
        dict
            ``"skipped_steps"``, ``"grad_norm"`` where it was computed, the hyper-parameters that are numbers, by group
            (``"lr"``, or ``"lr/0"``, ``"lr/1"``), and with `watch` the whole model's figures of the last watched step:
            ``"watch/ratio"`` and so on.
        """
        self._complete_groups()
        found: dict[str, float] = {"skipped_steps": float(self.skipped_steps)}
        if self.grad_norm is not None:
            found["grad_norm"] = self.grad_norm
        if self.max_grad_norm is not None:
            found["max_grad_norm"] = self.max_grad_norm
        rules = [self._rule_of(group) for group in self.param_groups]
        return found | numbers(rules, self._plain_groups()) | watched(self._watch)

    def watch(self, every: int = 10, *, keep: int = 1000) -> Watch:
        """See what steps do to every parameter, as `fusedstep.Optimizer.watch` does.

        Names are those of ``param_names`` where the groups have them (``opt = AdamW(model.named_parameters())``), else
        ``"0.1"``: group 0, parameter 1. With `apply_in_backward`, steps 1, 1 + `every`, ... of each parameter are
        watched.

        Raises
        ------
        TypeError, ValueError
            Not a whole number of at least 1, or an optimizer that is watched already.

        Examples
        --------
        >>> import torch
        >>> from fusedstep.torch import SGD
        >>> weight = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> opt = SGD([("weight", weight)], lr=0.5)
        >>> watch = opt.watch(every=10)
        >>> weight[1].mul(2).backward()
        >>> opt.step()
        >>> watch.last["weight"].update_norm
        1.0
        """
        self._complete_groups()
        self._stale()  # groups may have been put in by hand since the native model was made
        return watch(self._itself(), every, keep)

    def _watched_model(self) -> tuple[_core.Model | None, list[str], list[str], list[dict[str, Any]]]:
        paths = [slot.name.removeprefix("params") for slot in self._slots]
        return self._model, paths, [self._rule_of(group) for group in self.param_groups], self._plain_groups()
