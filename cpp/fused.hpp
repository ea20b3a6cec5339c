// Whole steps over narrow storage, for the rules and formats where a pass per conversion costs more than the memory.
//
// The engine can step any rule over any formats: it decodes a piece into the L1 cache, runs the rule there and encodes
// it back. Here the same functions are applied to one vector of elements after another in registers, so decoding hides
// behind the rule's division and square root. 8-bit states still need a second pass over each block of 256, since its
// scale is known only at the end. Same operations, same bits: the tests compare both with the NumPy reference.
#pragma once

#if defined(FUSEDSTEP_LANES)

LANES_INLINE F32 flushed(const F32& x) {
    const I32 small = reinterpret_cast<I32>(x) << 1;  // without the sign; below twice 2**-126 as an integer
    return reinterpret_cast<U32>(small) < (0x00800000u << 1) ? F32{} : x;
}

// 2 * kWide consecutive elements in two vectors.
template <class V>
struct Two {
    V first, second;
};

// Which elements they hold: either half each, or, where all that is stored is narrow, the even and the odd ones: two
// 16-bit numbers are then one lane, which a shift or a mask takes apart.
enum class Order { halves, parity };

// 16-bit numbers, as the upper halves of lanes.
template <Order kOrder>
LANES_INLINE Two<U32> load_upper(const std::uint16_t* from) {
    if constexpr (kOrder == Order::halves) return {widen(from) << 16, widen(from + kWide) << 16};
    const U32 both = load_lanes<U32>(from);
    return {both << 16, both & 0xFFFF0000};
}
template <Order kOrder>
LANES_INLINE void store_upper(std::uint16_t* to, const Two<U32>& x) {
    if constexpr (kOrder == Order::halves) {
        narrow(to, x.first >> 16);
        narrow(to + kWide, x.second >> 16);
    } else {
        store_lanes(to, (x.first >> 16) | (x.second & 0xFFFF0000));
    }
}
LANES_INLINE U32 lower_halves(const Two<U32>& x) { return (x.first & 0xFFFF) | (x.second << 16); }
template <Order kOrder>
LANES_INLINE void store_lower(std::uint16_t* to, const Two<U32>& x) {
    if constexpr (kOrder == Order::halves) {
        narrow(to, x.first);
        narrow(to + kWide, x.second);
    } else {
        store_lanes(to, lower_halves(x));
    }
}

// Bytes, as the lowest of lanes. What else a lane holds is dropped when they are stored.
template <Order kOrder>
LANES_INLINE Two<U32> load_bytes(const std::uint8_t* from) {
    if constexpr (kOrder == Order::halves) return {widen(from), widen(from + kWide)};
    const U32 both = words(from);
    return {both & 0xFF, both >> 16};
}
template <Order kOrder>
LANES_INLINE void store_bytes(std::uint8_t* to, const Two<U32>& x) {
    if constexpr (kOrder == Order::halves) {
        narrow(to, x.first);
        narrow(to + kWide, x.second);
    } else {
        bytes_of_words(to, lower_halves(x));
    }
}

LANES_INLINE Two<F32> load_floats(const float* from) { return {load_lanes<F32>(from), load_lanes<F32>(from + kWide)}; }
LANES_INLINE void store_floats(float* to, const Two<F32>& x) {
    store_lanes(to, x.first);
    store_lanes(to + kWide, x.second);
}
template <Order kOrder>
LANES_INLINE Two<F32> load_bf16(const void* from, std::size_t i) {
    const Two<U32> x = load_upper<kOrder>(static_cast<const std::uint16_t*>(from) + i);
    return {reinterpret_cast<F32>(x.first), reinterpret_cast<F32>(x.second)};
}

LANES_INLINE U32 bits_or_nan(const F32& x, const U32& bits) { return x == x ? bits : U32{} + kNan32; }
LANES_INLINE U32 rounded_to_bf16(const F32& x) {
    const U32 bits = reinterpret_cast<U32>(x);
    return bits_or_nan(x, bits + 0x7FFF + ((bits >> 16) & 1));
}

// What a fused step works on: a whole number of blocks of 256 elements.
struct Source {
    FusedRun run;

