// Bit patterns of float32, which every format starts from.
//
// The formats are written once, for a number and for a vector (vec.hpp): F is float or Vec, U the unsigned integers of
// its bits. A stored element is the low bits of a U; what else a U holds is dropped when it is stored. `U{} + x` is the
// number x in either.
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

// Signed comparisons on purpose: SSE2 has no unsigned ones, and AVX2 only through a maximum.
inline std::int32_t as_signed(std::uint32_t bits) { return static_cast<std::int32_t>(bits); }
inline std::uint32_t as_unsigned(std::int32_t bits) { return static_cast<std::uint32_t>(bits); }

// The larger of two numbers without a sign.
inline std::uint32_t larger_bits(std::uint32_t a, std::uint32_t b) { return as_signed(a) < as_signed(b) ? b : a; }

inline std::uint32_t truncated(float x) { return static_cast<std::uint32_t>(static_cast<std::int32_t>(x)); }

// What the bits of x become, or `nan` where x is NaN.
template <class F, class U>
inline U bits_or_nan(const F& x, const U& bits, std::uint32_t nan) {
    return x == x ? bits : U{} + nan;
}

// The product of the upper halves and a 16-bit number, which every instruction set has.
inline std::uint32_t upper_product(std::uint32_t x, int factor) {
    return (x >> 16) * static_cast<std::uint32_t>(factor);
}
