// The order of a step, how it is shared among threads, and what is decided between its passes.
#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include "../dispatch.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"
#include "staging.hpp"

namespace fusedstep {
namespace {

// What a tensor costs beyond its elements, in elements: a few calls and cache misses.
constexpr std::uint64_t kTensorCost = 64;

// A thread is worth waking for this many elements, some five microseconds; below twice that the caller works alone.
constexpr std::uint64_t kCostPerThread = 16384;

// Shares of a large model: enough of them that the last to finish is not far behind, few enough to cost nothing.
constexpr std::size_t kChunksPerThread = 64;

// Bytes of parameters, gradients and states from which a step finds little of them in caches: a large L3 cache.
constexpr std::size_t kFromMemory = 32 << 20;

// Cautious steps are scaled up by at most the inverse of this.
constexpr double kLeastShare = 1e-3;

}  // namespace

void Engine::prepare() {
    kernels_ = &active_kernels();
    elements_ = 0;
    single_ = false;
    norms_ = false;
    whole_ = false;
    products_ = false;
    half_ = false;
    std::size_t blocks = 0, bytes = 0;
    first_block_.clear();
    for (const Tensor& x : tensors) {
        first_block_.push_back(blocks);
        blocks += x.blocks();
        elements_ += x.size;
        bytes += x.size * (width(x.param.format) + width(x.grad.format));
        for (const Stream& state : x.states)
            if (state.data != nullptr) bytes += x.size * width(state.format);
        single_ = single_ || x.compute == kFloat;
        half_ = half_ || is_half(x.param.format);
        const RuleEntry& rule = kernels_->rules[groups[static_cast<std::size_t>(x.group)].rule];
        norms_ = norms_ || rule.norms;
        whole_ = whole_ || rule.whole;
        products_ = products_ || rule.product;
    }
    from_memory_ = bytes > kFromMemory && bytes_ahead != 0;
    grad_sums_.assign(blocks, {});
    pair_sums_.assign(norms_ ? blocks : 0, {});
    exchanged_.assign(peers == nullptr ? 0 : std::max(tensors.size(), norms_ ? 2 * blocks : blocks + 1), 0);
    constants_.resize(std::max<std::size_t>(1, tensors.size()));
    constants_of_.assign(tensors.size(), 0);
    counted_.assign(2 * tensors.size(), 0);
    scalars_before_.resize(half_ || products_ || peers != nullptr ? tensors.size() : 0);
    place_factors();
    cost_.assign(tensors.size() + 1, 0);
    active_.assign((tensors.size() + 63) / 64, 0);
    watch(watches_);
    partition();
}

// Cumulative costs of the tensors that have a gradient; kept until another set of them has one.
void Engine::partition() {
    bool same = cost_.back() != 0 && !rows_;
    rows_ = false;
    for (std::size_t w = 0; w < active_.size(); ++w) {
        std::uint64_t word = 0;
        const std::size_t end = std::min(tensors.size(), w * 64 + 64);
        for (std::size_t t = w * 64; t < end; ++t) {
            word |= static_cast<std::uint64_t>(tensors[t].grad.data != nullptr) << (t - w * 64);
            rows_ = rows_ || tensors[t].rows != nullptr;
        }
        same = same && word == active_[w];
        active_[w] = word;
    }
    if (same && !rows_) return;
    for (std::size_t t = 0; t < tensors.size(); ++t)
        cost_[t + 1] = cost_[t] + (tensors[t].grad.data != nullptr ? tensors[t].steps_over() + kTensorCost : 0);
}

// Where a share of the total cost begins. Tensors are only cut between blocks, so the partial sums and the blocks of
// the 8-bit formats are the same for any number of threads.
Engine::Place Engine::place(std::uint64_t cost) const {
    const auto after = std::upper_bound(cost_.begin(), cost_.end(), cost);
    if (after == cost_.end()) return {tensors.size(), 0};
    const auto t = static_cast<std::size_t>(after - cost_.begin()) - 1;
    const std::uint64_t within = cost - cost_[t];
    const std::uint64_t element = within <= kTensorCost ? 0 : (within - kTensorCost) / kBlock * kBlock;
    return {t, static_cast<std::size_t>(element)};
}

// The runs of elements that belong to a share of the cost.
template <class Body>
void Engine::for_each_run(std::uint64_t from_cost, std::uint64_t to_cost, Body& body) const {
    const Place from = place(from_cost), to = place(to_cost);
    for (std::size_t t = from.tensor; t <= to.tensor && t < tensors.size(); ++t) {
        if (tensors[t].grad.data == nullptr) continue;
        const std::size_t begin = t == from.tensor ? from.element : 0;
        const std::size_t end = t == to.tensor ? to.element : tensors[t].steps_over();
        if (begin < end) body(t, begin, end);
    }
}

// One pass over the model, shared among threads: body(tensor, begin, end) for runs that together are all of it.
template <class Body>
void Engine::share(Body body) const {
    share(0, cost_.back(), std::move(body));
}

// The same over a part of the cost.
template <class Body>
void Engine::share(std::uint64_t from, std::uint64_t to, Body body) const {
    const std::uint64_t worth = (to - from) / kCostPerThread;
    const int threads = team_size(worth);
    if (threads < 2) return for_each_run(from, to, body);
    struct Pass {
        const Engine& engine;
        Body& body;
        std::uint64_t from, total;
        std::size_t chunks;
        std::uint64_t start(std::size_t k) const { return from + total / chunks * k + total % chunks * k / chunks; }
    };
    const std::size_t most = static_cast<std::size_t>(threads) * kChunksPerThread;
    Pass pass{*this, body, from, to - from, std::min(static_cast<std::size_t>(worth), most)};
    parallel_for(
        pass.chunks, threads,
        [](void* context, std::size_t chunk) {
            const Pass& shared = *static_cast<const Pass*>(context);
            shared.engine.for_each_run(shared.start(chunk), shared.start(chunk + 1), shared.body);
        },
        &pass);
}

// The cost of what lies before the end of a bucket: the inverse of place().
std::uint64_t Engine::cost_before(const BucketEnd& end) const {
    if (end.tensor >= tensors.size()) return cost_.back();
    const std::uint64_t within = end.element == 0 ? 0 : kTensorCost + end.element;
    return std::min(cost_[end.tensor] + within, cost_[end.tensor + 1]);
}

// The scales of cautious steps: one over the share of the elements that are stepped. False: a peer did not answer.
bool Engine::caution() {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        Tensor& x = tensors[t];
        const Group& group = groups[static_cast<std::size_t>(x.group)];
        x.descents = 0;
        if (x.grad.data == nullptr || !group.cautious) continue;
        Constants& c = constants_[constants_of_[t]];
        c.decay = kernels_->rules[group.rule].decay[x.compute](c.bytes, c.variant);
    }
    share([&](std::size_t t, std::size_t begin, std::size_t end) { count_descents(t, begin, end); });
    // Of the whole tensor, whose parts other processes may have. Whole numbers: their sum is the same in any order.
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        counted_[2 * t] = static_cast<double>(tensors[t].descents);
        counted_[2 * t + 1] = static_cast<double>(tensors[t].size);
    }
    if (peers != nullptr && !peers->sum(counted_.data(), counted_.size(), 0)) return false;
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].grad.data == nullptr || !groups[static_cast<std::size_t>(tensors[t].group)].cautious) continue;
        const double share = counted_[2 * t] / counted_[2 * t + 1];
        constants_[constants_of_[t]].scale = 1.0 / (share > kLeastShare ? share : kLeastShare);
    }
    return true;
}