    template <class Stored>
    LANES_INLINE Stored* param(std::size_t i) const {
        return static_cast<Stored*>(run.param) + i;
    }
};

// ---- parameters. `noise` is 16 random bits an element, in the lower halves of lanes.

struct FloatParam {
    static constexpr bool kNoisy = false, kNarrow = false, kSplit = false;
    template <Order>
    LANES_INLINE static Two<F32> load(const Source& s, std::size_t i) {
        return load_floats(s.param<float>(i));
    }
    template <Order>
    LANES_INLINE static void store(const Source& s, std::size_t i, const Two<F32>& x, const Two<U32>&) {
        store_floats(s.param<float>(i), x);
    }
};
struct NearestParam {
    static constexpr bool kNoisy = false, kNarrow = true, kSplit = false;
    template <Order kOrder>
    LANES_INLINE static Two<F32> load(const Source& s, std::size_t i) {
        return load_bf16<kOrder>(s.run.param, i);
    }
    template <Order kOrder>
    LANES_INLINE static void store(const Source& s, std::size_t i, const Two<F32>& x, const Two<U32>&) {
        store_upper<kOrder>(s.param<std::uint16_t>(i), {rounded_to_bf16(x.first), rounded_to_bf16(x.second)});
    }
};
struct StochasticParam : NearestParam {
    static constexpr bool kNoisy = true;
    LANES_INLINE static U32 rounded(const F32& x, const U32& noise) {
        return bits_or_nan(x, reinterpret_cast<U32>(x) + noise);
    }
    template <Order kOrder>
    LANES_INLINE static void store(const Source& s, std::size_t i, const Two<F32>& x, const Two<U32>& noise) {
        store_upper<kOrder>(s.param<std::uint16_t>(i),
                            {rounded(x.first, noise.first), rounded(x.second, noise.second)});
    }
};
struct SplitParam {
    static constexpr bool kNoisy = false, kNarrow = true, kSplit = true;
    template <Order kOrder>
    LANES_INLINE static Two<F32> load(const Source& s, std::size_t i) {
        const std::uint16_t* const remainder = static_cast<const std::uint16_t*>(s.run.param_extra) + i;
        U32 first, second;
        if constexpr (kOrder == Order::halves) {
            const auto joined = [&](std::size_t j) {
                const I32 low = reinterpret_cast<I32>(widen(remainder + j) << 16) >> 16;
                return (widen(s.param<std::uint16_t>(i + j)) << 16) + reinterpret_cast<U32>(low);
            };
            first = joined(0);
            second = joined(kWide);
        } else {
            const U32 low = load_lanes<U32>(remainder);
            // A negative remainder borrows one from the parameter.
            const I16 upper = load_lanes<I16>(s.param<std::uint16_t>(i)) + (reinterpret_cast<I16>(low) >> 15);
            first = (reinterpret_cast<U32>(upper) << 16) | (low & 0xFFFF);
            second = (reinterpret_cast<U32>(upper) & 0xFFFF0000) | (low >> 16);
        }
        return {reinterpret_cast<F32>(first), reinterpret_cast<F32>(second)};
    }
    template <Order kOrder>
    LANES_INLINE static void store(const Source& s, std::size_t i, const Two<F32>& x, const Two<U32>&) {
        const Two<U32> bits{bits_or_nan(x.first, reinterpret_cast<U32>(x.first)),
                            bits_or_nan(x.second, reinterpret_cast<U32>(x.second))};
        store_upper<kOrder>(s.param<std::uint16_t>(i), {bits.first + 0x8000, bits.second + 0x8000});
        store_lower<kOrder>(static_cast<std::uint16_t*>(s.run.param_extra) + i, bits);
    }
};

// ---- gradients

struct FloatGrad {
    static constexpr bool kNarrow = false;
    template <Order>
    LANES_INLINE static Two<F32> load(const Source& s, std::size_t i) {
        return load_floats(static_cast<const float*>(s.run.grad) + i);
    }
};
struct HalfGrad {
    static constexpr bool kNarrow = true;
    template <Order kOrder>
    LANES_INLINE static Two<F32> load(const Source& s, std::size_t i) {
        return load_bf16<kOrder>(s.run.grad, i);
    }
};

