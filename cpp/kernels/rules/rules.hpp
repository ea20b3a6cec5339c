// All rules. A new one is included here and added to the list.
#pragma once

// clang-format off: common.hpp comes first
#include "common.hpp"
#include "sgd.hpp"
#include "momentum.hpp"
#include "rmsprop.hpp"
#include "adam.hpp"
#include "adagrad.hpp"
#include "adadelta.hpp"
#include "adamax.hpp"
#include "nadam.hpp"
#include "radam.hpp"
#include "adabelief.hpp"
#include "asgd.hpp"
#include "rprop.hpp"
#include "lion.hpp"
#include "lamb.hpp"
#include "lars.hpp"
#include "muon.hpp"
#include "schedule_free.hpp"
#include "sparse_adam.hpp"
#include "adan.hpp"
#include "ademamix.hpp"
#include "adopt.hpp"
#include "yogi.hpp"
#include "stable_adamw.hpp"
#include "mars.hpp"
#include "novograd.hpp"
#include "adafactor.hpp"
#include "prodigy.hpp"
#include "adam_mini.hpp"
// clang-format on

template <class...>
struct List {};
// Every rule, in the order of their numbers.
using Rules = List<Sgd, Momentum, RmsProp, Adam, AdamW, Adagrad, Adadelta, Adamax, NAdam, RAdam, AdaBelief, Asgd, Rprop,
                   Lion, Lamb, Lars, ScheduleFreeSgd, ScheduleFreeAdamW, SparseAdam, Muon, Adan, AdEMAMix, Adopt, Yogi,
                   StableAdamW, Mars, MarsLion, NovoGrad, Adafactor, Prodigy, AdamMini>;
