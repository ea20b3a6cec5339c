// Adam's and AdamW's step for bfloat16 parameters and gradients, which takes two vectors at a time: where all that is
// stored is narrow, they are the even and the odd elements of a run, so that two 16-bit numbers share a lane and a
// shift or a mask takes them apart. With 8-bit states that is 0.72 ns an element in place of the 0.84 of
// narrow_step.hpp (Zen 4, AVX-512, memory size); every other rule and option goes there.
#pragma once

#if defined(FUSEDSTEP_VEC)

// 2 * kVecLanes consecutive elements in two vectors.
template <class V>
struct VecPair {
    V first, second;
};

// Which elements they hold: either half each, or the even and the odd ones.
enum class Order { halves, even_odd };

// 16-bit numbers, as the upper halves of lanes.
template <Order kOrder>
VEC_INLINE VecPair<VecU> load_upper(const std::uint16_t* from) {
    if constexpr (kOrder == Order::halves) return {promote(from) << 16, promote(from + kVecLanes) << 16};
    const VecU both = load<VecU>(from);
    return {both << 16, both & 0xFFFF0000};
}
template <Order kOrder>
VEC_INLINE void store_upper(std::uint16_t* to, const VecPair<VecU>& x) {
    if constexpr (kOrder == Order::halves) {
        demote(to, x.first >> 16);
        demote(to + kVecLanes, x.second >> 16);
    } else {
        store(to, (x.first >> 16) | (x.second & 0xFFFF0000));
    }
}
VEC_INLINE VecU lower_halves(const VecPair<VecU>& x) { return (x.first & 0xFFFF) | (x.second << 16); }
template <Order kOrder>
VEC_INLINE void store_lower(std::uint16_t* to, const VecPair<VecU>& x) {
    if constexpr (kOrder == Order::halves) {
        demote(to, x.first);
        demote(to + kVecLanes, x.second);
    } else {
        store(to, lower_halves(x));
    }
}

// Bytes, as the lowest of lanes. What else a lane holds is dropped when they are stored.
template <Order kOrder>
VEC_INLINE VecPair<VecU> load_bytes(const std::uint8_t* from) {
    if constexpr (kOrder == Order::halves) return {promote(from), promote(from + kVecLanes)};
    const VecU both = words(from);
    return {both & 0xFF, both >> 16};
}
template <Order kOrder>
VEC_INLINE void store_bytes(std::uint8_t* to, const VecPair<VecU>& x) {
    if constexpr (kOrder == Order::halves) {
        demote(to, x.first);
        demote(to + kVecLanes, x.second);
    } else {
        bytes_of_words(to, lower_halves(x));
    }
}

VEC_INLINE VecPair<Vec> load_floats(const float* from) { return {load<Vec>(from), load<Vec>(from + kVecLanes)}; }
VEC_INLINE void store_floats(float* to, const VecPair<Vec>& x) {
    store(to, x.first);
    store(to + kVecLanes, x.second);
}
template <Order kOrder>
VEC_INLINE VecPair<Vec> load_bf16(const void* from, std::size_t i) {
    const VecPair<VecU> x = load_upper<kOrder>(static_cast<const std::uint16_t*>(from) + i);
    return {reinterpret_cast<Vec>(x.first), reinterpret_cast<Vec>(x.second)};
}

// The bits of a bfloat16 in the upper halves of lanes, and what is dropped below them.
VEC_INLINE VecU rounded_to_bf16(const Vec& x) {
    const VecU bits = to_bits(x);
    return bits_or_nan(x, bits + 0x7FFF + ((bits >> 16) & 1), kNan32);
}
VEC_INLINE std::uint16_t* halves_at(const Stream& stream, std::size_t i) {
    return static_cast<std::uint16_t*>(stream.data) + i;
}

// ---- parameters. `noise` is 16 random bits an element, in the lower halves of lanes.