// ---- states: `begin` of every block of 256 elements, load and store within it, `end`. `encode_late` is called as
// often as `store`, for the block before.

template <bool kSignedCode>
struct FloatState {
    static constexpr bool kNarrow = false, kBlocks = false;
    float* at;
    LANES_INLINE void start(float (*)[kQ8Block], std::uint8_t*) {}
    LANES_INLINE void begin(const Source& s, int state, std::size_t first) {
        at = static_cast<float*>(s.run.states[state]) + first;
    }
    template <Order>
    LANES_INLINE Two<F32> load(std::size_t i) const {
        return load_floats(at + i);
    }
    template <Order>
    LANES_INLINE void store(std::size_t i, const Two<F32>& x) {
        store_floats(at + i, {flushed(x.first), flushed(x.second)});
    }
    template <Order>
    LANES_INLINE void encode_late(std::size_t) const {}
    LANES_INLINE std::size_t end(std::uint8_t*) { return 0; }
};

template <bool kSignedCode>
struct HalfState {
    static constexpr bool kNarrow = true, kBlocks = false;
    std::uint16_t* at;
    LANES_INLINE void start(float (*)[kQ8Block], std::uint8_t*) {}
    LANES_INLINE void begin(const Source& s, int state, std::size_t first) {
        at = static_cast<std::uint16_t*>(s.run.states[state]) + first;
    }
    template <Order kOrder>
    LANES_INLINE Two<F32> load(std::size_t i) const {
        return load_bf16<kOrder>(at, i);
    }
    template <Order kOrder>
    LANES_INLINE void store(std::size_t i, const Two<F32>& x) {
        store_upper<kOrder>(at + i, {rounded_to_bf16(flushed(x.first)), rounded_to_bf16(flushed(x.second))});
    }
    template <Order>
    LANES_INLINE void encode_late(std::size_t) const {}
    LANES_INLINE std::size_t end(std::uint8_t*) { return 0; }
};

// Values are kept until the block's largest is known; their codes are written while the next block is stepped, in the
// shadow of its divisions. They need no flushing: what is below the smallest normal number has the code of zero.
template <bool kSignedCode>
struct QuantState {
    static constexpr bool kNarrow = true, kBlocks = true;
    using Code = Q8<kSignedCode>;
    std::uint8_t* codes;
    float* scale;
    float each;
    U32 top;
    float* values;  // not a member array: the other members would then stay in memory with it
    // The block before: its elements, where its codes go, and what they are multiplied by.
    float* late_values;
    std::uint8_t* late_codes;
    float late_inverse;

    // room: for two blocks of elements; spare: for the codes of no block.
    LANES_INLINE void start(float (*room)[kQ8Block], std::uint8_t* spare) {
        std::memset(room[1], 0, sizeof room[1]);
        values = room[0];
        late_values = room[1];
        late_codes = spare;
        late_inverse = 0;
    }

    LANES_INLINE void begin(const Source& s, int state, std::size_t first) {
        codes = static_cast<std::uint8_t*>(s.run.states[state]) + first;
        scale = static_cast<float*>(s.run.scales[state]) + first / kQ8Block;
        each = *scale;
        top = U32{};
    }

    // An integer below 2**23 or'd into the pattern of a power of two is added to it, in units of its last bit.
    LANES_INLINE F32 decoded(const U32& code) const {
        F32 steps;
        if constexpr (kSignedCode) {
            const U32 shifted = code ^ 0x4B000080;  // 2**23 + 128 + the code
            steps = (reinterpret_cast<F32>(shifted) - (0x1p23f + 128)) * Code::kStep;
        } else {
            const U32 shifted = code | 0x1C800000;
            steps = reinterpret_cast<F32>(shifted) - 0x1p-70f;
        }
        const U32 root = reinterpret_cast<U32>(steps);
        return reinterpret_cast<F32>(root + root + root) * each;
    }
    template <Order kOrder>
    LANES_INLINE Two<F32> load(std::size_t i) const {
        const Two<U32> code = load_bytes<kOrder>(codes + i);
        return {decoded(code.first), decoded(code.second)};
    }

