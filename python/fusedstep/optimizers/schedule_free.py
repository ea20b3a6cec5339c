"""Optimizers that need no learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .._base import Optimizer, Options, Structure
from .._hyper import check_hyper
from .._schedule_free import TRAIN_MODE, Weights, check_training, is_training, switch
from .._slots import Slot
from ..formats import HALF

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ScheduleFree(Optimizer):
    """What both have: parameters that are trained at one point and evaluated at another.

    Where they are is an entry ``"train_mode"`` of every parameter group, so it is saved and loaded with the groups.
    """

    _unstepped: list[int] | None = None  # numbers of the parameters without a step; None: not known

    def __init__(self, params: Structure, defaults: dict[str, Any], options: Options) -> None:
        super().__init__(params, defaults | {TRAIN_MODE: True}, options)

    @property
    def training(self) -> bool:
        """Whether the parameters are those that gradients are taken at."""
        return all(is_training(group, i) for i, group in enumerate(self.param_groups))

    def eval(self) -> None:
        """Switch the parameters to the average, where the model is evaluated and saved; nothing if they are there.

        Raises
        ------
        OverflowError
            A float16 parameter would end beyond the largest float16. Nothing has changed.
        ValueError
            A parameter cannot be written. Nothing has changed.
        """
        self._switch(to_average=True)

    def train(self) -> None:
        """Switch the parameters back to where gradients are taken; nothing if they are there.

        They are computed from the parameters as they are then and the state ``z``: weights that were loaded or changed
        since `eval` count, and others come back within rounding.

        Raises
        ------
        OverflowError, ValueError
            As `eval`.
        """
        self._switch(to_average=False)

    def _switch(self, to_average: bool) -> None:
        with self._model.exclusive("eval()" if to_average else "train()"):
            groups = {i: g for i, g in enumerate(self.param_groups) if is_training(g, i) == to_average}
            betas = {i: self._beta(i) for i in groups}
            weights = [
                _weights(slot, betas[slot.group])
                for i, slot in enumerate(self._slots)
                if slot.group in groups and self._model.get_step(i) > 0  # before the first step both points are one
            ]
            switch(weights, to_average)
            for group in groups.values():
                group[TRAIN_MODE] = not to_average

    def _beta(self, number: int) -> float:
        """How much of the average a parameter is."""
        group = self.param_groups[number]
        name = "momentum" if "momentum" in group else "betas"
        value = check_hyper(name, self._now(group[name]), f'param_groups[{number}]["{name}"]', rule=self.rule)
        return float(value if name == "momentum" else value[0])

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Take one step (see `Optimizer.step`); the parameters must be those of `train`.

        Raises
        ------
        RuntimeError
            They are those of `eval`.
        """
        with self._model.exclusive("step()"):  # or another thread may step, or call eval(), in between
            check_training(self.param_groups)
            if self._unstepped is None:
                self._unstepped = [i for i in range(len(self._slots)) if self._model.get_step(i) == 0]
            if not self._unstepped:
                return super().step(grads, grad_scale=grad_scale)
            before = []
            try:
                for i in self._unstepped:  # z begins at the parameter as it is now, which may have been loaded since
                    z, values = self._slots[i].states["z"], self._slots[i].values()
                    if not np.array_equal(z, values):
                        before.append((z, z.copy()))
                        z[...] = values
                taken = super().step(grads, grad_scale=grad_scale)
            except BaseException:
                for z, kept in before:
                    z[...] = kept
                raise
            self._unstepped = [i for i in self._unstepped if self._model.get_step(i) == 0]
            return taken

    def _restore(self, state: dict[str, Any]) -> None:
        def with_mode(options: dict[str, Any]) -> dict[str, Any]:
            return options if TRAIN_MODE in options else options | {TRAIN_MODE: True}

        groups = [with_mode(group) for group in state["param_groups"]]
        for number, group in enumerate(groups):
            is_training(group, number)  # checks it
        super()._restore({**state, "defaults": with_mode(state["defaults"]), "param_groups": groups})
        self._loaded()

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters (see `Optimizer.add_param_group`), in `eval` as well: new ones are the same at both points."""
        with self._model.exclusive("add_param_group()"):
            training = self.training
            super().add_param_group(group)
            self.param_groups[-1][TRAIN_MODE] = training
            self._unstepped = None

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was made (see `Optimizer.load_state_dict`).

        Afterwards this optimizer is in the mode in which that one was saved, and needs the parameters that were saved
        with it. From a dict of `train` the run goes on with the same bits, from one of `eval` within rounding.
        """
        with self._model.exclusive("load_state_dict()"):
            super().load_state_dict(state_dict)
            for group, saved in zip(self.param_groups, state_dict["param_groups"], strict=True):
                if TRAIN_MODE not in saved:
                    group[TRAIN_MODE] = True

    def _loaded(self) -> None:
        self._unstepped = None  # counted again


