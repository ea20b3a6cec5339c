"""The optimizers of ``torch.optim`` that this package has: arguments of the installed torch's class, and `Own`.

The formula of each is in the docstring of the class of the same name in `fusedstep`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from .._hyper import check_hyper
from ._base import FusedOptimizer
from ._building import named
from ._options import plain

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SparseAdam",
]

Params = Any  # what torch.optim takes: tensors, (name, tensor) pairs, or dicts of groups


class SGD(FusedOptimizer, torch.optim.SGD):
    """Stochastic gradient descent with momentum: ``torch.optim.SGD``, faster (see `fusedstep.SGD`)."""

    rule = "sgd"
    counts_steps = False


class RMSprop(FusedOptimizer, torch.optim.RMSprop):
    """RMSprop: ``torch.optim.RMSprop``, faster (see `fusedstep.RMSprop`)."""

    rule = "rmsprop"


class Adam(FusedOptimizer, torch.optim.Adam):
    """Adam: ``torch.optim.Adam``, faster (see `fusedstep.Adam`); with ``decoupled_weight_decay``, AdamW."""

    rule = "adam"
    extra: ClassVar[dict[str, Any]] = {"decoupled_weight_decay": False}

    def _rule_of(self, group: dict[str, Any]) -> str:
        name = "decoupled_weight_decay"
        return "adamw" if check_hyper(name, plain(group[name], name)) else "adam"


class AdamW(FusedOptimizer, torch.optim.AdamW):
    """AdamW: ``torch.optim.AdamW``, faster (see `fusedstep.AdamW`)."""

    rule = "adamw"


class Adagrad(FusedOptimizer, torch.optim.Adagrad):
    """Adagrad: ``torch.optim.Adagrad``, faster; gradients may be sparse (see `fusedstep.Adagrad`)."""

    rule = "adagrad"


class Adadelta(FusedOptimizer, torch.optim.Adadelta):
    """Adadelta: ``torch.optim.Adadelta``, faster (see `fusedstep.Adadelta`)."""

    rule = "adadelta"


class Adamax(FusedOptimizer, torch.optim.Adamax):
    """Adamax: ``torch.optim.Adamax``, faster (see `fusedstep.Adamax`)."""

    rule = "adamax"


class NAdam(FusedOptimizer, torch.optim.NAdam):
    """NAdam: ``torch.optim.NAdam``, faster (see `fusedstep.NAdam`)."""

    rule = "nadam"


class RAdam(FusedOptimizer, torch.optim.RAdam):
    """Rectified Adam: ``torch.optim.RAdam``, faster (see `fusedstep.RAdam`)."""

    rule = "radam"


class ASGD(FusedOptimizer, torch.optim.ASGD):
    """Averaged stochastic gradient descent: ``torch.optim.ASGD``, faster (see `fusedstep.ASGD`)."""

    rule = "asgd"


class Rprop(FusedOptimizer, torch.optim.Rprop):
    """Resilient backpropagation: ``torch.optim.Rprop``, faster (see `fusedstep.Rprop`)."""

    rule = "rprop"


class SparseAdam(FusedOptimizer, torch.optim.SparseAdam):
    """Adam on the rows that have a gradient: ``torch.optim.SparseAdam`` (see `fusedstep.SparseAdam`)."""

    rule = "sparse_adam"
    counts_steps = False  # torch's count is an int here, advanced with the rows

    def _advance(self, closure: Callable[[], Any] | None = None) -> Any:
        def checked() -> Any:
            loss = None if closure is None else closure()
            for number, group in enumerate(self.param_groups):
                for param, name in named(group, number):
                    if param.grad is not None and not param.grad.is_sparse:
                        raise TypeError(
                            f"the gradient of {name}: got a dense tensor, needs a sparse one; Adam takes dense ones"
                        )
            return loss

        return super()._advance(checked)
