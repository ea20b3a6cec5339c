#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../dispatch.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"
#include "noise.hpp"
#include "staging.hpp"

namespace fusedstep {
namespace {

// What a tensor costs beyond its elements, in elements: a few calls and cache misses.
constexpr std::uint64_t kTensorCost = 64;

// A thread is worth waking for this many elements, some five microseconds; below twice that the caller works alone.
constexpr std::uint64_t kCostPerThread = 16384;

// Shares of a large model: enough of them that the last to finish is not far behind, few enough to cost nothing.
constexpr std::size_t kChunksPerThread = 64;

// Cautious steps are scaled up by at most the inverse of this.
constexpr double kLeastShare = 1e-3;

constexpr std::uint32_t kLargestHalf = 0x477FE000;  // the bits of 65504

bool is_half(Format format) {
    return format == Format::float16 || format == Format::float16_stochastic || format == Format::float16_master;
}

// The kernel for a tensor whose moments are all narrow in one way, and null for others.
NarrowFn narrow_kernel(const RuleEntry& rule, unsigned variant, const Tensor& x, const Group& group,
                       const StepOptions& options) {
    if (x.compute != kFloat || x.rows != nullptr || group.cautious || x.factors.any()) return nullptr;
    const unsigned used = rule.used_states(variant);
    const auto moments_are = [&](Format is_signed, Format is_unsigned) {
        bool all = true;
        for (std::size_t s = 0; s < static_cast<std::size_t>(rule.n_states); ++s) {
            const StateKind kind = rule.states[s].kind;
            if ((used >> s & 1u) && kind != kExact)
                all = all && x.states[s].format == (kind == kSigned ? is_signed : is_unsigned);
        }
        return all;
    };
    const Format param = x.param.format;
    const bool halves = x.grad.format == Format::bfloat16 && x.ema == nullptr && !options.zero_grads &&
                        !std::isfinite(group.clip_value) &&
                        (param == Format::bfloat16 || param == Format::bfloat16_stochastic || param == Format::split);
    // Beside float32 states a float32 parameter is stepped where it is: there is too little to decode.
    const bool plain_states = moments_are(Format::float32, Format::float32);
    if (plain_states && param == Format::float32) return nullptr;
    const Format moments = plain_states                                          ? Format::float32
                           : moments_are(Format::q8_signed, Format::q8_unsigned) ? Format::q8_signed
                           : moments_are(Format::bfloat16, Format::bfloat16)     ? Format::bfloat16
                                                                                 : Format::float64;
    if (moments == Format::float64) return nullptr;
    return rule.narrow(variant, moments, halves ? param : Format::float32);
}

// The whole blocks of `size` elements from `element` on.
NarrowRun narrow_run(const Tensor& x, const Group& group, unsigned used, std::size_t element, std::size_t size,
                     const StepOptions& options, Noise noise) {
    const auto from = [&](const Stream& stream) {
        return Stream{at(stream, element), extra_at(stream, element), stream.format};
    };
    NarrowRun run{};
    run.param = from(x.param);
    run.grad = from(x.grad);
    for (std::size_t s = 0; s < x.states.size(); ++s)
        if (used >> s & 1u) run.states[s] = from(x.states[s]);
    run.ema = x.ema == nullptr ? nullptr : static_cast<float*>(x.ema) + element;
    run.ema_decay = group.ema_decay;
    run.clip_value = group.clip_value;
    run.zero_grads = options.zero_grads;
    run.noise = {noise.key, noise.first + element};
    run.n = size / kQuantBlock * kQuantBlock;
    return run;
}

// Whether all that a step reads and writes of a tensor is of the compute type, and nothing is done but the rule's
// maths.
bool is_plain(const Tensor& x, const Group& group, unsigned used, const StepOptions& options) {
    const Format format = native(x.compute);
    bool plain = x.param.format == format && x.grad.format == format && x.ema == nullptr && !options.zero_grads &&
                 !std::isfinite(group.clip_value) && !group.cautious && !x.factors.any();
    for (std::size_t s = 0; s < x.states.size(); ++s)
        plain = plain && !((used >> s & 1u) && x.states[s].format != format);
    return plain && (x.direction.data == nullptr || x.direction.format == format);
}

// A run of a tensor of which that is so: from `element` of the parameter and `grad_element` of the gradient on.
Run run_in_place(const Tensor& x, const RuleEntry& rule, unsigned used, std::size_t element, std::size_t grad_element,
                 std::size_t n) {
    Run run{at(x.param, element), at(x.grad, grad_element), {}, n};
    for (int s = 0; s < rule.n_states; ++s)
        if (used >> s & 1u) run.states[s] = at(x.states[static_cast<std::size_t>(s)], element);
    if (rule.product) run.direction = at(x.direction, element);
    return run;
}

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

}  // namespace

void Engine::prepare() {
    kernels_ = &active_kernels();
    elements_ = 0;
    single_ = false;
    norms_ = false;
    whole_ = false;
    products_ = false;
    half_ = false;
    std::size_t blocks = 0;
    first_block_.clear();
    for (const Tensor& x : tensors) {
        first_block_.push_back(blocks);
        blocks += x.blocks();
        elements_ += x.size;
        single_ = single_ || x.compute == kFloat;
        half_ = half_ || is_half(x.param.format);
        const RuleEntry& rule = kernels_->rules[groups[static_cast<std::size_t>(x.group)].rule];
        norms_ = norms_ || rule.norms;
        whole_ = whole_ || rule.whole;
        products_ = products_ || rule.product;
    }
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

void Engine::sum_gradients(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    Staging<kBlock> staging(*kernels_, x.compute);
    for (std::size_t i = begin; i < end; i += kBlock) {
        const std::size_t n = std::min(kBlock, end - i);
        grad_sums_[first_block_[t] + (x.before + i) / kBlock] =
            kernels_->sum_squares[x.compute](staging.load(x.grad, i, n, 0), n);
    }
}

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
            c.variant = rule.variant(group.hypers.data(), x.step) | (x.factors.any() ? kFactored : 0u);
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

// Whether the step would make a finite float16 parameter infinite: the step itself, on copies.
bool Engine::overflows(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options) {
    const Tensor& x = tensors[t];
    if (!is_half(x.param.format)) return false;
    const Format rounded = x.param.format == Format::float16_master ? Format::float16 : x.param.format;
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant);
    const auto encode = kernels_->encode[static_cast<int>(rounded)][x.compute];
    const NarrowFn narrow = narrow_kernel(rule, c.variant, x, group, options);
    if (narrow != nullptr) {
        std::uint32_t largest = 0;
        NarrowRun run = narrow_run(x, group, used, begin, end - begin, options, {});
        run.largest = &largest;
        narrow(c.bytes, c.multiplier, run);
        if (largest <= kLargestHalf) begin += run.n;  // else it depends on the rounding: see below
    }
    Staging<kPiece> staging(*kernels_, x.compute);
    for (std::size_t g = begin; g < end;) {
        // Rows lie apart; everything else is one piece after another.
        const std::size_t row = x.rows == nullptr ? 0 : g / x.row_size;
        const std::size_t left = x.rows == nullptr ? end - g : std::min(end, (row + 1) * x.row_size) - g;
        const std::size_t n = std::min(kPiece, left);
        const std::size_t i =
            x.rows == nullptr ? g : static_cast<std::size_t>(x.rows[row]) * x.row_size + g % x.row_size;
        Run run{staging.load_copy(x.param, i, n, 0), nullptr, {}, n};
        copy_states(staging, *kernels_, x, used, i, run);
        if (rule.product) run.direction = staging.load(x.direction, i, n, 2 + rule.n_states);
        if (group.cautious) {
            step_cautiously(staging, *kernels_, x, group, c, g, run);
        } else {
            const double multiplier = load_gradient(staging, *kernels_, x, group, c.multiplier, g, n, run);
            rule.update[x.compute][c.variant](c.bytes, multiplier, run);
        }
        g += n;
        // Up to the largest number of float16 nothing becomes infinite, whatever the rounding.
        if (kernels_->largest(static_cast<const float*>(run.param), n) <= kLargestHalf) continue;
        std::uint16_t half[kPiece];
        encode(run.param, half, nullptr, n, {noise_key(options.seed, x.index, x.step), x.before + i});
        const float* wide = static_cast<const float*>(run.param);
        for (std::size_t k = 0; k < n; ++k)
            if ((half[k] & 0x7FFFu) == 0x7C00u && std::isfinite(wide[k])) return true;
    }
    return false;
}

// Undoes derive(): the step is not taken after all.
void Engine::take_back() {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        if (tensors[t].grad.data != nullptr) tensors[t].step = tensors[t].step - 1;
        tensors[t].scalars = scalars_before_[t];
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
        Run run{staging.load(x.param, i, n, 0), nullptr, {}, n};
        const double multiplier = load_gradient(staging, *kernels_, x, group, c.multiplier, i, n, run);
        load_states(staging, *kernels_, x, used, i, run);
        pair_sums_[first_block_[t] + (x.before + i) / kBlock] =
            rule.direction[x.compute][c.variant](c.bytes, multiplier, run);
    }
}

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
        if (rule.product) x.direction_norm = std::sqrt(sum.second);
    }
    if (whole_) agree(true);
    return true;
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
        copy_states(staging, *kernels_, x, used, i, run);
        load_steps(staging, *kernels_, x, group, c, i, param, run);
        count += kernels_->count_descents[x.compute](run.param, run.grad, run.n);
    }
    x.descents += count;
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

