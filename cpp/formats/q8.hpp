// One element of the 8-bit formats, and what a block's scale is made of.
#pragma once

constexpr std::size_t kQ8Block = 256;

// What a block's elements are multiplied by on the way in and out. A block is zero below kFlush.
template <bool Signed>
struct Q8 {
    static constexpr int kLevels = Signed ? 127 : 255;
    static constexpr std::uint32_t kFlush = Signed ? (127u - 110) << 23 : 1u << 23;  // 2**-110, 2**-126
    static constexpr float kUp = kLevels * 0x1p63f;
    static constexpr float kDown = 0x1p-63f / kLevels;

    // The larger of a running maximum (start at 0) and an element's size, as an integer: so NaN and infinity are seen.
    // The unsigned code takes the sign bit along: a negative second moment is as invalid as a NaN.
    static std::uint32_t maximum(std::uint32_t top, float x) {
        const std::uint32_t size = Signed ? to_bits(x) & 0x7FFFFFFF : to_bits(x);
        return top < size ? size : top;
    }

    static bool nonfinite(std::uint32_t top) { return top > 0x7F7FFFFF; }

    static float scale(std::uint32_t top) {
        return nonfinite(top) ? from_bits(kNan32) : top < kFlush ? 0.0f : from_bits(top);
    }

    // 0 for blocks that have no codes but 0.
    static float inverse(std::uint32_t top) { return nonfinite(top) || top < kFlush ? 0.0f : 2.0f / from_bits(top); }

    // The code in the low 8 bits. Halving the bit pattern is a piecewise linear square root, here of 2 |x| / scale.
    static std::uint32_t encode(float x, float inverse) {
        if constexpr (Signed) {
            const std::int32_t root = as_signed(to_bits(x * inverse)) >> 1;  // a negative one gets bit 30 from the sign
            return to_bits(from_bits(static_cast<std::uint32_t>(root) & 0xBFFFFFFF) * kUp + 0x1.8p23f);
        } else {
            const float root = from_bits(to_bits(x * inverse) >> 1);
            const std::int32_t code = as_signed(to_bits(root * kUp + 0x1.8p23f)) - 0x4B400000;
            return static_cast<std::uint32_t>(as_signed(to_bits(x)) < 0x00800000 ? 0 : code < 1 ? 1 : code);
        }
    }

    // half: half the scale.
    static float decode(std::uint8_t stored, float half) {
        const int code = Signed ? static_cast<int>(static_cast<std::int8_t>(stored)) : static_cast<int>(stored);
        const std::uint32_t root = to_bits(static_cast<float>(code) * kDown);
        return from_bits((root << 1) | (Signed ? root & 0x80000000 : 0)) * half;
    }
};