// After the first read of the gradients: skip the step, or clip it and derive its constants.
void Engine::decide(const StepOptions& options, StepResult& result) {
    double total = 0;
    bool finite = true;
    if (peers != nullptr && !join_gradient_sums(finite)) {
        result.failed = true;
        return;
    }
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].grad.data == nullptr) continue;
        double sum = 0;
        for (std::size_t b = 0; b < tensors[t].blocks(); ++b) {
            const BlockSum& block = grad_sums_[first_block_[t] + b];
            sum += block.sum;
            finite = finite && block.finite;
        }
        total += sum;
    }
    const double scale = 1.0 / options.grad_scale;
    result.grad_norm = std::sqrt(total) * scale;
    result.taken = finite || !options.skip_nonfinite;
    if (!result.taken) return;
    double coefficient = 1;
    if (options.max_grad_norm > 0) {
        coefficient = options.max_grad_norm / (result.grad_norm + (options.clip_exactly ? 0 : 1e-6));
        if (coefficient > 1) coefficient = 1;
        if (options.clip_exactly && !std::isfinite(result.grad_norm)) coefficient = std::nan("");
    }
    result.taken = !options.skip_nonfinite || stays_finite(scale * coefficient, std::sqrt(total), result);
    if (result.taken && !result.failed) derive(options, coefficient);
}

