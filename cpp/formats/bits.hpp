// Bit patterns of float32, and the conversion every format starts from.
// Included inside the anonymous namespace of the kernels, after <cmath>, <cstddef>, <cstdint> and <cstring>.
#pragma once

constexpr std::uint32_t kNan32 = 0x7FC00000;  // what every NaN is stored as
constexpr std::uint32_t kInfinity32 = 0x7F800000;

inline std::uint32_t to_bits(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float from_bits(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

inline bool is_nan_bits(std::uint32_t bits) { return (bits & 0x7FFFFFFF) > kInfinity32; }

// Signed comparisons on purpose: SSE2 has no unsigned ones, and AVX2 only through a maximum.
inline std::int32_t as_signed(std::uint32_t bits) { return static_cast<std::int32_t>(bits); }
