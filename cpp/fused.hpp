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

LANES_INLINE F32 from_bf16(const std::uint16_t* from) { return reinterpret_cast<F32>(widen(from) << 16); }
LANES_INLINE void to_bf16(std::uint16_t* to, const F32& x, const U32& rounded) {
    narrow(to, x == x ? rounded >> 16 : U32{} + 0x7FC0);
}
LANES_INLINE void to_bf16_nearest(std::uint16_t* to, const F32& x) {
    const U32 bits = reinterpret_cast<U32>(x);
    to_bf16(to, x, bits + 0x7FFF + ((bits >> 16) & 1));
}

// What a fused step works on: a whole number of blocks of 256 elements.
struct Source {
    FusedRun run;
    alignas(64) std::uint16_t noise[2 * kWide];  // for two vectors of elements

    template <class Stored>
    LANES_INLINE Stored* param(std::size_t i) const {
        return static_cast<Stored*>(run.param) + i;
    }
};

// ---- parameters: how vector `half` (0 or 1) of the pair that begins at i is read and written

struct FloatParam {
    static constexpr bool kNoisy = false;
    LANES_INLINE static F32 load(const Source& s, std::size_t i) { return load_lanes<F32>(s.param<float>(i)); }
    LANES_INLINE static void store(const Source& s, std::size_t i, int, const F32& x) {
        store_lanes(s.param<float>(i), x);
    }
};
struct NearestParam {
    static constexpr bool kNoisy = false;
    LANES_INLINE static F32 load(const Source& s, std::size_t i) { return from_bf16(s.param<std::uint16_t>(i)); }
    LANES_INLINE static void store(const Source& s, std::size_t i, int, const F32& x) {
        to_bf16_nearest(s.param<std::uint16_t>(i), x);
    }
};
struct StochasticParam : NearestParam {
    static constexpr bool kNoisy = true;
    LANES_INLINE static void store(const Source& s, std::size_t i, int half, const F32& x) {
        to_bf16(s.param<std::uint16_t>(i), x, reinterpret_cast<U32>(x) + widen(s.noise + half * kWide));
    }
};
struct SplitParam {
    static constexpr bool kNoisy = false;
    LANES_INLINE static F32 load(const Source& s, std::size_t i) {
        const U32 low = widen(static_cast<const std::int16_t*>(s.run.param_extra) + i);
        return reinterpret_cast<F32>((widen(s.param<std::uint16_t>(i)) << 16) + low);
    }
    LANES_INLINE static void store(const Source& s, std::size_t i, int, const F32& x) {
        const U32 bits = x == x ? reinterpret_cast<U32>(x) : U32{} + kNan32;
        narrow(s.param<std::uint16_t>(i), (bits + 0x8000) >> 16);
        narrow(static_cast<std::uint16_t*>(s.run.param_extra) + i, bits);
    }
};

// ---- gradients

struct FloatGrad {
    LANES_INLINE static F32 load(const Source& s, std::size_t i) {
        return load_lanes<F32>(static_cast<const float*>(s.run.grad) + i);
    }
};
struct HalfGrad {
    LANES_INLINE static F32 load(const Source& s, std::size_t i) {
        return from_bf16(static_cast<const std::uint16_t*>(s.run.grad) + i);
    }
};

// ---- states: one object per state and block of 256 elements. `first` is the block's first element, `values` room for
// a block of them.

template <bool kSignedCode>
struct FloatState {
    float* at;
    LANES_INLINE void begin(const Source& s, int state, std::size_t first, float*) {
        at = static_cast<float*>(s.run.states[state]) + first;
    }
    LANES_INLINE F32 load(std::size_t i) const { return load_lanes<F32>(at + i); }
    LANES_INLINE void store(std::size_t i, const F32& x) { store_lanes(at + i, flushed(x)); }
    LANES_INLINE std::size_t end() { return 0; }
};

template <bool kSignedCode>
struct HalfState {
    std::uint16_t* at;
    LANES_INLINE void begin(const Source& s, int state, std::size_t first, float*) {
        at = static_cast<std::uint16_t*>(s.run.states[state]) + first;
    }
    LANES_INLINE F32 load(std::size_t i) const { return from_bf16(at + i); }
    LANES_INLINE void store(std::size_t i, const F32& x) { to_bf16_nearest(at + i, flushed(x)); }
    LANES_INLINE std::size_t end() { return 0; }
};

