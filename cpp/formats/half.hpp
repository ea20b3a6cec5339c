// One element of the 16-bit formats: float16, bfloat16 and the split master (a bfloat16 and its remainder).
// The definition is python/fusedstep/formats.py; docs/formats.md explains it.
#pragma once

inline float bf16_to_f32(std::uint16_t stored) { return from_bits(static_cast<std::uint32_t>(stored) << 16); }

inline std::uint16_t f32_to_bf16_nearest(float x) {
    const std::uint32_t bits = to_bits(x);
    const std::uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
    return static_cast<std::uint16_t>(x == x ? rounded : 0x7FC0);
}

// noise16: uniform in [0, 65535], from noise_fill().
inline std::uint16_t f32_to_bf16_stochastic(float x, std::uint32_t noise16) {
    const std::uint32_t rounded = (to_bits(x) + noise16) >> 16;
    return static_cast<std::uint16_t>(x == x ? rounded : 0x7FC0);
}

inline float f16_to_f32(std::uint16_t stored) {
    const std::uint32_t size = static_cast<std::uint32_t>(stored & 0x7FFF) << 13;
    const std::uint32_t sign = static_cast<std::uint32_t>(stored & 0x8000) << 16;
    // Bias 15 -> 127; infinity and NaN to the top exponent; subnormals by an exact subtraction, which normalises them.
    const std::uint32_t normal = size + (112u << 23) + (size >= (31u << 23) ? 112u << 23 : 0);
    const std::uint32_t subnormal = to_bits(from_bits(size + (113u << 23)) - from_bits(113u << 23));
    return from_bits((size < (1u << 23) ? subnormal : normal) | sign);
}

constexpr std::uint32_t kF16Overflow = 0x47800000;   // 65536: infinite from here on, whatever the rounding
constexpr std::uint32_t kF16Subnormal = 0x38800000;  // 2**-14

inline std::uint16_t f16_assemble(std::uint32_t bits, std::uint32_t size, std::uint32_t normal,
                                  std::uint32_t subnormal) {
    const std::uint32_t half = size < kF16Subnormal ? subnormal : normal;
    return static_cast<std::uint16_t>(is_nan_bits(bits) ? 0x7E00 : half | ((bits >> 16) & 0x8000));
}

inline std::uint32_t f16_clamp(std::uint32_t bits) {
    const std::uint32_t size = bits & 0x7FFFFFFF;
    return size < kF16Overflow ? size : kF16Overflow;
}

inline std::uint16_t f32_to_f16_nearest(float x) {
    const std::uint32_t bits = to_bits(x), size = f16_clamp(bits);
    const std::uint32_t normal = (size - (112u << 23) + 0xFFF + ((size >> 13) & 1)) >> 13;
    const std::uint32_t subnormal = to_bits(from_bits(size) + 0.5f) - 0x3F000000;  // 0.5 has their spacing, 2**-24
    return f16_assemble(bits, size, normal, subnormal);
}

inline std::uint16_t f32_to_f16_stochastic(float x, std::uint32_t noise16) {
    const std::uint32_t bits = to_bits(x), size = f16_clamp(bits);
    const std::uint32_t normal = (size - (112u << 23) + (noise16 >> 3)) >> 13;
    const float small = size < kF16Subnormal ? from_bits(size) : 0.0f;
    const std::uint32_t subnormal =
        (static_cast<std::uint32_t>(static_cast<std::int32_t>(small * 0x1p40f)) + noise16) >> 16;
    return f16_assemble(bits, size, normal, subnormal);
}

// bits = (parameter << 16) + remainder. Ties away from zero, so that the remainder fits 16 bits.
inline float split_join(std::uint16_t parameter, std::int16_t remainder) {
    return from_bits((static_cast<std::uint32_t>(parameter) << 16) +
                     static_cast<std::uint32_t>(static_cast<std::int32_t>(remainder)));
}

struct Split {
    std::uint16_t parameter;
    std::int16_t remainder;
};

inline Split split_split(float x) {
    const std::uint32_t bits = x == x ? to_bits(x) : kNan32;
    return {static_cast<std::uint16_t>((bits + 0x8000) >> 16), static_cast<std::int16_t>(bits)};
}
