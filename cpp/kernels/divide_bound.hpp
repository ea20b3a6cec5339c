// Steps of rules that wait for nothing but the divider: it takes every root and every division. One vector of three
// takes its root by products instead, on the units that would idle. Same bits. For AVX-512, which has the estimate to
// start from.
#pragma once

#if defined(FUSEDSTEP_VEC) && defined(__AVX512F__)
#define FUSEDSTEP_DIVIDE_BOUND 1

// A vector whose root is the instruction's, or comes from products; else the same.
template <bool kProducts>
struct VecWithRoot {
    Vec v;
    friend VEC_INLINE VecWithRoot operator+(const VecWithRoot& a, const VecWithRoot& b) { return {a.v + b.v}; }
    friend VEC_INLINE VecWithRoot operator-(const VecWithRoot& a, const VecWithRoot& b) { return {a.v - b.v}; }
    friend VEC_INLINE VecWithRoot operator*(const VecWithRoot& a, const VecWithRoot& b) { return {a.v * b.v}; }
    friend VEC_INLINE VecWithRoot operator/(const VecWithRoot& a, const VecWithRoot& b) { return {a.v / b.v}; }
    friend VEC_INLINE VecWithRoot root(const VecWithRoot& x) {
        if constexpr (kProducts) return {root_by_products(x.v)};
        return {root(x.v)};
    }
};

template <class Rule, unsigned V, bool kScaled, bool kProducts>
VEC_INLINE void step_vector(const typename Rule::template Constants<VecWithRoot<kProducts>>& c, const Vec& scale,
                            const Run& run, std::size_t i) {
    constexpr unsigned used = used_states<Rule>(V);
    float* const param = static_cast<float*>(run.param) + i;
    VecWithRoot<kProducts> p{load<Vec>(param)};
    VecWithRoot<kProducts> g{load<Vec>(static_cast<const float*>(run.grad) + i)};
    if constexpr (kScaled) g.v = scale * g.v;
    VecWithRoot<kProducts> state[kMaxStates]{};
    for (unsigned s = 0; s < kMaxStates; ++s)
        if (used >> s & 1u) state[s].v = load<Vec>(static_cast<const float*>(run.states[s]) + i);
    apply<Rule, VecWithRoot<kProducts>, V>(c, p, g, state[0], state[1], state[2], state[3]);
    store(param, p.v);
    for (unsigned s = 0; s < kMaxStates; ++s)
        if (used >> s & 1u) store(static_cast<float*>(run.states[s]) + i, flushed(state[s].v));
}

template <class Rule, unsigned V, bool kScaled>
std::size_t step_threes(const void* constants, float multiplier, const Run& run) {
    const auto c = broadcast_constants<Rule, VecWithRoot<false>>(constants);
    const auto with_products = broadcast_constants<Rule, VecWithRoot<true>>(constants);
    const Vec scale = broadcast(multiplier);
    std::size_t i = 0;
    for (; i + 3 * kVecLanes <= run.n; i += 3 * kVecLanes) {
        step_vector<Rule, V, kScaled, false>(c, scale, run, i);
        step_vector<Rule, V, kScaled, false>(c, scale, run, i + kVecLanes);
        step_vector<Rule, V, kScaled, true>(with_products, scale, run, i + 2 * kVecLanes);
    }
    return i;
}

// Steps as many elements as make whole threes of vectors; returns how many.
template <class Rule, unsigned V>
std::size_t update_divide_bound(const void* constants, float multiplier, const Run& run) {
    return (multiplier == 1.0f ? step_threes<Rule, V, false> : step_threes<Rule, V, true>)(constants, multiplier, run);
}
#endif
