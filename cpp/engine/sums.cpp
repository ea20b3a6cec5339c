// What a thread does with its run of a tensor's elements in the passes that only read, before the one that writes.
#include <algorithm>

#include "../dispatch.hpp"
#include "cautious.hpp"
#include "engine.hpp"
#include "staging.hpp"

namespace fusedstep {
namespace {

// Whether rows are long enough to be summed up one by one, where lanes go on from one row to the next: over 5e7
// elements Adafactor takes 0.93 times as long, while rows of 300 elements in a cache, which end within lanes, would
// take it 1.1 times.
bool sums_row_by_row(const Tensor& x) {
    constexpr std::size_t kLongRow = 1024;
    return has_long_rows(x) && (x.factors.columns % kLanes == 0 || x.factors.columns >= kLongRow);
}

// The two sums of a run that begins a block, row after row. Lanes go on where they were: the elements of a whole number
// of lanes in which a row ends are made in scratch memory.
template <std::size_t kLength>
PairSum sum_row_by_row(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, DirectionFn kernel,
                       const void* constants, double multiplier, std::size_t element, const Run& block) {
    const int s = x.factors.states.elements;
    const std::size_t item = width(native(x.compute));
    PairSum sum{0, 0};
    for (std::size_t done = 0; done < block.n;) {
        const RowOfFactors row = row_of_factors(x, element + done);
        Run run{advanced(block.param, done * item), advanced(block.grad, done * item), {}, block.n - done};
        if (row.left < run.n) run.n = row.left / kLanes * kLanes;
        if (run.n > 0) {
            run.factor = row.factor;
            run.states[s] = row.columns;
        } else {
            run.n = std::min(kLanes, block.n - done);
            multiply_factors(kernels, x, element + done, run.n, run.states[s] = staging.scratch(2 + s));
        }
        run.lanes = block.lanes;
        run.ahead = block.ahead;
        sum = kernel(constants, multiplier, run);
        done += run.n;
    }
    return sum;
}

}  // namespace

void Engine::sum_gradients(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    Staging<kBlock> staging(*kernels_, x.compute);
    for (std::size_t i = begin; i < end; i += kBlock) {
        const std::size_t n = std::min(kBlock, end - i);
        grad_sums_[first_block_[t] + (x.before + i) / kBlock] =
            kernels_->sum_squares[x.compute](staging.load(x.grad, i, n, 0), n, bytes_ahead);
    }
}

// First pass of a rule with a trust ratio: two sums of squares per block, nothing written.
void Engine::sum_directions(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    if (!rule.norms) return;
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant) & rule.norm_states;
    Staging<kBlock> staging(*kernels_, x.compute);
    for (std::size_t i = begin; i < end; i += kBlock) {
        const std::size_t n = std::min(kBlock, end - i);
        Run run{rule.norm_param ? staging.load(x.param, i, n, 0) : nullptr, nullptr, {}, n};
        const double multiplier = load_gradient(staging, *kernels_, x, group, c.multiplier, i, n, run);
        PairLanes lanes{};
        run.lanes = &lanes;
        run.ahead = bytes_ahead;
        PairSum& sum = pair_sums_[first_block_[t] + (x.before + i) / kBlock];
        const DirectionFn kernel = rule.direction[x.compute][c.variant];
        if (sums_row_by_row(x)) {
            sum = sum_row_by_row(staging, *kernels_, x, kernel, c.bytes, multiplier, i, run);
        } else {
            load_states(staging, *kernels_, x, used, i, run);
            sum = kernel(c.bytes, multiplier, run);
        }
    }
}

// First pass of cautious steps, which are taken where they go against the gradient: counts these elements, and writes
// nothing. Liang et al., "Cautious optimizers: improving training with one line of code", 2024, algorithm 1, with the
// scale of the authors' code for AdamW.
void Engine::count_descents(std::size_t t, std::size_t begin, std::size_t end) {
    Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    if (!group.cautious) return;
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = kernels_->rules[group.rule].used_states(c.variant);
    Staging<kPiece> staging(*kernels_, x.compute);
    std::uint64_t count = 0;
    for (std::size_t i = begin; i < end; i += kPiece) {
        Run run{nullptr, nullptr, {}, std::min(kPiece, end - i)};
        const void* const param = c.decay.l2 != 0 ? staging.load(x.param, i, run.n, 0) : nullptr;
        load_states(staging, *kernels_, x, used, i, run, true);
        load_steps(staging, *kernels_, x, group, c, i, param, run);
        count += kernels_->count_descents[x.compute](run.param, run.grad, run.n);
    }
    x.descents += count;
}

}  // namespace fusedstep
