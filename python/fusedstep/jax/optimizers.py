"""The optimizers: one function per update rule, with the hyper-parameters and defaults of the class for NumPy.

That class's docstring has the formula and its source; the options are those of `fusedstep.jax`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import jax
import numpy as np

from .._group_options import StorageOptions
from ._optimizer import Optimizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "adabelief",
    "adadelta",
    "adagrad",
    "adam",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "asgd",
    "lamb",
    "lars",
    "lion",
    "mars",
    "mars_lion",
    "momentum",
    "nadam",
    "novograd",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "stable_adamw",
    "yogi",
]

Number: TypeAlias = float | jax.Array | np.ndarray[Any, Any] | Callable[[Any], Any]
Pair: TypeAlias = tuple[Number, Number] | jax.Array | Callable[[Any], Any]


class Options(StorageOptions, total=False):
    """Options that every optimizer takes by keyword."""

    mask: Any
    trainable: Any
    maximize: bool
    max_grad_norm: Number | None
    clip_value: Number | None
    ema_decay: Number | None


def _make(rule: str, given: dict[str, Any]) -> Optimizer:
    """An optimizer of the arguments of a function, with its other options among them."""
    options = given.pop("options")
    return Optimizer(rule, given | options)


def adabelief(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-16,
    eps_root: Number = 1e-16,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """AdaBelief, as ``optax.adabelief``; see `fusedstep.AdaBelief`."""
    return _make("adabelief", locals())


def adadelta(
    lr: Number = 1.0, rho: Number = 0.9, eps: Number = 1e-06, weight_decay: Number = 0.0, **options: Unpack[Options]
) -> Optimizer:
    """Adadelta, as ``torch.optim.Adadelta``; see `fusedstep.Adadelta`."""
    return _make("adadelta", locals())


def adagrad(
    lr: Number = 0.01,
    lr_decay: Number = 0.0,
    weight_decay: Number = 0.0,
    initial_accumulator_value: Number = 0.0,
    eps: Number = 1e-10,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adagrad, as ``torch.optim.Adagrad``; see `fusedstep.Adagrad`."""
    return _make("adagrad", locals())


