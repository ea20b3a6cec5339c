"""The optimizers: one class per update rule, each with its formula, its hyper-parameters and their defaults."""

from __future__ import annotations

from .._base import Optimizer
from .adabelief import AdaBelief
from .adafactor import Adafactor
from .adagrad import Adadelta, Adagrad
from .adam import Adam, AdamW
from .adam_mini import AdamMini
from .adamax import Adamax
from .adan import Adan
from .ademamix import AdEMAMix
from .adopt import ADOPT
from .asgd import ASGD
from .lion import Lion
from .mars import MARS, MARSLion
from .muon import Muon
from .nadam import NAdam
from .novograd import NovoGrad
from .prodigy import Prodigy
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .schedule_free import ScheduleFreeAdamW, ScheduleFreeSGD
from .sgd import SGD, Momentum
from .sparse import SparseAdam
from .stable_adamw import StableAdamW
from .trust import LAMB, LARS
from .yogi import Yogi

__all__ = [
    "StableAdamW",
    "Yogi",
    "ADOPT",
    "AdEMAMix",
    "Adan",
    "ASGD",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamMini",
    "AdamW",
    "Adamax",
    "LAMB",
    "LARS",
    "Lion",
    "MARS",
    "MARSLion",
    "Momentum",
    "Muon",
    "NAdam",
    "NovoGrad",
    "Prodigy",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "Rprop",
    "SGD",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
    "SparseAdam",
]
