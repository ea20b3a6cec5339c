"""Optimizers that need no learning-rate schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .._base import Number, Optimizer, Options, Structure
from .._slots import Slot
from ..reference import schedule_free_average

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ScheduleFree(Optimizer):
    """What both have: parameters that are trained at one point and evaluated at another."""

    def __init__(self, params: Structure, defaults: dict[str, Any], options: Options) -> None:
        self._kept: list[Any] | None = None
        super().__init__(params, defaults, options)

    def _initial_state(self, name: str, slot: Slot, group: dict[str, Any]) -> Any:
        return slot.values().copy() if name == "z" else None

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        return [0.0, 0.0]

    @property
    def training(self) -> bool:
        """Whether the parameters are those that gradients are taken at."""
        return self._kept is None

    def eval(self) -> None:
        """Switch the parameters to the average, where the model is evaluated and saved; nothing if it is on."""
        if self._kept is not None:
            return
        averages = []
        for slot in self._slots:
            group = self.param_groups[slot.group]
            beta = self._now(group["momentum"] if "momentum" in group else group["betas"][0])
            averages.append(schedule_free_average(slot.values(), slot.states["z"], beta=beta))
        self._kept = [slot.param.copy() for slot in self._slots]
        for slot, average in zip(self._slots, averages, strict=True):
            slot.param[...] = average.astype(slot.param.dtype)

    def train(self) -> None:
        """Switch the parameters back, byte for byte, to where gradients are taken; nothing if they are there."""
        if self._kept is None:
            return
        for slot, kept in zip(self._slots, self._kept, strict=True):
            slot.param[...] = kept
        self._kept = None

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Take one step (see `Optimizer.step`); the parameters must be those of `train`."""
        self._check_training("step")
        return super().step(grads, grad_scale=grad_scale)

    def state_dict(self, *, state_format: str | None = None) -> dict[str, Any]:
        """Everything a resumed run needs (see `Optimizer.state_dict`); call `train` first."""
        self._check_training("state_dict")
        return super().state_dict(state_format=state_format)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict` was made (see `Optimizer.load_state_dict`); call `train` first."""
        self._check_training("load_state_dict")
        super().load_state_dict(state_dict)

    def _check_training(self, what: str) -> None:
        if self._kept is not None:
            raise RuntimeError(f"{what}(): the parameters are those of eval(); call train() first")


class ScheduleFreeSGD(ScheduleFree):
    r"""Schedule-free SGD; the parameter is :math:`y`, where gradients are taken.

    .. math::
        \eta_t &= \eta \min(1, t / t_{warmup}), \quad \eta_{max} \leftarrow \max(\eta_t, \eta_{max}) \\
        w &= t^r \eta_{max}^q, \quad W \leftarrow W + w \\
        g &\leftarrow g + \lambda y, \quad c = w / W \\
        y &\leftarrow y + c (z - y) - \eta_t (1 - \beta (1 - c)) g \\
        z &\leftarrow z - \eta_t g

    Defazio et al. (2024), "The road less scheduled", equations 3 to 5, with the weights of its section 3; in
    the form of the authors' code, which never writes out the average :math:`x = (y - (1 - \beta) z) / \beta`
    .

    Parameters
    ----------
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    momentum
        Interpolation :math:`\beta` between :math:`z` and :math:`x`, in (0, 1).
    weight_decay
        L2 penalty :math:`\lambda`.
    warmup_steps
        Steps over which the learning rate rises linearly.
    r, weight_lr_power
        Powers :math:`r` of the step and :math:`q` of the largest learning rate in a step's weight.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "schedule_free_sgd"

    def __init__(
        self,
        params: Structure,
        lr: Number = 1.0,
        momentum: Number = 0.9,
        weight_decay: Number = 0.0,
        warmup_steps: int = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, defaults, options)


class ScheduleFreeAdamW(ScheduleFree):
    r"""Schedule-free AdamW; the parameter is :math:`y`, where gradients are taken.

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
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
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
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "schedule_free_adamw"

    def __init__(
        self,
        params: Structure,
        lr: Number = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-8,
        weight_decay: Number = 0.0,
        warmup_steps: int = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **options: Unpack[Options],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, defaults, options)