struct NearestParam {
    static constexpr bool kNoisy = false, kSplit = false;
    template <Order kOrder>
    VEC_INLINE static VecPair<Vec> load(const NarrowRun& run, std::size_t i) {
        return load_bf16<kOrder>(run.param.data, i);
    }
    template <Order kOrder>
    VEC_INLINE static void store(const NarrowRun& run, std::size_t i, const VecPair<Vec>& x, const VecPair<VecU>&) {
        store_upper<kOrder>(halves_at(run.param, i), {rounded_to_bf16(x.first), rounded_to_bf16(x.second)});
    }
};
struct StochasticParam : NearestParam {
    static constexpr bool kNoisy = true;
    VEC_INLINE static VecU rounded(const Vec& x, const VecU& noise) {
        return bits_or_nan(x, to_bits(x) + noise, kNan32);
    }
    template <Order kOrder>
    VEC_INLINE static void store(const NarrowRun& run, std::size_t i, const VecPair<Vec>& x,
                                 const VecPair<VecU>& noise) {
        store_upper<kOrder>(halves_at(run.param, i), {rounded(x.first, noise.first), rounded(x.second, noise.second)});
    }
};
struct SplitParam {
    static constexpr bool kNoisy = false, kSplit = true;
    template <Order kOrder>
    VEC_INLINE static VecPair<Vec> load(const NarrowRun& run, std::size_t i) {
        if constexpr (kOrder == Order::halves) {
            const auto joined = [&](std::size_t j) {
                return Split::decode(promote(halves_at(run.param, j)),
                                     promote(static_cast<const std::int16_t*>(run.param.extra) + j));
            };
            return {joined(i), joined(i + kVecLanes)};
        }
        const VecU low = fusedstep::load<VecU>(static_cast<const std::uint16_t*>(run.param.extra) + i);
        const VecU16 given = fusedstep::load<VecU16>(halves_at(run.param, i));
        // A negative remainder borrows one from the parameter, where there is one.
        const VecU16 size = given & 0x7FFF, negative = reinterpret_cast<VecU16>(low) >> 15;
        const VecU16 upper = given - (size < negative ? size : negative);
        const VecU first = (reinterpret_cast<VecU>(upper) << 16) | (low & 0xFFFF);
        const VecU second = (reinterpret_cast<VecU>(upper) & 0xFFFF0000) | (low >> 16);
        return {reinterpret_cast<Vec>(first), reinterpret_cast<Vec>(second)};
    }
    template <Order kOrder>
    VEC_INLINE static void store(const NarrowRun& run, std::size_t i, const VecPair<Vec>& x, const VecPair<VecU>&) {
        const VecPair<VecU> bits{Split::remainder(x.first), Split::remainder(x.second)};
        store_upper<kOrder>(halves_at(run.param, i), {bits.first + 0x8000, bits.second + 0x8000});
        store_lower<kOrder>(static_cast<std::uint16_t*>(run.param.extra) + i, bits);
    }
};

// ---- states: those of narrow_step.hpp, loaded and stored two vectors at a time.

template <bool kSignedCode>
struct PairFloatState : FloatState<kSignedCode> {
    static constexpr bool kNarrow = false, kBlocks = false;
    template <Order>
    VEC_INLINE VecPair<Vec> load(std::size_t i) const {
        return load_floats(this->at + i);
    }
    template <Order>
    VEC_INLINE void store(std::size_t i, const VecPair<Vec>& x) {
        store_floats(this->at + i, {flushed(x.first), flushed(x.second)});
    }
    template <Order>
    VEC_INLINE void encode_late(std::size_t) const {}
};

template <bool kSignedCode>
struct PairHalfState : HalfState<kSignedCode> {
    static constexpr bool kNarrow = true, kBlocks = false;
    template <Order kOrder>
    VEC_INLINE VecPair<Vec> load(std::size_t i) const {
        return load_bf16<kOrder>(this->at, i);
    }
    template <Order kOrder>
    VEC_INLINE void store(std::size_t i, const VecPair<Vec>& x) {
        store_upper<kOrder>(this->at + i, {rounded_to_bf16(flushed(x.first)), rounded_to_bf16(flushed(x.second))});
    }
    template <Order>
    VEC_INLINE void encode_late(std::size_t) const {}
};

template <bool kSignedCode>
struct PairQuantState : QuantState<kSignedCode> {
    static constexpr bool kNarrow = true, kBlocks = true;
    using Code = Q8<kSignedCode>;
    template <Order kOrder>
    VEC_INLINE VecPair<Vec> load(std::size_t i) const {
        const VecPair<VecU> code = load_bytes<kOrder>(this->codes + i);
        return {Code::decode(code.first, this->decoding), Code::decode(code.second, this->decoding)};
    }
    template <Order>
    VEC_INLINE void store(std::size_t i, const VecPair<Vec>& x) {
        store_floats(this->values + i, x);
        this->top = larger_bits(larger_bits(this->top, Code::size(x.first)), Code::size(x.second));
    }
    template <Order kOrder>
    VEC_INLINE void encode_late(std::size_t i) const {
        const VecPair<Vec> x = load_floats(this->late_values + i);
        store_bytes<kOrder>(this->late_codes + i,
                            {Code::encode(x.first, this->late_inverse), Code::encode(x.second, this->late_inverse)});
    }
};

