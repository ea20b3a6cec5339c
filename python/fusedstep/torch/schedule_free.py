"""Optimizers for torch that need no learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ._options import Options, plain
from .own_optimizers import OwnOptimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .optimizers import Params

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ScheduleFree(OwnOptimizer):
    """What both have: parameters that are trained at one point and evaluated at another."""

    def __init__(self, params: Params, hypers: dict[str, Any], options: Options) -> None:
        self._kept: dict[Tensor, Tensor] | None = None
        super().__init__(params, hypers, options)

    def _initial_state(self, name: str, like: Tensor, group: dict[str, Any]) -> float | Tensor:
        return like.detach() if name == "z" else 0.0

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        return [0.0, 0.0]

    @property
    def training(self) -> bool:
        """Whether the parameters are those that gradients are taken at."""
        return self._kept is None

    @torch.no_grad()
    def eval(self) -> None:
        """Switch the parameters to the average, where the model is evaluated and saved; nothing if it is on."""
        if self._kept is not None:
            return
        self._kept = {}
        for group in self.param_groups:
            beta = float(plain(group["momentum"] if "momentum" in group else group["betas"][0]))
            for param in group["params"]:
                if "z" in self.state.get(param, {}):
                    self._kept[param] = param.detach().clone()
                    z = self.state[param]["z"]
                    y = self.state[param].get("master", param.to(z.dtype))
                    param.copy_((y - (1.0 - beta) * z) / beta)

    @torch.no_grad()
    def train(self) -> None:
        """Switch the parameters back, byte for byte, to where gradients are taken; nothing if they are there."""
        for param, kept in (self._kept or {}).items():
            param.copy_(kept)
        self._kept = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step (see `FusedOptimizer.step`); the parameters must be those of `train`."""
        self._check_training("step")
        return super().step(closure)

    step.hooked = True  # type: ignore[attr-defined]

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs (see `FusedOptimizer.state_dict`); call `train` first."""
        self._check_training("state_dict")
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a `state_dict` was made (see `FusedOptimizer.load_state_dict`); call `train` first."""
        self._check_training("load_state_dict")
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_kept": self._kept}

    def _check_training(self, what: str) -> None:
        if self._kept is not None:
            raise RuntimeError(f"{what}(): the parameters are those of eval(); call train() first")


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD (see `fusedstep.ScheduleFreeSGD`); switch with `train` and `eval`.

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, momentum, weight_decay, warmup_steps, r, weight_lr_power
        As in `fusedstep.ScheduleFreeSGD`.
    **options
        See `Options`.
    """

    rule = "schedule_free_sgd"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, hypers, options)


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW (see `fusedstep.ScheduleFreeAdamW`); switch with `train` and `eval`.

    Parameters
    ----------
    params
        As in ``torch.optim``.
    lr, betas, eps, weight_decay, warmup_steps, r, weight_lr_power
        As in `fusedstep.ScheduleFreeAdamW`.
    **options
        See `Options`.
    """

    rule = "schedule_free_adamw"

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 2.5e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None:
        hypers = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "warmup_steps": warmup_steps,
            "r": r,
            "weight_lr_power": weight_lr_power,
        }
        super().__init__(params, hypers, options)