// Whether finite gradients of this norm are finite in the compute type when they are multiplied. The norm bounds every
// element; only where that does not settle it are the elements read again.
bool Engine::stays_finite(double multiplier, double norm, StepResult& result) {
    constexpr double kRoom = 1 - 1e-6;  // for the rounding of the norm and of the multiplier
    const double largest = single_ ? std::numeric_limits<float>::max() : std::numeric_limits<double>::max();
    if (std::abs(multiplier) <= 1 || norm * std::abs(multiplier) < largest * kRoom) return true;
    std::atomic<bool> finite{true};
    share([&](std::size_t t, std::size_t begin, std::size_t end) {
        const Tensor& x = tensors[t];
        Staging<kBlock> staging(*kernels_, x.compute);
        for (std::size_t i = begin; i < end && finite; i += kBlock) {
            const std::size_t n = std::min(kBlock, end - i);
            const void* const loaded = staging.load(x.grad, i, n, 0);
            const auto scaled = [&](auto* grad) {
                const auto by = static_cast<std::decay_t<decltype(*grad)>>(multiplier);
                for (std::size_t k = 0; k < n; ++k)
                    if (!std::isfinite(by * grad[k])) finite = false;
            };
            if (x.compute == kFloat)
                scaled(static_cast<const float*>(loaded));
            else
                scaled(static_cast<const double*>(loaded));
        }
    });
    if (peers == nullptr) return finite;
    exchanged_[0] = finite ? 0 : 1;
    result.failed = !sum_over_peers(1, 1);
    return exchanged_[0] == 0;
}

// The pass that writes, bucket after bucket: while one is stepped, the next one's gradients and the parameters of the
// one before are on their way.
template <class Body>
bool Engine::step_buckets(bool received, Body body) {
    std::uint64_t from = 0;
    for (std::size_t k = 0; k < buckets.size(); ++k) {
        if (!received && !peers->receive(k)) return false;
        const std::uint64_t to = cost_before(buckets[k]);
        share(from, to, body);
        from = to;
        if (!peers->send(k)) return false;
    }
    return true;
}

StepResult Engine::step(const StepOptions& options) noexcept {
    StepResult result = start(options);
    if (result.taken && !result.failed) finish(options, result);
    return result;
}

// All that only reads the model: whether the step is taken, its constants, and the directions of rules with a product.
StepResult Engine::start(const StepOptions& options) noexcept {
    const DefaultFloats guard;
    kernels_ = &active_kernels();
    partition();
    cautious_ = false;
    for (const Group& group : groups) cautious_ = cautious_ || group.cautious;
    StepResult result;
    for (std::size_t k = 0; receives_first(options) && k < buckets.size(); ++k) {
        result.failed = !peers->receive(k);
        if (result.failed) return result;
    }
    if (options.max_grad_norm > 0 || options.skip_nonfinite) {
        share([&](std::size_t t, std::size_t begin, std::size_t end) { sum_gradients(t, begin, end); });
        decide(options, result);
        if (!result.taken && !result.failed && options.watch) {  // what its gradients were
            begin_watched();
            share([&](std::size_t t, std::size_t begin, std::size_t end) {
                update_watched(t, begin, end, options, false);
            });
            add_up();
        }
        if (!result.taken || result.failed) return result;
    } else {
        derive(options, 1);
    }
    if (factors_) {
        share([&](std::size_t t, std::size_t begin, std::size_t end) { sum_factors(t, begin, end); });
        advance_factors();
    }
    if (norms_) {
        share([&](std::size_t t, std::size_t begin, std::size_t end) { sum_directions(t, begin, end); });
        result.failed = !trust();
    }
    if (cautious_ && !result.failed) result.failed = !caution();
    if (result.failed) {
        take_back();
        return result;
    }
    if (products_) share([&](std::size_t t, std::size_t begin, std::size_t end) { aim(t, begin, end); });
    return result;
}

void Engine::finish(const StepOptions& options, StepResult& result) noexcept {
    const DefaultFloats guard;
    if (half_) {
        std::atomic<std::size_t> overflowed{kNone};
        share([&](std::size_t t, std::size_t begin, std::size_t end) {
            if (!overflows(t, begin, end, options)) return;
            for (std::size_t first = overflowed; t < first;)  // the first of them, whoever finds it when
                if (overflowed.compare_exchange_weak(first, t)) break;
        });
        result.overflowed = overflowed;
        if (peers != nullptr) result.failed = !join_overflows(result.overflowed);
        if (result.failed) return take_back();
        result.taken = result.overflowed == kNone;
        if (!result.taken) return take_back();
    }
    std::atomic<std::uint64_t> nonfinite{0};
    if (options.watch) begin_watched();
    const auto write = [&](std::size_t t, std::size_t begin, std::size_t end) {
        const std::uint64_t blocks =
            options.watch ? update_watched(t, begin, end, options, true) : update(t, begin, end, options);
        if (blocks != 0) nonfinite += blocks;
    };
    if (peers == nullptr)
        share(write);
    else
        result.failed = !step_buckets(receives_first(options), write);
    if (factors_) store_factors();
    if (options.watch) add_up();
    result.nonfinite_blocks = nonfinite;
}

}  // namespace fusedstep
