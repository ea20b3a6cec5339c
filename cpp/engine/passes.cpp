// What a thread does with its run of a tensor's elements in the pass that writes; and the same on copies.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../dispatch.hpp"
#include "cautious.hpp"
#include "engine.hpp"
#include "noise.hpp"
#include "staging.hpp"

namespace fusedstep {
namespace {

constexpr std::uint32_t kLargestHalf = 0x477FE000;  // the bits of 65504

// The kernel for a tensor whose moments are all narrow in one way, and null for others.
NarrowFn narrow_kernel(const RuleEntry& rule, unsigned variant, const Tensor& x, const Group& group,
                       const StepOptions& options) {
    if (x.compute != kFloat || x.rows != nullptr || group.cautious ||
        (x.factors.any() && x.factors.states.columns >= 0))
        return nullptr;
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
    if (const Factors& f = x.factors; f.any()) {
        const std::size_t row = element / f.columns;
        run.row_factors = static_cast<const float*>(f.inverse_rows) + row;
        run.row_size = f.columns;
        run.left_in_row = (row + 1) * f.columns - element;
        run.states[f.states.elements] = {};
    }
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
                 !std::isfinite(group.clip_value) && !group.cautious;
    if (x.factors.any()) {
        used &= ~(1u << x.factors.states.elements);
        plain = plain && has_long_rows(x);
    }
    for (std::size_t s = 0; s < x.states.size(); ++s)
        plain = plain && !((used >> s & 1u) && x.states[s].format != format);
    return plain && (x.direction.data == nullptr || x.direction.format == format);
}

// A run of a tensor of which that is so: from `element` of the parameter and `grad_element` of the gradient on.
Run run_in_place(const Tensor& x, const RuleEntry& rule, unsigned used, std::size_t element, std::size_t grad_element,
                 std::size_t n) {
    Run run{at(x.param, element), at(x.grad, grad_element), {}, n};
    for (int s = 0; s < rule.n_states; ++s)
        if (used >> s & 1u) run.states[s] = at(x.state(s), element);
    if (rule.product) run.direction = at(x.direction, element);
    return run;
}

// Bytes of each stream that are stepped before the next ones are asked for.
constexpr std::size_t kAhead = 512;
constexpr std::size_t kCacheLine = 64;

// Steps a plain run that comes from memory in pieces, and asks for the next piece before it steps one. By itself the
// processor follows every stream no further than to the end of its page. Adam over 8e6 to 5e7 elements takes 0.85 to
// 0.90 times as long, SGD 0.87, momentum and RMSprop 0.98.
void step_from_memory(UpdateFn kernel, const void* constants, double multiplier, Run run, unsigned used,
                      std::size_t width) {
    const auto ask_for = [](const void* data) {
        for (std::size_t b = kAhead; b < 2 * kAhead; b += kCacheLine) prefetch(advanced(data, b));
    };
    for (std::size_t left = run.n; left > 0; left -= run.n) {
        run.n = std::min(kAhead / width, left);
        const bool more = left >= 2 * run.n;
        if (more) ask_for(run.param);
        if (more) ask_for(run.grad);
        for (unsigned s = 0; s < kMaxStates; ++s)
            if (more && (used >> s & 1u)) ask_for(run.states[s]);
        kernel(constants, multiplier, run);
        run.param = advanced(run.param, kAhead);
        run.grad = advanced(run.grad, kAhead);
        if (run.direction != nullptr) run.direction = advanced(run.direction, kAhead);
        for (unsigned s = 0; s < kMaxStates; ++s)
            if (used >> s & 1u) run.states[s] = advanced(run.states[s], kAhead);
    }
}

// Steps a plain run of elements, which is in place; with a second moment in factors row after row.
void step_in_place(const Tensor& x, const RuleEntry& rule, UpdateFn kernel, const void* constants, double multiplier,
                   unsigned used, std::size_t element, std::size_t grad_element, std::size_t n, bool from_memory) {
    const auto step = [&](const Run& run) {
        if (from_memory)
            step_from_memory(kernel, constants, multiplier, run, used, width(native(x.compute)));
        else
            kernel(constants, multiplier, run);
    };
    if (!x.factors.any()) return step(run_in_place(x, rule, used, element, grad_element, n));
    for (std::size_t done = 0; done < n;) {
        const RowOfFactors row = row_of_factors(x, element + done);
        Run run = run_in_place(x, rule, used, element + done, grad_element + done, std::min(row.left, n - done));
        run.factor = row.factor;
        run.states[x.factors.states.elements] = row.columns;
        step(run);
        done += run.n;
    }
}

}  // namespace

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
        load_states(staging, *kernels_, x, used, i, run, true);
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

// What the pass that writes asks of a tensor once for all its spans.
Engine::Written Engine::written(std::size_t t, const StepOptions& options) const {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    const Constants& c = constants_[constants_of_[t]];
    Written found{x, group, rule, c, rule.used_states(c.variant), rule.update[x.compute][c.variant], true, nullptr, {}};
    found.plain = is_plain(x, group, found.used, options);
    if (found.plain) return found;
    found.narrow = narrow_kernel(rule, c.variant, x, group, options);
    found.noise = {noise_key(options.seed, x.index, x.step), x.before};
    return found;
}

// The one pass over memory. A gradient of rows is a run of elements too, whose parameters lie in several places.
std::uint64_t Engine::update(const Written& to, std::size_t begin, std::size_t end, const StepOptions& options) const {
    const Tensor& x = to.x;
    if (x.rows == nullptr) return update_span(to, begin, begin, end - begin, options);
    const auto row = [&](std::size_t r) { return static_cast<std::size_t>(x.rows[r]); };
    const std::size_t last = (end - 1) / x.row_size;
    std::uint64_t nonfinite = 0;
    for (std::size_t r = begin / x.row_size; begin < end;) {
        const std::size_t element = row(r) * x.row_size + begin % x.row_size;
        while (r < last && row(r + 1) == row(r) + 1) ++r;  // neighbours in the table too
        const std::size_t n = std::min(end, ++r * x.row_size) - begin;
        if (to.plain)  // the fewer instructions a row, the more of their cache misses overlap
            to.kernel(to.c.bytes, to.c.multiplier, run_in_place(x, to.rule, to.used, element, begin, n));
        else
            nonfinite += update_span(to, element, begin, n, options);
        begin += n;
    }
    return nonfinite;
}

// Most tensors are plain ones with all their elements: these take the shortest way, which saves 5% of the instructions
// that a small one costs.
std::uint64_t Engine::update(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options) const {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const RuleEntry& rule = kernels_->rules[group.rule];
    const Constants& c = constants_[constants_of_[t]];
    const unsigned used = rule.used_states(c.variant);
    if (x.rows == nullptr && is_plain(x, group, used, options)) {
        step_in_place(x, rule, rule.update[x.compute][c.variant], c.bytes, c.multiplier, used, begin, begin,
                      end - begin, from_memory_);
        return 0;
    }
    return update(written(t, options), begin, end, options);
}

// `size` elements from `element` of the parameter on, and from `grad_element` of the gradient.
std::uint64_t Engine::update_span(const Written& to, std::size_t element, std::size_t grad_element, std::size_t size,
                                  const StepOptions& options) const {
    const Tensor& x = to.x;
    const RuleEntry& rule = to.rule;
    const Constants& c = to.c;
    if (to.plain) {
        step_in_place(x, rule, to.kernel, c.bytes, c.multiplier, to.used, element, grad_element, size, false);
        return 0;
    }
    Staging<kPiece> staging(*kernels_, x.compute);
    std::uint64_t nonfinite = 0;
    std::size_t done = 0;
    if (to.narrow != nullptr) {
        const NarrowRun run = narrow_run(x, to.group, to.used, element, size, options, to.noise);
        nonfinite += to.narrow(c.bytes, c.multiplier, run);
        done = run.n;
    }
    for (; done < size; done += kPiece) {
        const std::size_t i = element + done, n = std::min(kPiece, size - done);
        Run run{staging.load(x.param, i, n, 0), nullptr, {}, n};
        load_states(staging, *kernels_, x, to.used, i, run);
        if (rule.product) run.direction = staging.load(x.direction, i, n, 2 + rule.n_states);

        if (to.group.cautious) {
            step_cautiously(staging, *kernels_, x, to.group, c, grad_element + done, run);
        } else {
            const double multiplier =
                load_gradient(staging, *kernels_, x, to.group, c.multiplier, grad_element + done, n, run);
            to.kernel(c.bytes, multiplier, run);
        }

        for (int s = 0; s < rule.n_states; ++s) {
            const Stream& state = x.state(s);
            if ((to.used >> s & 1u) && state.data != nullptr && staging.staged(state))
                nonfinite += staging.store(state, i, n, run.states[s], to.noise);
        }
        if (staging.staged(x.param)) staging.store(x.param, i, n, run.param, to.noise);
        if (x.ema != nullptr) {
            void* ema = advanced(x.ema, i * width(native(x.compute)));
            kernels_->average[x.compute](to.group.ema_decay, run.param, ema, n);
        }
        if (options.zero_grads) std::memset(at(x.grad, grad_element + done), 0, n * width(x.grad.format));
    }
    return nonfinite;
}

}  // namespace fusedstep