// Values are kept until the block's largest is known. They need no flushing: what is below the smallest normal number
// has the code of zero, and a block of such numbers the scale zero.
template <bool kSignedCode>
struct QuantState {
    using Code = Q8<kSignedCode>;
    std::uint8_t* codes;
    float* scale;
    float half;
    U32 top;
    float* values;  // not a member array: the other members would then stay in memory with it

    LANES_INLINE void begin(const Source& s, int state, std::size_t first, float* room) {
        values = room;
        codes = static_cast<std::uint8_t*>(s.run.states[state]) + first;
        scale = static_cast<float*>(s.run.scales[state]) + first / kQ8Block;
        half = *scale * 0.5f;
        top = U32{};
    }

    LANES_INLINE F32 load(std::size_t i) const {
        const U32 code = kSignedCode ? widen(reinterpret_cast<const std::int8_t*>(codes + i)) : widen(codes + i);
        const U32 steps = reinterpret_cast<U32>(to_float(code) * Code::kDown);
        const U32 squared = kSignedCode ? (steps << 1) | (steps & 0x80000000u) : steps << 1;
        return reinterpret_cast<F32>(squared) * half;
    }

    LANES_INLINE void store(std::size_t i, const F32& x) {
        store_lanes(values + i, x);
        const U32 size = kSignedCode ? reinterpret_cast<U32>(x) & 0x7FFFFFFFu : reinterpret_cast<U32>(x);
        top = larger_bits(top, size);
    }

    LANES_INLINE std::size_t end() {
        std::uint32_t largest = 0;
        for (int j = 0; j < kWide; ++j) largest = largest < top[j] ? top[j] : largest;
        *scale = Code::scale(largest);
        const float inverse = Code::inverse(largest);
        if (inverse == 0.0f) {
            std::memset(codes, 0, kQ8Block);
            return Code::nonfinite(largest);
        }
        for (std::size_t i = 0; i < kQ8Block; i += kWide) {
            const F32 x = load_lanes<F32>(values + i);
            const I32 scaled = reinterpret_cast<I32>(x * inverse);
            if constexpr (kSignedCode) {
                const F32 near = reinterpret_cast<F32>((scaled >> 1) & static_cast<std::int32_t>(0xBFFFFFFF));
                narrow(codes + i, reinterpret_cast<U32>(near * Code::kUp + 0x1.8p23f));
            } else {
                const F32 near = reinterpret_cast<F32>(scaled >> 1);
                I32 code = reinterpret_cast<I32>(near * Code::kUp + 0x1.8p23f);
                const I32 least = I32{} + 0x4B400001;
                code = code < least ? least : code;
                code = reinterpret_cast<I32>(x) < 0x00800000 ? I32{} : code;
                narrow(codes + i, reinterpret_cast<U32>(code));
            }
        }
        return 0;
    }
};

// The constants of a rule, each in every lane.
template <class Rule>
LANES_INLINE typename Rule::template Constants<F32> in_lanes(const void* constants) {
    using Scalar = typename Rule::template Constants<float>;
    using Wide = typename Rule::template Constants<F32>;
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

// One step of a rule with two states, the first signed and the second not.
template <class Rule, unsigned V, class Param, class Grad, template <bool> class StateOf>
std::size_t fused_step(const void* constants, double multiplier, const FusedRun& run) {
    const auto c = in_lanes<Rule>(constants);
    const F32 scale = all_lanes(static_cast<float>(multiplier));
    Source source{run, {}};
    alignas(64) float values[2][kQ8Block];
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
        StateOf<true> one;
        StateOf<false> two;
        one.begin(source, 0, first, values[0]);
        two.begin(source, 1, first, values[1]);
        for (std::size_t i = 0; i < kQ8Block; i += 2 * kWide) {
            if constexpr (Param::kNoisy) {
                U32 x = (count + static_cast<std::uint32_t>((place + i) % kNoiseBlock / 2)) * 0x9E3779B9u + low;
                x = (x ^ (x >> 15) ^ high) * 0x2C1B3C6Du;
                store_lanes(source.noise, x ^ (x >> 16));
            }
            for (int half = 0; half < 2; ++half) {
                const std::size_t j = i + static_cast<std::size_t>(half) * kWide;
                F32 p = Param::load(source, first + j), a = one.load(j), b = two.load(j), unused{};
                Rule::template update<F32, V>(c, p, scale * Grad::load(source, first + j), a, b, unused);
                Param::store(source, first + j, half, p);
                one.store(j, a);
                two.store(j, b);
            }
        }
        nonfinite += one.end();
        nonfinite += two.end();
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
