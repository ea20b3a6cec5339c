// The noise of stochastic rounding: a counter hashed with a key, so that an element's noise depends on its position
// only.
#pragma once

constexpr std::size_t kNoiseBlock = 2048;  // elements under one block key
constexpr std::uint64_t kWeyl64 = 0x9E3779B97F4A7C15;

// The finalizer of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
inline std::uint64_t mix64(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
}

// The key of one tensor at one step.
inline std::uint64_t noise_key(std::uint64_t seed, std::uint64_t parameter, std::uint64_t step) {
    const std::uint64_t after_seed = mix64(seed + kWeyl64);
    const std::uint64_t after_parameter = mix64((after_seed ^ parameter) + kWeyl64);
    return mix64((after_parameter ^ step) + kWeyl64);
}

// The key of the block that an element lies in.
struct NoiseBlock {
    std::uint32_t low, high;
};
inline NoiseBlock noise_block(std::uint64_t key, std::uint64_t element) {
    const std::uint64_t block = mix64(key + (element / kNoiseBlock + 1) * kWeyl64);
    return {static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32)};
}

// The noise of two elements, the even one's in the low half. `pair` counts them from the start of the block; U is one
// or a vector of them.
template <class U>
inline U noise_pair(const U& pair, const NoiseBlock& block) {
    U x = pair * 0x9E3779B9u + block.low;
    x = (x ^ (x >> 15) ^ block.high) * 0x2C1B3C6Du;
    return x ^ (x >> 16);
}

// Noise of the elements first, first + 1, ... first + n - 1 of the tensor; first is even. `out` must have room for an
// even number.
inline void noise_fill(std::uint64_t key, std::uint64_t first, std::uint16_t* out, std::size_t n) {
    for (std::size_t begin = 0; begin < n;) {
        const std::uint64_t place = first + begin;
        const std::size_t room = static_cast<std::size_t>(kNoiseBlock - place % kNoiseBlock);
        const std::size_t left = n - begin < room ? n - begin : room;
        const NoiseBlock block = noise_block(key, place);
        const std::uint32_t from = static_cast<std::uint32_t>(place % kNoiseBlock / 2);
        const std::uint32_t pairs = static_cast<std::uint32_t>((left + 1) / 2);
        std::uint16_t* to = out + begin;
#pragma omp simd
        for (std::uint32_t i = 0; i < pairs; ++i) {
            std::uint32_t x = noise_pair(from + i, block);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
            x = x << 16 | x >> 16;  // the low half comes first in memory as well
#endif
            std::memcpy(to + 2 * i, &x, sizeof x);
        }
        begin += left;
    }
}
