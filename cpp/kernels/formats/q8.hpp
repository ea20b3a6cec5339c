// One element of the 8-bit formats, and what a block's scale is made of.
#pragma once

constexpr int kThird = 10923;  // 2**15 / 3

// A code is linear in the cube root of an element's share of the block's largest. Cube and root are those of the
// float's bit pattern, read as an integer: three times it and a third of it, piecewise linear like the logarithm it
// stands for.
template <bool Signed>
struct Q8 {
    // The cube of the largest code's root. A block's scale is its largest element over this.
    static constexpr float kTop = Signed ? 0x1.fffffep0f : 0x1.fap-2f;
    // What the largest element becomes before its root is taken. Below 2, so that a share and its double are positive
    // integers whatever the rounding.
    static constexpr float kShare = Signed ? 1.9975f : kTop;
    // The root that one code stands for, and its inverse: 127 of the signed ones make the root of kTop, 0x1.aaaaaap-85;
    // the unsigned ones are powers of 2, so that neither costs a multiplication.
    static constexpr float kStep = Signed ? 0x1.aaaaaap-85f / 127 : 0x1p-93f;
    static constexpr float kPerStep = Signed ? 127 / 0x1.aaaaaap-85f : 0x1p93f;
    // A signed block with less than kLeast has no codes but 0; an unsigned one has the scale of kLeast then, and no
    // codes but 0 with less than the smallest normal number. So no code but 0 stands for a subnormal number.
    static constexpr std::uint32_t kLeast = (127u - 100) << 23;               // 2**-100
    static constexpr std::uint32_t kFlush = Signed ? kLeast : 1u << 23;       // 2**-126
    static constexpr std::uint32_t kMost = Signed ? 0x7F7FFFFF : 0x7E7FFFFF;  // below 2**128, 2**126

    // An element's size as an integer: the largest of a block also shows its NaN and infinity. The unsigned code takes
    // the sign bit along: a negative second moment is as invalid as a NaN.
    template <class F>
    static auto size(const F& x) {
        return Signed ? to_bits(x) & 0x7FFFFFFF : to_bits(x);
    }

    static bool nonfinite(std::uint32_t top) { return top > kMost; }

    static float largest(std::uint32_t top) { return from_bits(top < kLeast ? kLeast : top); }

    static float scale(std::uint32_t top) {
        return nonfinite(top) ? from_bits(kNan32) : top < kFlush ? 0.0f : largest(top) / kTop;
    }

    // 0 for blocks that have no codes but 0.
    static float inverse(std::uint32_t top) { return nonfinite(top) || top < kFlush ? 0.0f : kShare / largest(top); }

    // The code in the low 8 bits. A third is a product of 16-bit integers.
    template <class F>
    static auto encode(const F& x, float inverse) {
        const auto share = to_bits(x * inverse);
        const auto root = upper_product(share + share, kThird);
        if constexpr (Signed) {
            return to_bits(from_bits(root | (share & 0x80000000)) * kPerStep + 0x1.8p23f);
        } else {
            const auto code = to_bits(from_bits(root) + kStep * 0x1.8p23f);
            const auto some = larger_bits(code, decltype(code){} + 0x1CC00001);  // not 0, which stands for 0 alone
            return as_signed(to_bits(x)) < 0x00800000 ? decltype(some){} : some;
        }
    }

    // An integer below 2**23 in the low bits of a power of two is added to it, in units of its last bit.
    template <class U>
    static auto decode(const U& code, float scale) {
        const auto steps = Signed ? (from_bits(code ^ 0x4B000080) - (0x1p23f + 128)) * kStep  // 2**23 + 128 + the code
                                  : from_bits(code | 0x1C800000) - 0x1p-70f;
        const auto root = to_bits(steps);
        return from_bits(root + root + root) * scale;  // the sign comes through
    }
};
