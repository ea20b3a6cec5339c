# Written by tools/stubs.py.
from typing_extensions import Unpack

from ._optimizer import Optimizer
from ._options import Number, Numbers, Options

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
    "prodigy",
    "radam",
    "rmsprop",
    "rprop",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "sgd",
    "stable_adamw",
    "yogi",
]

def adabelief(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-16,
    eps_root: Number = 1e-16,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam that divides by how far gradients are from their average, as ``optax.adabelief``. See `fusedstep.AdaBelief`."""

def adadelta(
    lr: Number = 1.0, rho: Number = 0.9, eps: Number = 1e-06, weight_decay: Number = 0.0, **options: Unpack[Options]
) -> Optimizer:
    """Gradients scaled by the root mean square of past steps over that of gradients, as ``torch.optim.Adadelta``. See `fusedstep.Adadelta`."""

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
    """Gradients divided by the root of the sum of all their squares, as ``torch.optim.Adagrad``. See `fusedstep.Adagrad`."""

def adam(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    amsgrad: bool = False,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """The average gradient over the root of the average square, as ``torch.optim.Adam``. See `fusedstep.Adam`."""

def adamax(
    lr: Number = 0.002,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    *,
    eps_norm: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam that divides by the largest of recent gradients, as ``torch.optim.Adamax``. See `fusedstep.Adamax`."""

def adamw(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.01,
    amsgrad: bool = False,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with decoupled weight decay, as ``torch.optim.AdamW``. See `fusedstep.AdamW`."""

def adan(
    lr: Number = 0.001,
    betas: Numbers = (0.98, 0.92, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    no_prox: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with a Nesterov momentum of gradient differences, as the authors' package. See `fusedstep.Adan`."""

def ademamix(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999, 0.9999),
    alpha: Number = 5.0,
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    alpha_warmup: Number = 0.0,
    beta3_warmup: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with a fast and a slow average of gradients, as the authors' package. See `fusedstep.AdEMAMix`."""

def adopt(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.9999),
    eps: Number = 1e-06,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam that divides by the second moment of the step before, as the authors' package. See `fusedstep.ADOPT`."""

def asgd(
    lr: Number = 0.01,
    lambd: Number = 0.0001,
    alpha: Number = 0.75,
    t0: Number = 1000000.0,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Gradient descent at a falling learning rate that also averages the parameters, as ``torch.optim.ASGD``. See `fusedstep.ASGD`."""

def lamb(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-06,
    weight_decay: Number = 0.0,
    *,
    eps_root: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with a learning rate for every tensor, from its norm and that of the step, as ``optax.lamb``. See `fusedstep.LAMB`."""

def lars(
    lr: Number = 0.001,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    trust_coefficient: Number = 0.001,
    eps: Number = 0.0,
    nesterov: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Momentum with a learning rate for every tensor, from its norm and that of the gradient. See `fusedstep.LARS`."""

def lion(
    lr: Number = 0.0001, betas: Numbers = (0.9, 0.99), weight_decay: Number = 0.0, **options: Unpack[Options]
) -> Optimizer:
    """Steps of one size along the sign of an average gradient, as ``optax.lion``. See `fusedstep.Lion`."""

def mars(
    lr: Number = 0.003,
    betas: Numbers = (0.95, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    gamma: Number = 0.025,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """AdamW on gradients corrected by their change since the last step, as the authors' code. See `fusedstep.MARS`."""

def mars_lion(
    lr: Number = 0.0003,
    beta: Number = 0.95,
    weight_decay: Number = 0.0,
    gamma: Number = 0.025,
    clipping: bool = True,
    **options: Unpack[Options],
) -> Optimizer:
    """Lion on gradients corrected by their change since the last step, as the authors' code. See `fusedstep.MARSLion`."""

def momentum(
    lr: Number = 0.001,
    beta: Number = 0.9,
    bias_correction: bool = False,
    weight_decay: Number = 0.0,
    **options: Unpack[Options],
) -> Optimizer:
    """Gradient descent along the exponentially weighted average of the gradients. See `fusedstep.Momentum`."""

def nadam(
    lr: Number = 0.002,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    momentum_decay: Number = 0.004,
    decoupled_weight_decay: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam with Nesterov momentum, as ``torch.optim.NAdam``. See `fusedstep.NAdam`."""

def novograd(
    lr: Number = 0.001,
    betas: Numbers = (0.95, 0.98),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    grad_averaging: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Momentum of gradients divided by the average norm of their tensor, as ``optax.novograd``. See `fusedstep.NovoGrad`."""

def prodigy(
    lr: Number = 1.0,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = True,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: Number = 1e-06,
    d_coef: Number = 1.0,
    growth_rate: Number = ...,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam that estimates its learning rate from the whole model, as the authors' package (``prodigyopt``). See `fusedstep.Prodigy`."""

def radam(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    decoupled_weight_decay: bool = False,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam whose early steps allow for the variance of its second moment, as ``torch.optim.RAdam``. See `fusedstep.RAdam`."""

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
    """The gradient over the root of its running mean square, as ``torch.optim.RMSprop``. See `fusedstep.RMSprop`."""

def rprop(
    lr: Number = 0.01, etas: Numbers = (0.5, 1.2), step_sizes: Numbers = (1e-06, 50.0), **options: Unpack[Options]
) -> Optimizer:
    """A step size for every element, grown and shrunk by the signs of gradients, as ``torch.optim.Rprop``. See `fusedstep.Rprop`."""

def schedule_free_adamw(
    lr: Number = 0.0025,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 1e-08,
    weight_decay: Number = 0.0,
    warmup_steps: Number = 0,
    r: Number = 0.0,
    weight_lr_power: Number = 2.0,
    **options: Unpack[Options],
) -> Optimizer:
    """AdamW that averages its parameters and needs no learning-rate schedule. See `fusedstep.ScheduleFreeAdamW`."""

def schedule_free_sgd(
    lr: Number = 1.0,
    momentum: Number = 0.9,
    weight_decay: Number = 0.0,
    warmup_steps: Number = 0,
    r: Number = 0.0,
    weight_lr_power: Number = 2.0,
    **options: Unpack[Options],
) -> Optimizer:
    """SGD that averages its parameters and needs no learning-rate schedule. See `fusedstep.ScheduleFreeSGD`."""

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
    """Stochastic gradient descent, with heavy-ball or Nesterov momentum, as ``torch.optim.SGD``. See `fusedstep.SGD`."""

def stable_adamw(
    lr: Number = 0.001,
    betas: Numbers = (0.9, 0.99),
    eps: Number = 1e-08,
    weight_decay: Number = 0.01,
    **options: Unpack[Options],
) -> Optimizer:
    """AdamW that takes smaller steps while its second moment is too small. See `fusedstep.StableAdamW`."""

def yogi(
    lr: Number = 0.01,
    betas: Numbers = (0.9, 0.999),
    eps: Number = 0.001,
    weight_decay: Number = 0.0,
    initial_accumulator_value: Number = 1e-06,
    **options: Unpack[Options],
) -> Optimizer:
    """Adam whose second moment grows and shrinks by bounded amounts, as ``optax.yogi``. See `fusedstep.Yogi`."""
