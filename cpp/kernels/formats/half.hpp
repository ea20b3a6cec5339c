// One element of the 16-bit formats: float16, bfloat16, either with its float32 master, and the split master (a
// bfloat16 and its remainder). The definition is python/fusedstep/formats.py; docs/formats.md explains it.
// `noise16` is uniform in [0, 65535], from noise.hpp.
#pragma once

struct Bfloat16 {
    static constexpr bool kByShifts = true;  // decoding is a shift, and little more
    template <class U>
    static auto decode(const U& stored) {
        return from_bits(stored << 16);
    }
    template <class F>
    static auto encode(const F& x) {
        const auto bits = to_bits(x);
        return bits_or_nan(x, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, 0x7FC0);
    }
    template <class F, class U>
    static U encode(const F& x, const U& noise16) {
        return bits_or_nan(x, (to_bits(x) + noise16) >> 16, 0x7FC0);
    }
};

struct Float16 {
    static constexpr bool kByShifts = false;
    static constexpr std::uint32_t kOverflow = 0x47800000;   // 65536: infinite from here on, whatever the rounding
    static constexpr std::uint32_t kSubnormal = 0x38800000;  // 2**-14

    template <class U>
    static auto decode(const U& stored) {
#if defined(FUSEDSTEP_VEC)  // the instruction, for vectors: 0.03 ns an element in place of 0.16
        if constexpr (sizeof(U) > 4) return half_to_float(stored);
#endif
        const U size = (stored & 0x7FFF) << 13, sign = (stored & 0x8000) << 16;
        // Bias 15 -> 127; infinity and NaN to the top exponent; subnormals by an exact subtraction, which normalises
        // them.
        const U normal = size + (112u << 23) + (size >= (31u << 23) ? U{} + (112u << 23) : U{});
        const U subnormal = to_bits(from_bits(size + (113u << 23)) - from_bits(U{} + (113u << 23)));
        return from_bits((size < (1u << 23) ? subnormal : normal) | sign);
    }
    template <class F>
    static auto encode(const F& x) {
#if defined(FUSEDSTEP_VEC)
        if constexpr (sizeof(F) > 4) return bits_or_nan(x, float_to_half(x), 0x7E00);
#endif
        const auto bits = to_bits(x), size = clamped(bits);
        const auto normal = (size - (112u << 23) + 0xFFF + ((size >> 13) & 1)) >> 13;
        const auto subnormal = to_bits(from_bits(size) + 0.5f) - 0x3F000000;  // 0.5 has their spacing, 2**-24
        return assembled(x, size, normal, subnormal);
    }
    template <class F, class U>
    static U encode(const F& x, const U& noise16) {
        const U size = clamped(to_bits(x));
        const U normal = (size - (112u << 23) + (noise16 >> 3)) >> 13;
        const F small = as_signed(size) < as_signed(kSubnormal) ? from_bits(size) : F{};
        return assembled(x, size, normal, (truncated(small * 0x1p40f) + noise16) >> 16);
    }

private:
    template <class U>
    static U clamped(const U& bits) {
        const U size = bits & 0x7FFFFFFF;
        return as_signed(size) < as_signed(kOverflow) ? size : U{} + kOverflow;
    }
    template <class F, class U>
    static U assembled(const F& x, const U& size, const U& normal, const U& subnormal) {
        const U half = as_signed(size) < as_signed(kSubnormal) ? subnormal : normal;
        return bits_or_nan(x, half | ((to_bits(x) >> 16) & 0x8000), 0x7E00);
    }
};

// The float32 that a 16-bit parameter with a master stands for: the master, unless the parameter is not its rounding.
// Somebody has written the parameter then, and what they wrote counts.
template <class Half, class F, class U>
inline F master_of(const U& parameter, const F& master) {
    return Half::encode(master) == parameter ? master : Half::decode(parameter);
}

// A float32's bits as (parameter << 16) + remainder. Ties away from zero, so that the remainder, the low 16 bits, fits
// as a signed number.
struct Split {
    static constexpr bool kByShifts = true;
    template <class U>
    static auto decode(const U& parameter, const U& remainder) {
        // Somebody has written a zero, which never splits with a negative remainder: what is below zero would be a NaN.
        const U low = (parameter & 0x7FFF) == 0 ? remainder & 0xFFFF : remainder;
        return from_bits((parameter << 16) + low);
    }
    template <class F>
    static auto remainder(const F& x) {
        return bits_or_nan(x, to_bits(x), kNan32);
    }
    template <class U>
    static U parameter(const U& remainder) {
        return (remainder + 0x8000) >> 16;
    }
};
