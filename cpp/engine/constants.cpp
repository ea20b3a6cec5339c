// What the maths of a rule is given for every tensor: constants and scalars, from hyper-parameters, steps and sums.
#include <algorithm>
#include <array>
#include <cmath>

#include "engine.hpp"

namespace fusedstep {

// The constants of every tensor, in double from the hyper-parameters and the step count. Neighbours that agree in all
// of these share theirs.
void Engine::derive(const StepOptions& options, double coefficient) {
    const double scale = 1.0 / options.grad_scale * coefficient;
    std::uint32_t used = 0;
    const Tensor* before = nullptr;
    std::array<double, kMaxScalars> scalars_before{};
    for (std::size_t t = 0; t < scalars_before_.size(); ++t) scalars_before_[t] = tensors[t].scalars;
    if (whole_) agree(false);
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        Tensor& x = tensors[t];
        if (x.grad.data == nullptr) continue;
        x.step = x.step + 1;
        const Group& group = groups[static_cast<std::size_t>(x.group)];
        const RuleEntry& rule = kernels_->rules[group.rule];
        const auto n_scalars = static_cast<std::size_t>(rule.n_scalars);  // mostly none
        const bool shared = before != nullptr && !rule.norms && !group.cautious && x.group == before->group &&
                            x.step == before->step && x.compute == before->compute &&
                            std::equal(x.scalars.begin(), x.scalars.begin() + n_scalars, scalars_before.begin());
        if (shared) {
            std::copy_n(before->scalars.begin(), n_scalars, x.scalars.begin());
        } else {
            std::copy_n(x.scalars.begin(), n_scalars, scalars_before.begin());
            Constants& c = constants_[used++];
            std::array<double, kMaxScalars> scalars;
            std::copy_n(x.scalars.begin(), n_scalars, scalars.begin());
            rule.derive[x.compute](group.hypers.data(), x.step, scalars.data(), c.bytes);
            std::copy_n(scalars.begin(), n_scalars, x.scalars.begin());
            c.multiplier = group.maximize ? -scale : scale;
            c.variant = rule.variant(group.hypers.data(), x.step) |
                        (x.factors.any() && x.factors.states.columns >= 0 ? kFactored : 0u);
        }
        constants_of_[t] = used - 1;
        before = &x;
    }
}

// The scalars of a rule with sums over the whole model are one for all its tensors, whether they take part in a step or
// not. Before a step they are those of the tensor with the largest first ones, which never fall, and then the most
// steps: others are new. After it they are those of a tensor that took part. The last scalar moves without the first
// ones, so that of a tensor without a gradient is of an earlier step, however many it has taken itself.
void Engine::agree(bool stepped) {
    const auto shares = [&](const Tensor& x) {
        return kernels_->rules[groups[static_cast<std::size_t>(x.group)].rule].whole;
    };
    const auto is_later = [&](const Tensor& x, const Tensor& y) {
        for (const std::size_t s : {0u, 1u})
            if (x.scalars[s] != y.scalars[s]) return x.scalars[s] > y.scalars[s];
        return !stepped && x.step > y.step;
    };
    const Tensor* latest = nullptr;
    for (const Tensor& x : tensors)
        if (shares(x) && (!stepped || x.grad.data != nullptr) && (latest == nullptr || is_later(x, *latest)))
            latest = &x;
    for (Tensor& x : tensors)
        if (latest != nullptr && shares(x) && &x != latest) x.scalars = latest->scalars;
}

// Undoes derive(): the step is not taken after all.
void Engine::take_back() {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].grad.data != nullptr) tensors[t].step = tensors[t].step - 1;
        tensors[t].scalars = scalars_before_[t];
    }
}

// The constants that need norms, from the sums of the first pass. False: a peer did not answer.
bool Engine::trust() {
    if (peers != nullptr && !join_pair_sums()) return false;
    const auto sum_of = [&](std::size_t t) {
        PairSum sum{0, 0};
        for (std::size_t b = first_block_[t]; b < first_block_[t] + tensors[t].blocks(); ++b) {
            sum.first += pair_sums_[b].first;
            sum.second += pair_sums_[b].second;
        }
        return sum;
    };
    const auto rule_of = [&](const Tensor& x) -> const RuleEntry& {
        return kernels_->rules[groups[static_cast<std::size_t>(x.group)].rule];
    };
    PairSum model{0, 0};
    for (std::size_t t = 0; whole_ && t < tensors.size(); ++t) {
        if (tensors[t].grad.data == nullptr || !rule_of(tensors[t]).whole) continue;
        const PairSum sum = sum_of(t);
        model.first += sum.first;
        model.second += sum.second;
    }
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        Tensor& x = tensors[t];
        const RuleEntry& rule = rule_of(x);
        if (x.grad.data == nullptr || !rule.norms) continue;
        const PairSum sum = rule.whole ? model : sum_of(t);
        const double* const hypers = groups[static_cast<std::size_t>(x.group)].hypers.data();
        std::array<double, kMaxScalars> scalars;
        const auto n_scalars = static_cast<std::size_t>(rule.n_scalars);
        std::copy_n(x.scalars.begin(), n_scalars, scalars.begin());
        rule.trust[x.compute](constants_[constants_of_[t]].bytes, hypers, x.step, scalars.data(),
                              static_cast<double>(x.size), sum.first, sum.second);
        std::copy_n(scalars.begin(), n_scalars, x.scalars.begin());
        if (rule.product) x.direction_norm = std::sqrt(sum.first);
    }
    if (whole_) agree(true);
    return true;
}

}  // namespace fusedstep