// The noise of the elements place, place + 1, ... of a tensor (place even).
template <Order kOrder>
VEC_INLINE VecPair<VecU> noise_at(std::uint64_t place, const NoiseBlock& block, const VecU& count) {
    const VecU x = noise_pair(count + static_cast<std::uint32_t>(place % kNoiseBlock / 2), block);
    if constexpr (kOrder == Order::even_odd) return {x & 0xFFFF, x >> 16};
    alignas(64) std::uint16_t each[2 * kVecLanes];
    store(each, x);
    return {promote(each), promote(each + kVecLanes)};
}

// Asks for 2 * kVecLanes elements of `kBytes` each.
template <std::size_t kBytes>
VEC_INLINE void fetch(const void* from, std::size_t element) {
    for (std::size_t line = 0; line < 2 * kVecLanes * kBytes; line += 64)
        __builtin_prefetch(static_cast<const char*>(from) + element * kBytes + line);
}

// Asks for the elements of the next block that are where the step is in this one.
template <class Param>
VEC_INLINE void fetch_ahead(const NarrowRun& run, std::size_t element) {
    const std::size_t ahead = element + kQuantBlock;
    fetch<2>(run.param.data, ahead);
    if (Param::kSplit) fetch<2>(run.param.extra, ahead);
    fetch<2>(run.grad.data, ahead);
    fetch<1>(run.states[0].data, ahead);
    fetch<1>(run.states[1].data, ahead);
}

// One step of a rule with two states, the first signed and the second not.
template <class Rule, unsigned V, class Param, template <bool> class StateOf>
std::size_t step_pairs(const void* constants, double multiplier, const NarrowRun& run) {
    constexpr Order order = StateOf<true>::kNarrow ? Order::even_odd : Order::halves;
    const auto c = broadcast_constants<Rule>(constants);
    const Vec scale = broadcast(static_cast<float>(multiplier));
    alignas(64) float room[2][3][kQuantBlock];
    StateOf<true> one;
    StateOf<false> two;
    one.start(run, 0, room[0]);
    two.start(run, 1, room[1]);
    VecU count{};
    for (int j = 0; j < kVecLanes; ++j) count[j] = static_cast<std::uint32_t>(j);
    NoiseBlock block{};
    std::size_t nonfinite = 0;
    for (std::size_t first = 0; first < run.n; first += kQuantBlock) {
        const std::uint64_t place = run.noise.first + first;
        if (Param::kNoisy && (first == 0 || place % kNoiseBlock == 0)) block = noise_block(run.noise.key, place);
        one.begin(first);
        two.begin(first);
        for (std::size_t i = 0; i < kQuantBlock; i += 2 * kVecLanes) {
            if constexpr (StateOf<true>::kBlocks) fetch_ahead<Param>(run, first + i);
            VecPair<Vec> p = Param::template load<order>(run, first + i);
            const VecPair<Vec> g = load_bf16<order>(run.grad.data, first + i);
            VecPair<Vec> a = one.template load<order>(i), b = two.template load<order>(i);
            Vec unused{};
            Rule::template update<Vec, V>(c, p.first, scale * g.first, a.first, b.first, unused);
            Rule::template update<Vec, V>(c, p.second, scale * g.second, a.second, b.second, unused);
            VecPair<VecU> noise{};
            if constexpr (Param::kNoisy) noise = noise_at<order>(place + i, block, count);
            Param::template store<order>(run, first + i, p, noise);
            one.template store<order>(i, a);
            two.template store<order>(i, b);
            one.template encode_late<order>(i);
            two.template encode_late<order>(i);
        }
        nonfinite += one.end() + two.end();
    }
    for (std::size_t i = 0; i < kQuantBlock; i += 2 * kVecLanes) {
        one.template encode_late<order>(i);
        two.template encode_late<order>(i);
    }
    return nonfinite;
}

template <class Rule, unsigned V, class Param>
NarrowFn choose_pairs(Format moments) {
    if (moments == Format::q8_signed) return step_pairs<Rule, V, Param, PairQuantState>;
    if (moments == Format::bfloat16) return step_pairs<Rule, V, Param, PairHalfState>;
    return moments == Format::float32 ? step_pairs<Rule, V, Param, PairFloatState> : nullptr;
}

// The step for a parameter of some format, or null where there is none.
template <class Rule, unsigned V>
NarrowFn choose_pairs(Format moments, Format param) {
    if (param == Format::split) return choose_pairs<Rule, V, SplitParam>(moments);
    if (param == Format::bfloat16) return choose_pairs<Rule, V, NearestParam>(moments);
    if (param == Format::bfloat16_stochastic) return choose_pairs<Rule, V, StochasticParam>(moments);
    return nullptr;
}
#endif
