# Written by tools/stubs.py.
from torch import Tensor
from typing_extensions import Unpack

from .._agreement import RankError as RankError
from . import adafactor, optimizers, own_optimizers, schedule_free
from ._base import FusedOptimizer as FusedOptimizer
from ._options import Options as Options
from ._options import Own
from .grouping import groups as groups
from .grouping import layer_decay as layer_decay
from .in_backward import apply_in_backward as apply_in_backward
from .muon import Muon as Muon
from .offload import CPUOffload as CPUOffload
from .optimizers import Params

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
    "CPUOffload",
    "FusedOptimizer",
    "LAMB",
    "LARS",
    "Lion",
    "MARS",
    "MARSLion",
    "Momentum",
    "Muon",
    "NAdam",
    "NovoGrad",
    "Options",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "RankError",
    "Rprop",
    "SGD",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
    "apply_in_backward",
    "groups",
    "layer_decay",
]

class ADOPT(own_optimizers.ADOPT):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.9999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class ASGD(optimizers.ASGD):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        lambd: float = 0.0001,
        alpha: float = 0.75,
        t0: float = 1000000.0,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class AdEMAMix(own_optimizers.AdEMAMix):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 5.0,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        alpha_warmup: float = 0.0,
        beta3_warmup: float = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class AdaBelief(own_optimizers.AdaBelief):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class Adadelta(optimizers.Adadelta):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-06,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class Adafactor(adafactor.Adafactor):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 0.001),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class Adagrad(optimizers.Adagrad):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Own],
    ) -> None: ...

class Adam(optimizers.Adam):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class AdamMini(own_optimizers.AdamMini):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        blocks: int = 0,
        **options: Unpack[Options],
    ) -> None: ...

class AdamW(optimizers.AdamW):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Own],
    ) -> None: ...

class Adamax(optimizers.Adamax):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class Adan(own_optimizers.Adan):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float, float] = (0.98, 0.92, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        no_prox: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class LAMB(own_optimizers.LAMB):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-06,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class LARS(own_optimizers.LARS):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        nesterov: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Lion(own_optimizers.Lion):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0001,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class MARS(own_optimizers.MARS):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.003,
        betas: tuple[float, float] = (0.95, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class MARSLion(own_optimizers.MARSLion):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0003,
        beta: float = 0.95,
        weight_decay: float = 0.0,
        gamma: float = 0.025,
        clipping: bool = True,
        **options: Unpack[Options],
    ) -> None: ...

class Momentum(own_optimizers.Momentum):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        beta: float = 0.9,
        bias_correction: bool = False,
        weight_decay: float = 0.0,
        **options: Unpack[Options],
    ) -> None: ...

class NAdam(optimizers.NAdam):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.002,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        momentum_decay: float = 0.004,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class NovoGrad(own_optimizers.NovoGrad):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.95, 0.98),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        grad_averaging: bool = False,
        **options: Unpack[Options],
    ) -> None: ...

class Prodigy(own_optimizers.Prodigy):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = True,
        bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-06,
        d_coef: float = 1.0,
        growth_rate: float = ...,
        **options: Unpack[Options],
    ) -> None: ...

class RAdam(optimizers.RAdam):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class RMSprop(optimizers.RMSprop):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        alpha: float = 0.99,
        eps: float = 1e-08,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class Rprop(optimizers.Rprop):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-06, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class SGD(optimizers.SGD):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Own],
    ) -> None: ...

class ScheduleFreeAdamW(schedule_free.ScheduleFreeAdamW):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.0025,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        warmup_steps: int = 0,
        r: float = 0.0,
        weight_lr_power: float = 2.0,
        **options: Unpack[Options],
    ) -> None: ...

class ScheduleFreeSGD(schedule_free.ScheduleFreeSGD):
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
    ) -> None: ...

class SparseAdam(optimizers.SparseAdam):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-08,
        maximize: bool = False,
        **options: Unpack[Own],
    ) -> None: ...

class StableAdamW(own_optimizers.StableAdamW):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.001,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-08,
        weight_decay: float = 0.01,
        **options: Unpack[Options],
    ) -> None: ...

class Yogi(own_optimizers.Yogi):
    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 0.001,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 1e-06,
        **options: Unpack[Options],
    ) -> None: ...
