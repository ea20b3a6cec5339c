"""The optimizers of this package that ``torch.optim`` lacks: with the arguments of `fusedstep`'s class, and `Options`.

The formula of each is in the docstring of that class. Hyper-parameters that classes of torch's lack as well, such as
``eps_root``, are options.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..reference import RULES
from ..reference._rule import BEYOND_TORCH
from ._base import FusedOptimizer
from .optimizers import Params

__all__ = [
    "ADOPT",
    "LAMB",
    "LARS",
    "MARS",
    "AdEMAMix",
    "AdaBelief",
    "AdamMini",
    "Adan",
    "Lion",
    "MARSLion",
    "Momentum",
    "NovoGrad",
    "Prodigy",
    "StableAdamW",
    "Yogi",
]


class OwnOptimizer(FusedOptimizer):
    """An optimizer without a class of torch's behind it."""

    @classmethod
    def _arguments(cls) -> tuple[list[inspect.Parameter], str]:
        return [parameter for parameter in RULES[cls.rule].arguments if parameter.name not in BEYOND_TORCH], "Options"

    def _make(self, params: Params, hypers: dict[str, Any]) -> None:
        torch.optim.Optimizer.__init__(self, params, hypers)


class Momentum(OwnOptimizer):
    """Gradient descent along the exponentially weighted average of the gradients (see `fusedstep.Momentum`)."""

    rule = "momentum"


class Lion(OwnOptimizer):
    """Lion, which steps along the sign of an average (see `fusedstep.Lion`)."""

    rule = "lion"


class AdaBelief(OwnOptimizer):
    """AdaBelief, which divides by how far gradients are from their average (see `fusedstep.AdaBelief`)."""

    rule = "adabelief"


class LAMB(OwnOptimizer):
    """LAMB, Adam with a trust ratio per tensor (see `fusedstep.LAMB`)."""

    rule = "lamb"


class LARS(OwnOptimizer):
    """LARS, momentum with a trust ratio per tensor (see `fusedstep.LARS`)."""

    rule = "lars"


class Adan(OwnOptimizer):
    """Adan, Adam with a Nesterov momentum of gradient differences (see `fusedstep.Adan`)."""

    rule = "adan"


class AdEMAMix(OwnOptimizer):
    """AdEMAMix, Adam with a fast and a slow first moment (see `fusedstep.AdEMAMix`)."""

    rule = "ademamix"


class ADOPT(OwnOptimizer):
    """ADOPT, Adam that divides by the second moment of the step before (see `fusedstep.ADOPT`)."""

    rule = "adopt"


class Yogi(OwnOptimizer):
    """Yogi, Adam whose second moment grows and shrinks by bounded amounts (see `fusedstep.Yogi`)."""

    rule = "yogi"


class StableAdamW(OwnOptimizer):
    """StableAdamW, AdamW whose steps are smaller while its second moment is too small (see `fusedstep.StableAdamW`)."""

    rule = "stable_adamw"


class MARS(OwnOptimizer):
    """MARS in its AdamW form, with a correction by the last gradient (see `fusedstep.MARS`)."""

    rule = "mars"


class MARSLion(OwnOptimizer):
    """MARS in its Lion form, with a correction by the last gradient (see `fusedstep.MARSLion`)."""

    rule = "mars_lion"


class NovoGrad(OwnOptimizer):
    """NovoGrad, momentum of gradients divided by an average of their tensor's norm (see `fusedstep.NovoGrad`)."""

    rule = "novograd"


class Prodigy(OwnOptimizer):
    """Prodigy, Adam that estimates its step size from the whole model (see `fusedstep.Prodigy`)."""

    rule = "prodigy"


class AdamMini(OwnOptimizer):
    """AdamW with one second moment for every block of a parameter (see `fusedstep.AdamMini`).

    Parameters may have any order in memory. Those that are not contiguous are stepped in a contiguous copy.
    """

    rule = "adam_mini"