// Second pass of a rule with a product: the directions, and nothing else is written.
void Engine::aim(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    if (!rule.product) return;
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant);
    Staging<kPiece> staging(*kernels_, x.compute);
    for (std::size_t i = begin; i < end; i += kPiece) {
        const std::size_t n = std::min(kPiece, end - i);
        Run run{nullptr, nullptr, {}, n};
        const double multiplier = load_gradient(staging, *kernels_, x, group, c.multiplier, i, n, run);
        load_states(staging, *kernels_, x, used, i, run);
        const bool staged = staging.staged(x.direction);
        run.direction = staged ? staging.scratch(2 + rule.n_states) : at(x.direction, i);
        rule.aim[x.compute][c.variant](c.bytes, multiplier, run);
        if (staged) staging.store(x.direction, i, n, run.direction, {});
    }
}

// The one pass over memory. A gradient of rows is a run of elements too, whose parameters lie in several places.
std::uint64_t Engine::update(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options) {
    const Tensor& x = tensors[t];
    if (x.rows == nullptr) return update_span(t, begin, begin, end - begin, options);
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant);
    const UpdateFn kernel = rule.update[x.compute][c.variant];
    const bool plain = is_plain(x, group, used, options);
    const auto row = [&](std::size_t r) { return static_cast<std::size_t>(x.rows[r]); };
    const std::size_t last = (end - 1) / x.row_size;
    std::uint64_t nonfinite = 0;
    for (std::size_t r = begin / x.row_size; begin < end;) {
        const std::size_t element = row(r) * x.row_size + begin % x.row_size;
        while (r < last && row(r + 1) == row(r) + 1) ++r;  // neighbours in the table too
        const std::size_t n = std::min(end, ++r * x.row_size) - begin;
        if (plain)  // the fewer instructions a row, the more of their cache misses overlap
            kernel(c.bytes, c.multiplier, run_in_place(x, rule, used, element, begin, n));
        else
            nonfinite += update_span(t, element, begin, n, options);
        begin += n;
    }
    return nonfinite;
}