def _weights(slot: Slot, beta: float) -> Weights:
    """A parameter as `switch` takes it."""
    name = "params" + slot.path
    if not slot.param.flags.c_contiguous:
        raise ValueError(f"{name}: got an array with gaps, needs a C-contiguous one")
    half = slot.param.dtype.name in HALF
    if not half and slot.param.dtype != slot.states["z"].dtype:
        raise ValueError(f"{name}: got dtype {slot.param.dtype}, needs {slot.states['z'].dtype}, as the state z has")
    return Weights(
        name,
        slot.param.reshape(-1).view(np.uint16) if half else slot.param.reshape(-1),
        slot.param.dtype.name,
        slot.states["z"].reshape(-1),
        beta,
        None if slot.master is None else slot.master.reshape(-1),
    )


class ScheduleFreeSGD(ScheduleFree):
    r"""SGD that averages its parameters and needs no learning-rate schedule.

    The parameter is :math:`y`, where gradients are taken.

    .. math::
        \eta_t &= \eta \min(1, t / t_{warmup}), \quad \eta_{max} \leftarrow \max(\eta_t, \eta_{max}) \\
        w &= t^r \eta_{max}^q, \quad W \leftarrow W + w \\
        g &\leftarrow g + \lambda y, \quad c = w / W \\
        y &\leftarrow y + c (z - y) - \eta_t (1 - \beta (1 - c)) g \\
        z &\leftarrow z - \eta_t g

    Defazio et al. (2024), "The road less scheduled", equations 3 to 5, with the weights of its section 3; in
    the form of the authors' code, which never writes out the average
    :math:`x = (y - (1 - \beta) z) / \beta`.

    Parameters
    ----------
    momentum
        Interpolation :math:`\beta` between :math:`z` and :math:`x`, in (0, 1).
    weight_decay
        L2 penalty :math:`\lambda`.
    warmup_steps
        Steps over which the learning rate rises linearly.
    r, weight_lr_power
        Powers :math:`r` of the step and :math:`q` of the largest learning rate in a step's weight.
    """

    rule = "schedule_free_sgd"


class ScheduleFreeAdamW(ScheduleFree):
    r"""AdamW that averages its parameters and needs no learning-rate schedule.

    The parameter is :math:`y`, where gradients are taken.

    .. math::
        \eta_t &= \eta \min(1, t / t_{warmup}), \quad \eta_{max} \leftarrow \max(\eta_t, \eta_{max}) \\
        w &= t^r \eta_{max}^q, \quad W \leftarrow W + w \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
            d = g / (\sqrt{v / (1 - \beta_2^t)} + \epsilon) + \lambda y, \quad c = w / W \\
        y &\leftarrow y + c (z - y) - \eta_t (1 - \beta_1 (1 - c)) d \\
        z &\leftarrow z - \eta_t d

    Defazio et al. (2024), "The road less scheduled", algorithm 1, in the form of the authors' code, which
    never writes out the average :math:`x = (y - (1 - \beta_1) z) / \beta_1` .

    Parameters
    ----------
    betas
        Interpolation :math:`\beta_1` between :math:`z` and :math:`x`, in (0, 1), and weight :math:`\beta_2`
        of the old second moment, in [0, 1).
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda`, at :math:`y`.
    warmup_steps
        Steps over which the learning rate rises linearly.
    r, weight_lr_power
        Powers :math:`r` of the step and :math:`q` of the largest learning rate in a step's weight.
    """

    rule = "schedule_free_adamw"
