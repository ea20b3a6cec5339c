// The step of a rule over arrays of the compute type, and the direction and sums that some rules need before it.
// Included inside the anonymous namespace of the kernels.
#pragma once

// Bit mask over states: the one in whose place a rule finds what its second moment in factors makes of an element.
template <class Rule, unsigned V>
constexpr unsigned made_states() {
    constexpr unsigned made = Rule::kFactors.columns >= 0 && (V & kFactored) ? 1u << Rule::kFactors.elements : 0u;
    static_assert((made & ~4u) == 0, "the third state");
    return made;
}

template <class Rule, class T, unsigned V>
void update(const void* constants, double multiplier, const Run& run) {
    constexpr unsigned used = used_states<Rule>(V), made = made_states<Rule, V>();
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

template <class Rule, class T, unsigned V>
PairSum direction(const void* constants, double multiplier, const Run& run) {
    constexpr unsigned used = used_states<Rule>(V) & Rule::kNormStates, made = made_states<Rule, V>();
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
    const std::size_t ahead = run.ahead;
    double first[kLanes] = {}, second[kLanes] = {};
    if constexpr (made != 0) {
        load_lanes(run.lanes->first, first);
        load_lanes(run.lanes->second, second);
    }
    const auto one = [&](std::size_t i, std::size_t j) {
        constexpr int states = kStatesOf<Rule>;
        T p = 0, a = 0, b = 0, d = 0, e = 0, x = 0, y = 0;
        if constexpr (Rule::kNormParam) p = param[i];
        if constexpr (used & 1u) a = s0[i];
        if constexpr (used & 2u) b = s1[i];
        if constexpr (used & 4u) d = s2[i];
        if constexpr (made & 4u) d = factor * d;
        if constexpr (used & 8u) e = s3[i];
        if constexpr (states == 1) Rule::template direction<T, V>(c, p, scale * grad[i], a, x, y);
        if constexpr (states == 2) Rule::template direction<T, V>(c, p, scale * grad[i], a, b, x, y);
        if constexpr (states == 3) Rule::template direction<T, V>(c, p, scale * grad[i], a, b, d, x, y);
        if constexpr (states == 4) Rule::template direction<T, V>(c, p, scale * grad[i], a, b, d, e, x, y);
        first[j] = Rule::kWhole ? first[j] + static_cast<double>(x) : plus_square(first[j], x);
        if constexpr (Rule::kSums == 2)
            second[j] = Rule::kWhole ? second[j] + static_cast<double>(y) : plus_square(second[j], y);
    };
    const std::size_t whole = run.n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        if constexpr (Rule::kNormParam) fetch_ahead(param + i, ahead);
        fetch_ahead(grad + i, ahead);
        if constexpr (used & 1u) fetch_ahead(s0 + i, ahead);
        if constexpr (used & 2u) fetch_ahead(s1 + i, ahead);
        if constexpr ((used & ~made) & 4u) fetch_ahead(s2 + i, ahead);
        if constexpr (used & 8u) fetch_ahead(s3 + i, ahead);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) one(i + j, j);
    }
    for (std::size_t j = 0; j < run.n - whole; ++j) one(whole + j, j);
    if constexpr (made != 0) {
        std::memcpy(run.lanes->first, first, sizeof first);
        std::memcpy(run.lanes->second, second, sizeof second);
    }
    return {combined(first), Rule::kSums == 2 ? combined(second) : static_cast<double>(run.n)};
}

template <class T>
void multiply(double factor, const void* x, void* out, std::size_t n) {
    const T scale = T(factor);
    const T* const __restrict values = static_cast<const T*>(x);
    T* const __restrict result = static_cast<T*>(out);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) result[i] = scale * values[i];
}