// `size` elements from `element` of the parameter on, and from `grad_element` of the gradient.
std::uint64_t Engine::update_span(std::size_t t, std::size_t element, std::size_t grad_element, std::size_t size,
                                  const StepOptions& options) {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant);
    const UpdateFn kernel = rule.update[x.compute][c.variant];
    if (is_plain(x, group, used, options)) {
        kernel(c.bytes, c.multiplier, run_in_place(x, rule, used, element, grad_element, size));
        return 0;
    }
    Staging<kPiece> staging(*kernels_, x.compute);
    const Noise noise{noise_key(options.seed, x.index, x.step), x.before};
    std::uint64_t nonfinite = 0;
    std::size_t done = 0;
    const NarrowFn narrow = narrow_kernel(rule, c.variant, x, group, options);
    if (narrow != nullptr) {
        const NarrowRun run = narrow_run(x, group, used, element, size, options, noise);
        nonfinite += narrow(c.bytes, c.multiplier, run);
        done = run.n;
    }
    for (; done < size; done += kPiece) {
        const std::size_t i = element + done, n = std::min(kPiece, size - done);
        Run run{staging.load(x.param, i, n, 0), nullptr, {}, n};
        load_states(staging, *kernels_, x, used, i, run);
        if (rule.product) run.direction = staging.load(x.direction, i, n, 2 + rule.n_states);

        if (group.cautious) {
            step_cautiously(staging, *kernels_, x, group, c, grad_element + done, run);
        } else {
            const double multiplier =
                load_gradient(staging, *kernels_, x, group, c.multiplier, grad_element + done, n, run);
            kernel(c.bytes, multiplier, run);
        }

        for (int s = 0; s < rule.n_states; ++s) {
            const Stream& state = x.states[static_cast<std::size_t>(s)];
            if ((used >> s & 1u) && state.data != nullptr && staging.staged(state))
                nonfinite += staging.store(state, i, n, run.states[s], noise);
        }
        if (staging.staged(x.param)) staging.store(x.param, i, n, run.param, noise);
        if (x.ema != nullptr) {
            void* ema = advanced(x.ema, i * width(native(x.compute)));
            kernels_->average[x.compute](group.ema_decay, run.param, ema, n);
        }
        if (options.zero_grads) std::memset(at(x.grad, grad_element + done), 0, n * width(x.grad.format));
    }
    return nonfinite;
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

