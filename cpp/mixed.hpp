// Steps of rules that wait for nothing but the divider: it takes every root and every division. One vector of three
// takes its root by products instead, on the units that would idle. Same bits. For AVX-512, which has the estimate to
// start from.
#pragma once

#if defined(FUSEDSTEP_LANES) && defined(__AVX512F__)
#define FUSEDSTEP_MIXED 1

// A vector whose root is the instruction's, or comes from products; else the same.
template <bool kProducts>
struct Lane {
    F32 v;
    friend LANES_INLINE Lane operator+(const Lane& a, const Lane& b) { return {a.v + b.v}; }
    friend LANES_INLINE Lane operator-(const Lane& a, const Lane& b) { return {a.v - b.v}; }
    friend LANES_INLINE Lane operator*(const Lane& a, const Lane& b) { return {a.v * b.v}; }
    friend LANES_INLINE Lane operator/(const Lane& a, const Lane& b) { return {a.v / b.v}; }
    friend LANES_INLINE Lane root(const Lane& x) {
        if constexpr (kProducts) return {root_by_products(x.v)};
        return {root(x.v)};
    }
};

template <class Rule, unsigned V, bool kScaled, bool kProducts>
LANES_INLINE void step_lane(const typename Rule::template Constants<Lane<kProducts>>& c, const F32& scale,
                            const Run& run, std::size_t i) {
    constexpr unsigned used = Rule::states(V);
    float* const param = static_cast<float*>(run.param) + i;
    Lane<kProducts> p{load_lanes<F32>(param)};
    Lane<kProducts> g{load_lanes<F32>(static_cast<const float*>(run.grad) + i)};
    if constexpr (kScaled) g.v = scale * g.v;
    Lane<kProducts> state[kMaxStates]{};
    for (unsigned s = 0; s < kMaxStates; ++s)
        if (used >> s & 1u) state[s].v = load_lanes<F32>(static_cast<const float*>(run.states[s]) + i);
    apply<Rule, Lane<kProducts>, V>(c, p, g, state[0], state[1], state[2], state[3]);
    store_lanes(param, p.v);
    for (unsigned s = 0; s < kMaxStates; ++s)
        if (used >> s & 1u) store_lanes(static_cast<float*>(run.states[s]) + i, flushed(state[s].v));
}

template <class Rule, unsigned V, bool kScaled>
std::size_t step_threes(const void* constants, float multiplier, const Run& run) {
    const auto c = in_lanes<Rule, Lane<false>>(constants);
    const auto with_products = in_lanes<Rule, Lane<true>>(constants);
    const F32 scale = all_lanes(multiplier);
    std::size_t i = 0;
    for (; i + 3 * kWide <= run.n; i += 3 * kWide) {
        step_lane<Rule, V, kScaled, false>(c, scale, run, i);
        step_lane<Rule, V, kScaled, false>(c, scale, run, i + kWide);
        step_lane<Rule, V, kScaled, true>(with_products, scale, run, i + 2 * kWide);
    }
    return i;
}

// Steps as many elements as make whole threes of vectors; returns how many.
template <class Rule, unsigned V>
std::size_t update_mixed(const void* constants, float multiplier, const Run& run) {
    return (multiplier == 1.0f ? step_threes<Rule, V, false> : step_threes<Rule, V, true>)(constants, multiplier, run);
}
#endif