    LANES_INLINE void seen(const F32& x) {
        const U32 size = kSignedCode ? reinterpret_cast<U32>(x) & 0x7FFFFFFFu : reinterpret_cast<U32>(x);
        top = larger_bits(top, size);
    }
    template <Order>
    LANES_INLINE void store(std::size_t i, const Two<F32>& x) {
        store_floats(values + i, x);
        seen(x.first);
        seen(x.second);
    }

    LANES_INLINE std::size_t end(std::uint8_t* spare) {
        const std::uint32_t largest = largest_lane(top);
        *scale = Code::scale(largest);
        late_inverse = Code::inverse(largest);
        float* const before = late_values;
        late_values = values;
        values = before;
        late_codes = codes;
        if (late_inverse != 0.0f) return 0;
        std::memset(codes, 0, kQ8Block);
        late_codes = spare;
        return Code::nonfinite(largest);
    }

    LANES_INLINE U32 encoded(const F32& x) const {
        const U32 share = reinterpret_cast<U32>(x * late_inverse);
        const U32 root = upper_times(share + share, kThird);
        if constexpr (kSignedCode) {
            const U32 with_sign = root | (share & 0x80000000u);
            return reinterpret_cast<U32>(reinterpret_cast<F32>(with_sign) * Code::kPerStep + 0x1.8p23f);
        } else {
            const U32 code = reinterpret_cast<U32>(reinterpret_cast<F32>(root) + Code::kStep * 0x1.8p23f);
            const U32 least = larger_bits(code, U32{} + 0x1CC00001);
            return reinterpret_cast<I32>(x) < 0x00800000 ? U32{} : least;
        }
    }
    template <Order kOrder>
    LANES_INLINE void encode_late(std::size_t i) const {
        const Two<F32> x = load_floats(late_values + i);
        store_bytes<kOrder>(late_codes + i, {encoded(x.first), encoded(x.second)});
    }
};

// The constants of a rule, each in every lane.
template <class Rule, class Lanes = F32>
LANES_INLINE typename Rule::template Constants<Lanes> in_lanes(const void* constants) {
    using Scalar = typename Rule::template Constants<float>;
    using Wide = typename Rule::template Constants<Lanes>;
    static_assert(sizeof(Wide) == sizeof(Scalar) * kWide, "constants must be of the compute type alone");
    float scalar[sizeof(Scalar) / sizeof(float)];
    std::memcpy(scalar, constants, sizeof scalar);
    Wide wide;
    for (std::size_t k = 0; k < sizeof(Scalar) / sizeof(float); ++k) {
        const F32 lanes = all_lanes(scalar[k]);
        std::memcpy(reinterpret_cast<char*>(&wide) + k * sizeof lanes, &lanes, sizeof lanes);
    }
    return wide;
}

// The noise of the elements place, place + 1, ... of a tensor (place even), whose block has the key's halves low and
// high.
template <Order kOrder>
LANES_INLINE Two<U32> noise_at(std::uint64_t place, std::uint32_t low, std::uint32_t high, const U32& count) {
    U32 x = (count + static_cast<std::uint32_t>(place % kNoiseBlock / 2)) * 0x9E3779B9u + low;
    x = (x ^ (x >> 15) ^ high) * 0x2C1B3C6Du;
    x = x ^ (x >> 16);
    if constexpr (kOrder == Order::parity) return {x & 0xFFFF, x >> 16};
    alignas(64) std::uint16_t each[2 * kWide];
    store_lanes(each, x);
    return {widen(each), widen(each + kWide)};
}

// Asks for 2 * kWide elements of `kBytes` each.
template <std::size_t kBytes>
LANES_INLINE void fetch(const void* from, std::size_t element) {
    for (std::size_t line = 0; line < 2 * kWide * kBytes; line += 64)
        __builtin_prefetch(static_cast<const char*>(from) + element * kBytes + line);
}

// Asks for the elements of the next block that lie where the step is in this one. The processor's own prefetching goes
// by the misses that it sees, and with this much to do for each element it sees them late.
template <class Param, class Grad>
LANES_INLINE void fetch_ahead(const FusedRun& run, std::size_t element) {
    const std::size_t ahead = element + kQ8Block;
    fetch<Param::kNarrow ? 2 : 4>(run.param, ahead);
    if (Param::kSplit) fetch<2>(run.param_extra, ahead);
    fetch<Grad::kNarrow ? 2 : 4>(run.grad, ahead);
    fetch<1>(run.states[0], ahead);
    fetch<1>(run.states[1], ahead);
}