def adam(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    amsgrad: bool = False,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam, as ``torch.optim.Adam``; see `fusedstep.Adam`."""
    return _make("adam", locals())


def adamax(
    lr: Number = 0.002,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    *,
    eps_norm: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adamax, as ``torch.optim.Adamax``; see `fusedstep.Adamax`."""
    return _make("adamax", locals())


def adamw(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.01,
    amsgrad: bool = False,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``; see `fusedstep.AdamW`."""
    return _make("adamw", locals())


def asgd(
    lr: Number = 0.01,
    lambd: Number = 0.0001,
    alpha: Number = 0.75,
    t0: Number = 1000000.0,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Averaged stochastic gradient descent, as ``torch.optim.ASGD``; see `fusedstep.ASGD`."""
    return _make("asgd", locals())


def lamb(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-06,
    weight_decay: Number = 0.0,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """LAMB, as ``optax.lamb``; see `fusedstep.LAMB`."""
    return _make("lamb", locals())


def lars(
    lr: Number = 0.001,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    trust_coefficient: Number = 0.001,
    eps: Number = 0.0,
    nesterov: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """LARS; see `fusedstep.LARS`."""
    return _make("lars", locals())


def lion(
    lr: Number = 0.0001, betas: Pair = (0.9, 0.99), weight_decay: Number = 0.0, **options: Unpack[Options]
) -> Optimizer:
    """Lion, as ``optax.lion``; see `fusedstep.Lion`."""
    return _make("lion", locals())


def momentum(
    lr: Number = 0.001,
    beta: Number = 0.9,
    bias_correction: bool = False,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Gradient descent along the average of the gradients; see `fusedstep.Momentum`."""
    return _make("momentum", locals())


def nadam(
    lr: Number = 0.002,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    momentum_decay: Number = 0.004,
    decoupled_weight_decay: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """NAdam, as ``torch.optim.NAdam``; see `fusedstep.NAdam`."""
    return _make("nadam", locals())


def radam(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Rectified Adam, as ``torch.optim.RAdam``; see `fusedstep.RAdam`."""
    return _make("radam", locals())


def rmsprop(
    lr: Number = 0.01,
    alpha: Number = 0.99,
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    momentum: Number = 0.0,
    centered: bool = False,
    *,
    eps_root: Number = 0.0,
    lr_in_momentum: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """The gradient over the root of its running mean square, as ``torch.optim.RMSprop``; see `fusedstep.RMSprop`."""
    return _make("rmsprop", locals())


def rprop(
    lr: Number = 0.01, etas: Pair = (0.5, 1.2), step_sizes: Pair = (1e-06, 50.0), **options: Unpack[Options]
) -> Optimizer:
    """Resilient backpropagation, as ``torch.optim.Rprop``; see `fusedstep.Rprop`."""
    return _make("rprop", locals())


def schedule_free_adamw(
    lr: Number = 0.0025,
    betas: Pair = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    warmup_steps: Number = 0,
    r: Number = 0.0,
    weight_lr_power: Number = 2.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Schedule-free AdamW; see `fusedstep.ScheduleFreeAdamW`."""
    return _make("schedule_free_adamw", locals())


def schedule_free_sgd(
    lr: Number = 1.0,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    warmup_steps: Number = 0,
    r: Number = 0.0,
    weight_lr_power: Number = 2.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Schedule-free SGD; see `fusedstep.ScheduleFreeSGD`."""
    return _make("schedule_free_sgd", locals())


def sgd(
    lr: Number = 0.001,
    momentum: Number = 0.0,
    dampening: Number = 0.0,
    weight_decay: Number = 0.0,
    nesterov: bool = False,
    *,
    lr_in_momentum: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Gradient descent, with heavy-ball or Nesterov momentum, as ``torch.optim.SGD``; see `fusedstep.SGD`."""
    return _make("sgd", locals())


def adan(
    lr: Number = 0.001,
    betas: tuple[Number, Number, Number] = (0.98, 0.92, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    no_prox: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adan, as the authors' package; see `fusedstep.Adan`."""
    return _make("adan", locals())


def ademamix(
    lr: Number = 0.001,
    betas: tuple[Number, Number, Number] = (0.9, 0.999, 0.9999),
    alpha: Number = 5.0,
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    alpha_warmup: Number = 0.0,
    beta3_warmup: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """AdEMAMix, as the authors' package; see `fusedstep.AdEMAMix`."""
    return _make("ademamix", locals())


def adopt(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.9999),
    eps: Number = 1e-06,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """ADOPT, as the authors' package; see `fusedstep.ADOPT`."""
    return _make("adopt", locals())


def yogi(
    lr: Number = 0.01,
    betas: Pair = (0.9, 0.999),
    eps: Number = 0.001,
    weight_decay: Number = 0.0,
    initial_accumulator_value: Number = 1e-06,
    **options: Unpack[Options],
) -> Optimizer:
    """Yogi, as ``optax.yogi``; see `fusedstep.Yogi`."""
    return _make("yogi", locals())


def stable_adamw(
    lr: Number = 0.001,
    betas: Pair = (0.9, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.01,
    **options: Unpack[Options],
) -> Optimizer:
    """StableAdamW, AdamW that clips updates; see `fusedstep.StableAdamW`."""
    return _make("stable_adamw", locals())


def mars(
    lr: Number = 0.003,
    betas: Pair = (0.95, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    gamma: Number = 0.025,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """MARS in its AdamW form, as the authors' code; see `fusedstep.MARS`."""
    return _make("mars", locals())


def mars_lion(
    lr: Number = 0.0003,
    beta: Number = 0.95,
    weight_decay: Number = 0.0,
    gamma: Number = 0.025,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """MARS in its Lion form, as the authors' code; see `fusedstep.MARSLion`."""
    return _make("mars_lion", locals())


def novograd(
    lr: Number = 0.001,
    betas: Pair = (0.95, 0.98),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    grad_averaging: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """NovoGrad, as ``optax.novograd``; see `fusedstep.NovoGrad`."""
    return _make("novograd", locals())
