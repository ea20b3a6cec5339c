"""Optimizers for torch that need no learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.graph import increment_version

from .._hyper import check_hyper
from .._schedule_free import TRAIN_MODE, Weights, check_training, is_training, switch
from ..reference import RULES
from ._building import complete
from ._options import Options, plain
from ._slots import TensorSlot
from ._states import check_mode, flat
from .own_optimizers import OwnOptimizer

if TYPE_CHECKING:
    from .optimizers import Params

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ScheduleFree(OwnOptimizer):
    """What both have: parameters that are trained at one point and evaluated at another.

    Where they are is an entry ``"train_mode"`` of every parameter group, so it is saved and loaded with the groups.
    """

    def __init__(self, params: Params, hypers: dict[str, Any], options: Options) -> None:
        super().__init__(params, hypers, options)
        for options_of in (self.defaults, *self.param_groups):
            options_of[TRAIN_MODE] = True

    @property
    def training(self) -> bool:
        """Whether the parameters are those that gradients are taken at."""
        return all(is_training(group, i) for i, group in enumerate(self.param_groups))

    def eval(self) -> None:
        """Switch the parameters to the average (see `fusedstep.ScheduleFreeSGD.eval`); nothing if they are there."""
        self._switch(to_average=True)

    def train(self) -> None:
        """Switch the parameters back (see `fusedstep.ScheduleFreeSGD.train`); nothing if they are there."""
        self._switch(to_average=False)

    @torch.no_grad()
    def _switch(self, to_average: bool) -> None:
        with self._claim.exclusive("eval()" if to_average else "train()"):
            self._complete_groups()
            groups = [(i, g) for i, g in enumerate(self.param_groups) if is_training(g, i) == to_average]
            # The rule's own: a group may hold entries of the user's by any other name.
            name = "momentum" if "momentum" in RULES[self.rule].hypers else "betas"
            states = self._all_states()
            slots, weights = [], []
            for number, group in groups:
                where = f'param_groups[{number}]["{name}"]'
                value = check_hyper(name, plain(group[name], where), where, rule=self.rule)
                beta = float(value if name == "momentum" else value[0])
                for i, param in enumerate(group["params"]):
                    state = states.get(param, {})
                    if "z" not in state:  # before the first step both points are one
                        continue
                    try:
                        slot = self._make_slot(param, f"params[{number}][{i}]")
                    except (TypeError, ValueError):
                        if param.requires_grad:
                            raise
                        continue  # frozen and turned into something else
                    if param.is_inference():
                        check_mode(slot.name)
                    complete(self, state, slot.like, group, slot.name)
                    slots.append(slot)
                    weights.append(_weights(slot, state, beta, group["master"]))
            switch(weights, to_average)
            for slot in slots:
                if slot.work is None:
                    increment_version(slot.param)
                else:
                    slot.param.copy_(slot.work)
            for _, group in groups:
                group[TRAIN_MODE] = not to_average

    def _step(self, only: Tensor | None = None) -> None:
        with self._claim.exclusive("step()"):  # or another thread may call eval() in between
            check_training(self.param_groups)
            super()._step(only)

    def _restore(self, state: dict[str, Any], loaded: bool) -> None:
        super()._restore(state, loaded)
        for number, group in enumerate(self.param_groups):
            is_training(group, number)  # checks it

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters (see `FusedOptimizer.add_param_group`), in `eval` as well: new ones are the same at both
        points.
        """
        with self._claim.exclusive("add_param_group()"):
            training = self.training
            super().add_param_group(param_group)
            self.param_groups[-1][TRAIN_MODE] = training

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict` was made (see `fusedstep.ScheduleFreeSGD.load_state_dict`)."""
        groups = state_dict.get("param_groups") if isinstance(state_dict, Mapping) else None
        for i, saved in enumerate(groups if isinstance(groups, (list, tuple)) else ()):
            if isinstance(saved, Mapping) and TRAIN_MODE in saved:
                check_hyper(TRAIN_MODE, saved[TRAIN_MODE], f'state_dict["param_groups"][{i}]["{TRAIN_MODE}"]')
        with self._claim.exclusive("load_state_dict()"):
            super().load_state_dict(state_dict)
            for group in self.param_groups:
                group.setdefault(TRAIN_MODE, True)


def _weights(slot: TensorSlot, state: dict[str, Any], beta: float, master: str | None) -> Weights:
    """A parameter as `switch` takes it."""
    copy = {"float32": "master", "split": "remainder"}.get(master or "")
    return Weights(
        slot.name,
        _array(slot.like),
        str(slot.like.dtype).removeprefix("torch."),
        _array(state["z"]),
        beta,
        _array(state[copy]) if copy in state else None,
    )


def _array(tensor: Tensor) -> NDArray[Any]:
    """The elements in the order of memory, without a copy; 16-bit floats as bit patterns."""
    elements = flat(tensor)
    if elements.dtype in (torch.float16, torch.bfloat16):
        bits: NDArray[Any] = elements.view(torch.int16).numpy().view(np.uint16)
        return bits
    array: NDArray[Any] = elements.numpy()
    return array


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD (see `fusedstep.ScheduleFreeSGD`); switch with `train` and `eval`."""

    rule = "schedule_free_sgd"


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW (see `fusedstep.ScheduleFreeAdamW`); switch with `train` and `eval`."""

    rule = "schedule_free_adamw"
