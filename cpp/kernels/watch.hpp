// What a watched step sums up of a piece of a block beside the update. The lanes are those of sum_squares, so a sum is
// the same on every instruction set.
#pragma once

// Asks for elements of the next piece: while sums are computed, memory would be idle.
inline void fetch(const Ahead& ahead, std::size_t i) {
    for (int k = 0; k < 2; ++k) prefetch(static_cast<const char*>(ahead.data[k]) + i * ahead.width[k]);
}

template <class T>
void add_gradient(const void* data, std::size_t n, const Ahead& ahead, WatchedLanes& lanes) {
    const T* const x = static_cast<const T*>(data);
    double lane[kLanes];
    std::uint32_t zero[kLanes] = {};
    load_lanes(lanes.grad, lane);
    const auto add = [&](std::size_t i, std::size_t j) {
        lane[j] = plus_square(lane[j], x[i]);
        zero[j] += x[i] == T(0) ? 1u : 0u;
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        fetch(ahead, i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    std::memcpy(lanes.grad, lane, sizeof lane);
#pragma omp simd
    for (std::size_t j = 0; j < kLanes; ++j) lanes.zeros[j] += zero[j];
    // A sum of squares is not finite if any of them is not, or if it overflows.
    bool finite = true;
#pragma omp simd reduction(&& : finite)
    for (std::size_t j = 0; j < kLanes; ++j) finite = finite && lane[j] - lane[j] == 0.0;
    for (std::size_t i = 0; !finite && i < n; ++i) lanes.nonfinite += x[i] - x[i] != T(0);
}

template <class T>
void add_update(const void* before, const void* after, std::size_t n, const Ahead& ahead, WatchedLanes& lanes) {
    const T* const from = static_cast<const T*>(before);
    const T* const to = static_cast<const T*>(after);
    double first[kLanes], second[kLanes];
    load_lanes(lanes.param, first);
    load_lanes(lanes.update, second);
    const auto add = [&](std::size_t i, std::size_t j) {
        first[j] = plus_square(first[j], to[i]);
        second[j] = plus_square(second[j], T(to[i] - from[i]));
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        fetch(ahead, i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    std::memcpy(lanes.param, first, sizeof first);
    std::memcpy(lanes.update, second, sizeof second);
}

inline WatchedSums combine(WatchedLanes& lanes) {
    WatchedSums sums{combined(lanes.grad), combined(lanes.param), combined(lanes.update), 0, lanes.nonfinite};
    for (const std::uint32_t count : lanes.zeros) sums.zeros += count;
    return sums;
}

// Adds to the counts of float32's exponents: 0 for what is below its smallest normal number, 255 for infinity and NaN.
template <class T>
void count_exponents(const void* data, std::size_t n, std::uint32_t* counts) {
    for (std::size_t i = 0; i < n; ++i) {
        if constexpr (sizeof(T) == 4) {
            ++counts[to_bits(static_cast<const float*>(data)[i]) >> 23 & 0xFF];
        } else {
            std::uint64_t bits;
            std::memcpy(&bits, static_cast<const double*>(data) + i, sizeof bits);
            const int wide = static_cast<int>(bits >> 52 & 0x7FF), exponent = wide - (1023 - 127);
            ++counts[wide == 0x7FF ? 255 : exponent < 0 ? 0 : exponent > 254 ? 254 : exponent];
        }
    }
}