// One step of a rule with two states, the first signed and the second not.
template <class Rule, unsigned V, class Param, class Grad, template <bool> class StateOf>
std::size_t fused_step(const void* constants, double multiplier, const FusedRun& run) {
    constexpr bool narrow_only = Param::kNarrow && Grad::kNarrow && StateOf<true>::kNarrow;
    constexpr Order order = narrow_only ? Order::parity : Order::halves;
    const auto c = in_lanes<Rule>(constants);
    const F32 scale = all_lanes(static_cast<float>(multiplier));
    const Source source{run};
    alignas(64) float values[2][2][kQ8Block];
    std::uint8_t spare[kQ8Block];
    StateOf<true> one;
    StateOf<false> two;
    one.start(values[0], spare);
    two.start(values[1], spare);
    U32 count{};
    for (int j = 0; j < kWide; ++j) count[j] = static_cast<std::uint32_t>(j);
    std::uint32_t low = 0, high = 0;
    std::size_t nonfinite = 0;
    for (std::size_t first = 0; first < run.n; first += kQ8Block) {
        const std::uint64_t place = run.noise.first + first;
        if (Param::kNoisy && (first == 0 || place % kNoiseBlock == 0)) {
            const std::uint64_t block = mix64(run.noise.key + (place / kNoiseBlock + 1) * kWeyl64);
            low = static_cast<std::uint32_t>(block);
            high = static_cast<std::uint32_t>(block >> 32);
        }
        one.begin(source, 0, first);
        two.begin(source, 1, first);
        for (std::size_t i = 0; i < kQ8Block; i += 2 * kWide) {
            if constexpr (StateOf<true>::kBlocks) fetch_ahead<Param, Grad>(run, first + i);
            Two<F32> p = Param::template load<order>(source, first + i);
            const Two<F32> g = Grad::template load<order>(source, first + i);
            Two<F32> a = one.template load<order>(i), b = two.template load<order>(i);
            F32 unused{};
            Rule::template update<F32, V>(c, p.first, scale * g.first, a.first, b.first, unused);
            Rule::template update<F32, V>(c, p.second, scale * g.second, a.second, b.second, unused);
            Two<U32> noise{};
            if constexpr (Param::kNoisy) noise = noise_at<order>(place + i, low, high, count);
            Param::template store<order>(source, first + i, p, noise);
            one.template store<order>(i, a);
            two.template store<order>(i, b);
            one.template encode_late<order>(i);
            two.template encode_late<order>(i);
        }
        nonfinite += one.end(spare);
        nonfinite += two.end(spare);
    }
    for (std::size_t i = 0; i < kQ8Block; i += 2 * kWide) {
        one.template encode_late<order>(i);
        two.template encode_late<order>(i);
    }
    return nonfinite;
}

// The fused step for some formats, or null where there is none.
template <class Rule, unsigned V, class Param, class Grad>
FusedFn choose_states(Format states) {
    if (states == Format::q8_signed) return fused_step<Rule, V, Param, Grad, QuantState>;
    if (states == Format::bfloat16) return fused_step<Rule, V, Param, Grad, HalfState>;
    if (states == Format::float32) return fused_step<Rule, V, Param, Grad, FloatState>;
    return nullptr;
}

template <class Rule>
FusedFn choose_fused(unsigned variant, Format param, Format grad, Format states) {
    if (variant != 0) return nullptr;
    if (param == Format::float32 && grad == Format::float32)
        return choose_states<Rule, 0, FloatParam, FloatGrad>(states);
    if (param == Format::float32 && grad == Format::bfloat16)
        return choose_states<Rule, 0, FloatParam, HalfGrad>(states);
    if (grad != Format::bfloat16) return nullptr;
    if (param == Format::split) return choose_states<Rule, 0, SplitParam, HalfGrad>(states);
    if (param == Format::bfloat16) return choose_states<Rule, 0, NearestParam, HalfGrad>(states);
    if (param == Format::bfloat16_stochastic) return choose_states<Rule, 0, StochasticParam, HalfGrad>(states);
    return nullptr;
}
#endif
