// Steps that are taken only where they go against the gradient: the step of a run on zeros, and what of it counts.
#pragma once

#include <cmath>
#include <cstring>

#include "../dispatch.hpp"
#include "engine.hpp"
#include "staging.hpp"

namespace fusedstep {

// Of a cautious rule: the run's gradient as the rule takes it, and in the place of the parameters the steps from them,
// which are what the rule makes of zeros. `param`: the parameters.
template <std::size_t kLength, class Constants>
void load_steps(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, const Group& group,
                const Constants& c, std::size_t element, const void* param, Run& run) {
    constexpr int kSteps = 2 + kMaxStates;
    static_assert((kSteps + 1) * kLength * sizeof(double) <= Scratch::kBytes);
    run.grad = staging.load(x.grad, element, run.n, 1);
    if (c.multiplier != 1 || std::isfinite(group.clip_value) || c.decay.l2 != 0) {
        void* const grad = staging.scratch(1);
        kernels.prepare[x.compute](run.grad, c.multiplier, group.clip_value, grad, run.n);
        if (c.decay.l2 != 0) kernels.add_decay[x.compute](c.decay.l2, param, grad, run.n);
        run.grad = grad;
    }
    run.param = std::memset(staging.scratch(kSteps), 0, run.n * width(native(x.compute)));
    kernels.rules[group.rule].update[x.compute][c.variant](c.bytes, 1, run);
}

// A cautious step of the run's parameters.
template <std::size_t kLength, class Constants>
void step_cautiously(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, const Group& group,
                     const Constants& c, std::size_t element, Run& run) {
    void* const param = run.param;
    load_steps(staging, kernels, x, group, c, element, param, run);
    kernels.descend[x.compute](c.decay, c.scale, run.param, run.grad, param, run.n);
    run.param = param;
}

}  // namespace fusedstep
