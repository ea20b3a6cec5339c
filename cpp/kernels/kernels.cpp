// Loops over elements, compiled once per instruction set. Exports one table and nothing else: all of this has internal
// linkage, so no function built for AVX-512 can be picked by the linker for a CPU without it.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../types.hpp"

namespace fusedstep {
namespace {

// clang-format off: the order matters
#include "vec.hpp"
#include "rules/common.hpp"
#include "rules/sgd.hpp"
#include "rules/momentum.hpp"
#include "rules/rmsprop.hpp"
#include "rules/adam.hpp"
#include "rules/adagrad.hpp"
#include "rules/adadelta.hpp"
#include "rules/adamax.hpp"
#include "rules/nadam.hpp"
#include "rules/radam.hpp"
#include "rules/adabelief.hpp"
#include "rules/asgd.hpp"
#include "rules/rprop.hpp"
#include "rules/lion.hpp"
#include "rules/lamb.hpp"
#include "rules/lars.hpp"
#include "rules/muon.hpp"
#include "rules/schedule_free.hpp"
#include "rules/sparse_adam.hpp"
#include "rules/adan.hpp"
#include "rules/ademamix.hpp"
#include "rules/adopt.hpp"
#include "rules/yogi.hpp"
#include "rules/stable_adamw.hpp"
#include "rules/mars.hpp"
#include "rules/novograd.hpp"
#include "rules/adafactor.hpp"
#include "rules/prodigy.hpp"
#include "rules/adam_mini.hpp"
// clang-format on
#include "formats/formats.hpp"

// Every rule, in the order of their numbers.
template <class...>
struct List {};
using Rules = List<Sgd, Momentum, RmsProp, Adam, AdamW, Adagrad, Adadelta, Adamax, NAdam, RAdam, AdaBelief, Asgd, Rprop,
                   Lion, Lamb, Lars, ScheduleFreeSgd, ScheduleFreeAdamW, SparseAdam, Muon, Adan, AdEMAMix, Adopt, Yogi,
                   StableAdamW, Mars, MarsLion, NovoGrad, Adafactor, Prodigy, AdamMini>;

// 0, 1, ... n - 1 as template arguments.
template <unsigned... V>
struct Sequence {};
template <unsigned n, unsigned... V>
struct Count : Count<n - 1, n - 1, V...> {};
template <unsigned... V>
struct Count<0, V...> {
    using type = Sequence<V...>;
};

// States never become subnormal: a step over subnormal numbers is several times slower on many CPUs.
template <class T>
inline T flushed(const T& x) {
    return magnitude(x) < smallest_normal(x) ? T{} : x;
}

template <class Rule>
constexpr int kStatesOf = static_cast<int>(sizeof(Rule::kStates) / sizeof(Rule::kStates[0]));

// One element through the rule, whatever the number of its states.
template <class Rule, class T, unsigned V, class C>
inline void apply(const C& c, T& p, T g, T& a, T& b, T& d, T& e) {
    constexpr int n = kStatesOf<Rule> + (Rule::kProduct ? 1 : 0);  // the direction comes after the states
    if constexpr (n == 1) Rule::template update<T, V>(c, p, g, a);
    if constexpr (n == 2) Rule::template update<T, V>(c, p, g, a, b);
    if constexpr (n == 3) Rule::template update<T, V>(c, p, g, a, b, d);
    if constexpr (n == 4) Rule::template update<T, V>(c, p, g, a, b, d, e);
}

extern const KernelTable table;  // below

// clang-format off: the order matters
#include "narrow_step.hpp"
#include "bfloat16_step.hpp"
#include "divide_bound.hpp"
// clang-format on

// Bit mask over states: the one in whose place a rule finds what its second moment in factors makes of an element.
template <class Rule, unsigned V>
constexpr unsigned made_states() {
    constexpr unsigned made = Rule::kFactors.columns >= 0 && (V & kFactored) ? 1u << Rule::kFactors.elements : 0u;
    static_assert((made & ~4u) == 0, "the third state");
    return made;
}

template <class Rule, class T, unsigned V>
void update(const void* constants, double multiplier, const Run& run) {
    constexpr unsigned used = Rule::states(V), made = made_states<Rule, V>();
    const auto c = *static_cast<const typename Rule::template Constants<T>*>(constants);
    const T scale = T(multiplier);
    [[maybe_unused]] const T factor = T(run.factor);
    const std::size_t n = run.n;
    T* const __restrict param = static_cast<T*>(run.param);
    const T* const __restrict grad = static_cast<const T*>(run.grad);
    T* const __restrict s0 = static_cast<T*>(run.states[0]);
    T* const __restrict s1 = static_cast<T*>(run.states[1]);
    T* const __restrict s2 = static_cast<T*>(run.states[2]);
    T* const __restrict s3 = static_cast<T*>(run.states[3]);
    [[maybe_unused]] const T* const __restrict along = static_cast<const T*>(run.direction);
    static_assert(!Rule::kProduct || kStatesOf<Rule> == 1, "the direction takes the place of a second state");
    std::size_t first = 0;
#if defined(FUSEDSTEP_DIVIDE_BOUND)
    if constexpr (sizeof(T) == 4 && Rule::waits_for_divider(V))
        first = update_divide_bound<Rule, V>(constants, scale, run);
#endif
#pragma omp simd
    for (std::size_t i = first; i < n; ++i) {
        T p = param[i], a = 0, b = 0, d = 0, e = 0;
        if constexpr (used & 1u) a = s0[i];
        if constexpr (used & 2u) b = s1[i];
        if constexpr (used & 4u) d = s2[i];
        if constexpr (made & 4u) d = factor * d;
        if constexpr (used & 8u) e = s3[i];
        if constexpr (Rule::kProduct) b = along[i];
        apply<Rule, T, V>(c, p, scale * grad[i], a, b, d, e);
        param[i] = p;
        if constexpr (used & 1u) s0[i] = flushed(a);
        if constexpr (used & 2u) s1[i] = flushed(b);
        if constexpr ((used & ~made) & 4u) s2[i] = flushed(d);
        if constexpr (used & 8u) s3[i] = flushed(e);
    }
}

template <class Rule, class T, unsigned V>
void aim(const void* constants, double multiplier, const Run& run) {
    const auto c = *static_cast<const typename Rule::template Constants<T>*>(constants);
    const T scale = T(multiplier);
    const T* const __restrict grad = static_cast<const T*>(run.grad);
    const T* const __restrict state = static_cast<const T*>(run.states[0]);
    T* const __restrict out = static_cast<T*>(run.direction);
#pragma omp simd
    for (std::size_t i = 0; i < run.n; ++i) out[i] = Rule::template aim<T, V>(c, scale * grad[i], state[i]);
}

// Sums of squares in sixteen double lanes: lane j takes elements j, j + 16, ...; then the lanes are added by halves.
// The order never depends on the vector width, so the sum is the same on every instruction set.
inline double combined(double* lane) {
    for (std::size_t half = kLanes / 2; half > 0; half /= 2)
        for (std::size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

// Copies sums to go on with. An addition, since compilers copy sixteen bytes at a time: a processor waits where it
// reads more at once than was stored. No sum is -0.
inline void load_lanes(const double* from, double* lane) {
#pragma omp simd
    for (std::size_t j = 0; j < kLanes; ++j) lane[j] = from[j] + 0.0;
}

template <class T>
void fetch_lanes(const T* lanes) {
    constexpr std::size_t kCacheLine = 64;
    for (std::size_t b = 0; b < kLanes * sizeof(T); b += kCacheLine) prefetch(reinterpret_cast<const char*>(lanes) + b);
}

// Adds a square to a sum. That of a float32 is exact in a double, so that one instruction for both leaves the same
// bits.
template <class T>
double plus_square(double sum, T x) {
    const double v = static_cast<double>(x);
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    if constexpr (sizeof(T) == 4) return __builtin_fma(v, v, sum);
#endif
    return sum + v * v;
}

// Asks for what a sum comes to 2 KB later. By itself the processor follows a stream no further than to the end of its
// page: over 1e7 elements on one thread, Adafactor takes 0.8 times as long with it and LAMB 0.95 times.
template <class T>
void fetch_ahead(const T* lanes) {
    constexpr std::size_t kAhead = 2048;
    fetch_lanes(lanes + kAhead / sizeof(T));
}

template <class T>
BlockSum sum_squares(const void* data, std::size_t n) {
    const T* const x = static_cast<const T*>(data);
    double lane[kLanes] = {};
    double zero[kLanes] = {};  // stays zero unless an element is infinite or NaN
    const auto add = [&](std::size_t i, std::size_t j) {
        lane[j] = plus_square(lane[j], x[i]);
        if constexpr (sizeof(T) == 8)
            zero[j] += x[i] * 0.0;  // squares of float32 cannot overflow a double: their sum tells
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        fetch_ahead(x + i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    const double sum = combined(lane);
    if constexpr (sizeof(T) == 4) return {sum, sum - sum == 0.0};
    return {sum, combined(zero) == 0.0};
}

#include "watch.hpp"

template <class Rule, class T, unsigned V>
PairSum direction(const void* constants, double multiplier, const Run& run) {
    constexpr unsigned used = Rule::states(V) & Rule::kNormStates, made = made_states<Rule, V>();
    static_assert(made == 0 || used == made, "Engine::sum_directions() loads no other state beside it");
    const auto c = *static_cast<const typename Rule::template Constants<T>*>(constants);
    const T scale = T(multiplier);
    [[maybe_unused]] const T factor = T(run.factor);
    const T* const param = static_cast<const T*>(run.param);
    const T* const grad = static_cast<const T*>(run.grad);
    const T* const s0 = static_cast<const T*>(run.states[0]);
    const T* const s1 = static_cast<const T*>(run.states[1]);
    const T* const s2 = static_cast<const T*>(run.states[2]);
    const T* const s3 = static_cast<const T*>(run.states[3]);
    double first[kLanes] = {}, second[kLanes] = {};
    if constexpr (made != 0) {
        load_lanes(run.lanes->first, first);
        load_lanes(run.lanes->second, second);
    }
    const auto one = [&](std::size_t i, std::size_t j) {
        constexpr int states = kStatesOf<Rule>;
        T a = 0, b = 0, d = 0, e = 0, x = 0, y = 0;
        if constexpr (used & 1u) a = s0[i];
        if constexpr (used & 2u) b = s1[i];
        if constexpr (used & 4u) d = s2[i];
        if constexpr (made & 4u) d = factor * d;
        if constexpr (used & 8u) e = s3[i];
        if constexpr (states == 1) Rule::template direction<T, V>(c, param[i], scale * grad[i], a, x, y);
        if constexpr (states == 2) Rule::template direction<T, V>(c, param[i], scale * grad[i], a, b, x, y);
        if constexpr (states == 3) Rule::template direction<T, V>(c, param[i], scale * grad[i], a, b, d, x, y);
        if constexpr (states == 4) Rule::template direction<T, V>(c, param[i], scale * grad[i], a, b, d, e, x, y);
        first[j] = Rule::kWhole ? first[j] + static_cast<double>(x) : plus_square(first[j], x);
        second[j] = Rule::kWhole ? second[j] + static_cast<double>(y) : plus_square(second[j], y);
    };
    const std::size_t whole = run.n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        fetch_ahead(param + i);
        fetch_ahead(grad + i);
        if constexpr (used & 1u) fetch_ahead(s0 + i);
        if constexpr (used & 2u) fetch_ahead(s1 + i);
        if constexpr ((used & ~made) & 4u) fetch_ahead(s2 + i);
        if constexpr (used & 8u) fetch_ahead(s3 + i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) one(i + j, j);
    }
    for (std::size_t j = 0; j < run.n - whole; ++j) one(whole + j, j);
    if constexpr (made != 0) {
        std::memcpy(run.lanes->first, first, sizeof first);
        std::memcpy(run.lanes->second, second, sizeof second);
    }
    return {combined(first), combined(second)};
}

// Gradient clipping by value; a NaN stays NaN.
template <class T>
void prepare(const void* grad, double multiplier, double clip, void* out, std::size_t n) {
    const T scale = T(multiplier), high = T(clip), low = -high;
    const T* const g = static_cast<const T*>(grad);
    T* const result = static_cast<T*>(out);  // may be grad itself
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) {
        T x = scale * g[i];
        x = x > high ? high : x;
        x = x < low ? low : x;
        result[i] = x;
    }
}

template <class T>
void average(double decay, const void* param, void* ema, std::size_t n) {
    const T keep = T(decay), take = T(1.0 - decay);
    const T* const __restrict p = static_cast<const T*>(param);
    T* const __restrict e = static_cast<T*>(ema);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) e[i] = flushed(keep * e[i] + take * p[i]);
}

// The parts of a cautious step that are the same for every rule: see Engine::caution().
template <class T>
void add_decay(double l2, const void* param, void* grad, std::size_t n) {
    const T factor = T(l2);
    const T* const __restrict p = static_cast<const T*>(param);
    T* const __restrict g = static_cast<T*>(grad);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) g[i] = g[i] + factor * p[i];
}

// 1 where the step goes against the gradient, else 0, of a NaN or zero too. By the signs: a product could underflow.
template <class T>
inline T descends(const T& step, const T& grad) {
    const T downhill = grad > T{} ? step : T{};
    const T along = grad < T{} ? -step : downhill;
    return along < T{} ? T{} + 1 : T{};
}

template <class T>
std::size_t count_descents(const void* step, const void* grad, std::size_t n) {
    const T* const s = static_cast<const T*>(step);
    const T* const g = static_cast<const T*>(grad);
    T sum = 0;  // of at most a block's elements: exact
#pragma omp simd reduction(+ : sum)
    for (std::size_t i = 0; i < n; ++i) sum += descends(s[i], g[i]);
    return static_cast<std::size_t>(sum);
}

template <class T>
void descend(Decay decay, double scale, const void* step, const void* grad, void* param, std::size_t n) {
    const T shrink = T(decay.shrink), factor = T(scale);
    const T* const __restrict s = static_cast<const T*>(step);
    const T* const __restrict g = static_cast<const T*>(grad);
    T* const __restrict p = static_cast<T*>(param);
    // A product, not a select: what is NaN stays NaN, and an infinite step is seen.
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) p[i] = p[i] * shrink + s[i] * (factor * descends(s[i], g[i]));
}

template <class Rule, class T>
void derive(const double* h, std::uint64_t step, double* scalars, void* constants) {
    using Constants = typename Rule::template Constants<T>;
    static_assert(sizeof(Constants) <= kConstantsBytes, "raise kConstantsBytes");
    const Constants c = Rule::template derive<T>(h, step, scalars);
    std::memcpy(constants, &c, sizeof c);
}

template <class Rule, class T>
void trust([[maybe_unused]] void* constants, [[maybe_unused]] const double* h, [[maybe_unused]] std::uint64_t step,
           [[maybe_unused]] double* scalars, [[maybe_unused]] double count, [[maybe_unused]] double first,
           [[maybe_unused]] double second) {
    if constexpr (Rule::kNorms) {
        auto& c = *static_cast<typename Rule::template Constants<T>*>(constants);
        if constexpr (Rule::kScalars != 0)
            Rule::template trust<T>(c, h, step, scalars, first, second);
        else if constexpr (Rule::kFactors.rows >= 0)
            Rule::template trust<T>(c, h, step, count, first, second);
        else
            Rule::template trust<T>(c, h, first, second);
    }
}

template <class Rule, class T>
Decay decay(const void* constants, unsigned variant) {
    return Rule::template decay<T>(*static_cast<const typename Rule::template Constants<T>*>(constants), variant);
}
template <class Rule, class T>
constexpr auto decay_of() -> Decay (*)(const void*, unsigned) {
    if constexpr (Rule::kCautious) return decay<Rule, T>;
    return nullptr;
}

template <class Rule, class T>
constexpr auto factors_of() -> FactorWeights (*)(const double*, std::uint64_t) {
    if constexpr (Rule::kFactors.rows >= 0) return Rule::template factors<T>;
    return nullptr;
}

// What a second moment in factors is made of: squares of rows and by columns, and its elements. Several rows at a time,
// and the next ones are asked for: the sums by columns are read and written once for all of them.
template <class T, std::size_t kRows>
void add_squares_of(const T* x, std::size_t stride, double* columns, double* rows, std::size_t n) {
    double* const __restrict s = columns;
    double lane[kRows][kLanes] = {};
    const auto add = [&](std::size_t i, std::size_t j) {
        double sum = s[i];
        for (std::size_t r = 0; r < kRows; ++r) {
            lane[r][j] = plus_square(lane[r][j], x[r * stride + i]);
            sum = plus_square(sum, x[r * stride + i]);
        }
        s[i] = sum;
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        for (std::size_t r = 0; r < kRows; ++r) fetch_lanes(x + (kRows + r) * stride + i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    for (std::size_t r = 0; r < kRows; ++r) rows[r] += combined(lane[r]);
}
template <class T>
void add_squares(const void* x, std::size_t stride, std::size_t count, double* columns, double* rows, std::size_t n) {
    constexpr std::size_t kRows = 4;
    const T* values = static_cast<const T*>(x);
    std::size_t row = 0;
    for (; row + kRows <= count; row += kRows)
        add_squares_of<T, kRows>(values + row * stride, stride, columns, rows + row, n);
    for (; row < count; ++row) add_squares_of<T, 1>(values + row * stride, stride, columns, rows + row, n);
}
template <class T>
void multiply(double factor, const void* x, void* out, std::size_t n) {
    const T scale = T(factor);
    const T* const __restrict values = static_cast<const T*>(x);
    T* const __restrict result = static_cast<T*>(out);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) result[i] = scale * values[i];
}

template <class Rule>
unsigned used_states(unsigned variant) {
    return Rule::states(variant);
}

// The functions of one rule, one per variant and compute type.
template <class Rule, class T, class = typename Count<Rule::kVariants>::type>
struct Updates;
template <class Rule, class T, unsigned... V>
struct Updates<Rule, T, Sequence<V...>> {
    static constexpr UpdateFn table[] = {&update<Rule, T, V>...};
};
template <class Rule, class T, class = typename Count < Rule::kNorms ? Rule::kVariants : 0>
    ::type > struct Directions;
template <class Rule, class T, unsigned... V>
struct Directions<Rule, T, Sequence<V...>> {
    static constexpr DirectionFn table[sizeof...(V) + 1] = {&direction<Rule, T, V>..., nullptr};
};

template <class Rule, class T, class = typename Count < Rule::kProduct ? Rule::kVariants : 0>
    ::type > struct Aims;
template <class Rule, class T, unsigned... V>
struct Aims<Rule, T, Sequence<V...>> {
    static constexpr UpdateFn table[sizeof...(V) + 1] = {&aim<Rule, T, V>..., nullptr};
};

#if defined(FUSEDSTEP_VEC)
template <class Rule, unsigned... V>
NarrowFn narrow_of(unsigned variant, Format moments, Sequence<V...>) {
    NarrowFn chosen = nullptr;
    static_cast<void>(((V == variant && ((chosen = choose_narrow<Rule, V>(moments)), true)) || ...));
    return chosen;
}
#endif
template <class Rule>
NarrowFn narrow([[maybe_unused]] unsigned variant, [[maybe_unused]] Format moments, [[maybe_unused]] Format param) {
#if defined(FUSEDSTEP_VEC)
    if constexpr (Rule::kProduct) return nullptr;  // most of its time is the product's
    if constexpr (Rule::kFactors.rows >= 0 && Rule::kFactors.columns < 0)
        return nullptr;  // a state is always in factors
    if constexpr (Rule::kBfloat16Step)
        if (variant == 0 && param != Format::float32) return choose_pairs<Rule, 0>(moments, param);
    return narrow_of<Rule>(variant, moments, typename Count<Rule::kVariants>::type{});
#else
    return nullptr;
#endif
}

template <class Rule>
constexpr RuleEntry entry() {
    static_assert(kStatesOf<Rule> <= kMaxStates && Rule::kScalars <= kMaxScalars, "raise the limits in types.hpp");
    constexpr int hypers = static_cast<int>(sizeof(Rule::kHypers) / sizeof(Rule::kHypers[0]));
    static_assert(hypers <= kMaxHypers, "raise kMaxHypers");
    return {Rule::kName,
            Rule::kHypers,
            hypers,
            Rule::kStates,
            kStatesOf<Rule>,
            Rule::kScalarNames,
            Rule::kScalars,
            Rule::kNorms,
            Rule::kNormStates,
            Rule::kWhole,
            Rule::kProduct,
            Rule::variant,
            used_states<Rule>,
            {derive<Rule, float>, derive<Rule, double>},
            {trust<Rule, float>, trust<Rule, double>},
            {decay_of<Rule, float>(), decay_of<Rule, double>()},
            {factors_of<Rule, float>(), factors_of<Rule, double>()},
            Rule::kFactors,
            {Updates<Rule, float>::table, Updates<Rule, double>::table},
            {Directions<Rule, float>::table, Directions<Rule, double>::table},
            {Aims<Rule, float>::table, Aims<Rule, double>::table},
            narrow<Rule>};
}

template <class... R>
struct Entries;
template <class... R>
struct Entries<List<R...>> {
    static constexpr RuleEntry table[] = {entry<R>()...};
    static constexpr int count = static_cast<int>(sizeof...(R));
};

// The formats behind one signature each.
using Half = std::uint16_t;

template <class From, class T>
void decode_native(const void* data, const void*, void* out, std::size_t n) {
    convert(static_cast<const From*>(data), static_cast<T*>(out), n);
}
template <class To, class T>
std::size_t encode_native(const void* in, void* data, void*, std::size_t n, Noise) {
    convert(static_cast<const T*>(in), static_cast<To*>(data), n);
    return 0;
}
template <class Format, class T>
void decode(const void* data, const void*, void* out, std::size_t n) {
    decode_half<Format>(static_cast<const Half*>(data), static_cast<T*>(out), n);
}
template <class Format, class T>
std::size_t encode(const void* in, void* data, void*, std::size_t n, Noise) {
    encode_half<Format>(static_cast<const T*>(in), static_cast<Half*>(data), n);
    return 0;
}
template <class Format, class T>
std::size_t encode_noisy(const void* in, void* data, void*, std::size_t n, Noise noise) {
    constexpr std::size_t piece = 512;
    Half random[piece];
    for (std::size_t i = 0; i < n; i += piece) {
        const std::size_t count = n - i < piece ? n - i : piece;
        noise_fill(noise.key, noise.first + i, random, count);
        encode_half<Format>(static_cast<const T*>(in) + i, static_cast<Half*>(data) + i, random, count);
    }
    return 0;
}
template <class T>
void decode_split_stream(const void* data, const void* extra, void* out, std::size_t n) {
    decode_split(static_cast<const Half*>(data), static_cast<const std::int16_t*>(extra), static_cast<T*>(out), n);
}
template <class T>
std::size_t encode_split_stream(const void* in, void* data, void* extra, std::size_t n, Noise) {
    encode_split(static_cast<const T*>(in), static_cast<Half*>(data), static_cast<std::int16_t*>(extra), n);
    return 0;
}
template <class Format, class T>
void decode_master_stream(const void* data, const void* extra, void* out, std::size_t n) {
    decode_master<Format>(static_cast<const Half*>(data), static_cast<const float*>(extra), static_cast<T*>(out), n);
}
template <class Format, class T>
std::size_t encode_master_stream(const void* in, void* data, void* extra, std::size_t n, Noise) {
    encode_master<Format>(static_cast<const T*>(in), static_cast<Half*>(data), static_cast<float*>(extra), n);
    return 0;
}
template <bool kSignedCode, class T>
void decode_blocks(const void* data, const void* extra, void* out, std::size_t n) {
    decode_q8<kSignedCode>(static_cast<const std::uint8_t*>(data), static_cast<const float*>(extra),
                           static_cast<T*>(out), n);
}
template <bool kSignedCode, class T>
std::size_t encode_blocks(const void* in, void* data, void* extra, std::size_t n, Noise) {
    return encode_q8<kSignedCode>(static_cast<const T*>(in), static_cast<std::uint8_t*>(data),
                                  static_cast<float*>(extra), n);
}

std::uint32_t largest(const float* x, std::size_t n) {
    std::int32_t top = 0;  // signed: SSE2 compares no others
#pragma omp simd reduction(max : top)
    for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t size = as_signed(to_bits(x[i]) & 0x7FFFFFFF);
        top = top < size ? size : top;
    }
    return as_unsigned(top);
}

void add_one(float* x, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) x[i] += 1.0f;
}