// body(place in the exchange, block) for the blocks whose sums this process has made.
template <class Body>
void Engine::for_each_own_block(Body body) const {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Tensor& x = tensors[t];
        const std::size_t first = first_block_[t] + x.before / kBlock;
        for (std::size_t b = first; x.grad.data != nullptr && b < first + (x.size + kBlock - 1) / kBlock; ++b)
            body(exchanged_at(t, b), b);
    }
}

// body(place in the exchange, block, whether that block is to hold the sum of this place) for all blocks.
template <class Body>
void Engine::for_each_joined_block(Body body) const {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::size_t end = t + 1 < tensors.size() ? first_block_[t + 1] : grad_sums_.size();
        for (std::size_t b = first_block_[t]; b < end; ++b)
            body(exchanged_at(t, b), b, !sums_of_tensors || b == first_block_[t]);
    }
}

// Puts the sums over this process's blocks together with the others'; whether all of these were finite.
bool Engine::join_gradient_sums(bool& finite) {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    const std::size_t n = exchanged_sums();
    for_each_own_block([&](std::size_t at, std::size_t b) {
        exchanged_[at] += grad_sums_[b].sum;
        exchanged_[n] += grad_sums_[b].finite ? 0 : 1;
    });
    if (!sum_over_peers(n + 1, 1)) return false;
    finite = exchanged_[n] == 0;
    for_each_joined_block(
        [&](std::size_t at, std::size_t b, bool first) { grad_sums_[b] = {first ? exchanged_[at] : 0, finite}; });
    return true;
}

bool Engine::join_pair_sums() {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    for_each_own_block([&](std::size_t at, std::size_t b) {
        exchanged_[2 * at] += pair_sums_[b].first;
        exchanged_[2 * at + 1] += pair_sums_[b].second;
    });
    if (!sum_over_peers(2 * exchanged_sums(), 0)) return false;
    for_each_joined_block([&](std::size_t at, std::size_t b, bool first) {
        pair_sums_[b] = first ? PairSum{exchanged_[2 * at], exchanged_[2 * at + 1]} : PairSum{0, 0};
    });
    return true;
}

// The first parameter that overflows in any process.
bool Engine::join_overflows(std::size_t& overflowed) {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    if (overflowed != kNone) exchanged_[overflowed] = 1;
    if (!sum_over_peers(tensors.size(), tensors.size())) return false;
    overflowed = kNone;
    for (std::size_t t = tensors.size(); t-- > 0;)
        if (exchanged_[t] != 0) overflowed = t;
    return true;
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
