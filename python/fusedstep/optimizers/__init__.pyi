# Written by tools/stubs.py.
from typing_extensions import Unpack

from .._base import Number, Options
from .._base import Optimizer as Optimizer
from .._base import Structure as Params
from . import (
    adabelief,
    adafactor,
    adagrad,
    adam,
    adam_mini,
    adamax,
    adan,
    ademamix,
    adopt,
    asgd,
    lion,
    mars,
    nadam,
    novograd,
    prodigy,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    sparse,
    stable_adamw,
    trust,
    yogi,
)
from .muon import Muon as Muon

__all__ = [
    "ADOPT",
    "ASGD",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "Adan",
    "LAMB",
    "LARS",
    "Lion",
    "MARS",
    "MARSLion",
    "Momentum",
    "Muon",
    "NAdam",
    "NovoGrad",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
]

class ADOPT(adopt.ADOPT):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: Number = 1e-06,
        weight_decay: Number = 0.0,
        decoupled_weight_decay: bool = False,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class ASGD(asgd.ASGD):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.01,
        lambd: Number = 0.0001,
        alpha: Number = 0.75,
        t0: Number = 1000000.0,
        weight_decay: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class AdEMAMix(ademamix.AdEMAMix):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: Number = 5.0,
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        alpha_warmup: Number = 0.0,
        beta3_warmup: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class AdaBelief(adabelief.AdaBelief):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-16,
        eps_root: Number = 1e-16,
        weight_decay: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adadelta(adagrad.Adadelta):
    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        rho: Number = 0.9,
        eps: Number = 1e-06,
        weight_decay: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adafactor(adafactor.Adafactor):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.01,
        beta2_decay: Number = -0.8,
        eps: tuple[float | None, float] = (None, 0.001),
        d: Number = 1.0,
        weight_decay: Number = 0.0,
        *,
        relative_step: bool = True,
        scale_parameter: bool = True,
        like_transformers: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Adagrad(adagrad.Adagrad):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.01,
        lr_decay: Number = 0.0,
        weight_decay: Number = 0.0,
        initial_accumulator_value: Number = 0.0,
        eps: Number = 1e-10,
        *,
        eps_root: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adam(adam.Adam):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        amsgrad: bool = False,
        *,
        eps_root: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class AdamMini(adam_mini.AdamMini):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        blocks: int = 0,
        **options: Unpack[Options],
    ) -> None: ...

class AdamW(adam.AdamW):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.01,
        amsgrad: bool = False,
        *,
        eps_root: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adamax(adamax.Adamax):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        *,
        eps_norm: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adan(adan.Adan):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        no_prox: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class LAMB(trust.LAMB):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-06,
        weight_decay: Number = 0.0,
        *,
        eps_root: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class LARS(trust.LARS):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        momentum: Number = 0.9,
        weight_decay: Number = 0.0,
        trust_coefficient: Number = 0.001,
        eps: Number = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Lion(lion.Lion):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class MARS(mars.MARS):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.003,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        gamma: Number = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class MARSLion(mars.MARSLion):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.0003,
        beta: Number = 0.95,
        weight_decay: Number = 0.0,
        gamma: Number = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class Momentum(sgd.Momentum):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        beta: Number = 0.9,
        bias_correction: bool = False,
        weight_decay: Number = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class NAdam(nadam.NAdam):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        momentum_decay: Number = 0.004,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class NovoGrad(novograd.NovoGrad):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        grad_averaging: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Prodigy(prodigy.Prodigy):
    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        decoupled_weight_decay: bool = True,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: Number = 1e-06,
        d_coef: Number = 1.0,
        growth_rate: Number = ...,
        **options: Unpack[Options],
    ) -> None: ...

class RAdam(radam.RAdam):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class RMSprop(rmsprop.RMSprop):
    def __init__(
        self,
        params: Params,
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
    ) -> None: ...

class Rprop(rprop.Rprop):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50.0),
        **options: Unpack[Options],
    ) -> None: ...

class SGD(sgd.SGD):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        momentum: Number = 0.0,
        dampening: Number = 0.0,
        weight_decay: Number = 0.0,
        nesterov: bool = False,
        *,
        lr_in_momentum: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class ScheduleFreeAdamW(schedule_free.ScheduleFreeAdamW):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        weight_decay: Number = 0.0,
        warmup_steps: int = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **options: Unpack[Options],
    ) -> None: ...

class ScheduleFreeSGD(schedule_free.ScheduleFreeSGD):
    def __init__(
        self,
        params: Params,
        lr: Number = 1.0,
        momentum: Number = 0.9,
        weight_decay: Number = 0.0,
        warmup_steps: int = 0,
        r: Number = 0.0,
        weight_lr_power: Number = 2.0,
        **options: Unpack[Options],
    ) -> None: ...

class SparseAdam(sparse.SparseAdam):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-08,
        **options: Unpack[Options],
    ) -> None: ...

class StableAdamW(stable_adamw.StableAdamW):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: Number = 1e-08,
        weight_decay: Number = 0.01,
        **options: Unpack[Options],
    ) -> None: ...

class Yogi(yogi.Yogi):
    def __init__(
        self,
        params: Params,
        lr: Number = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 0.001,
        weight_decay: Number = 0.0,
        initial_accumulator_value: Number = 1e-06,
        **options: Unpack[Options],
    ) -> None: ...