float sum(const float* x, std::size_t n) {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i + kLanes <= n; i += kLanes) {
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) lane[j] += x[i + j];
    }
    float total = 0;
    for (const float v : lane) total += v;
    return total;
}

const KernelTable table = {
    FUSEDSTEP_ISA_NAME,
    Entries<Rules>::table,
    Entries<Rules>::count,
    // In the order of the enumeration Format.
    {{decode_native<float, float>, decode_native<float, double>},
     {decode_native<double, float>, decode_native<double, double>},
     {decode<Float16, float>, decode<Float16, double>},
     {decode<Bfloat16, float>, decode<Bfloat16, double>},
     {decode<Float16, float>, decode<Float16, double>},
     {decode<Bfloat16, float>, decode<Bfloat16, double>},
     {decode_split_stream<float>, decode_split_stream<double>},
     {decode_master_stream<Float16, float>, decode_master_stream<Float16, double>},
     {decode_master_stream<Bfloat16, float>, decode_master_stream<Bfloat16, double>},
     {decode_blocks<true, float>, decode_blocks<true, double>},
     {decode_blocks<false, float>, decode_blocks<false, double>}},
    {{encode_native<float, float>, encode_native<float, double>},
     {encode_native<double, float>, encode_native<double, double>},
     {encode<Float16, float>, encode<Float16, double>},
     {encode<Bfloat16, float>, encode<Bfloat16, double>},
     {encode_noisy<Float16, float>, encode_noisy<Float16, double>},
     {encode_noisy<Bfloat16, float>, encode_noisy<Bfloat16, double>},
     {encode_split_stream<float>, encode_split_stream<double>},
     {encode_master_stream<Float16, float>, encode_master_stream<Float16, double>},
     {encode_master_stream<Bfloat16, float>, encode_master_stream<Bfloat16, double>},
     {encode_blocks<true, float>, encode_blocks<true, double>},
     {encode_blocks<false, float>, encode_blocks<false, double>}},
    {sum_squares<float>, sum_squares<double>},
    {prepare<float>, prepare<double>},
    {average<float>, average<double>},
    {add_decay<float>, add_decay<double>},
    {count_descents<float>, count_descents<double>},
    {descend<float>, descend<double>},
    {add_squares<float>, add_squares<double>},
    {multiply<float>, multiply<double>},
    largest,
    {add_gradient<float>, add_gradient<double>},
    {add_update<float>, add_update<double>},
    combine,
    {count_exponents<float>, count_exponents<double>},
    add_one,
    sum,
};

}  // namespace

const KernelTable& FUSEDSTEP_TABLE() { return table; }

}  // namespace fusedstep
