// Sums in double whose order never depends on the vector width.
#pragma once

// Sums of squares in sixteen double lanes: lane j takes elements j, j + 16, ...; then the lanes are added by halves.
// The order never depends on the vector width, so the sum is the same on every instruction set.
inline double combined(double* lane) {
    for (std::size_t half = kLanes / 2; half > 0; half /= 2)
        for (std::size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

// Copies sums to go on with. An addition, since compilers copy sixteen bytes at a time: a processor waits where it
// reads more at once than was stored. No sum is -0.
inline void load_lanes(const double* from, double* lane) {
#pragma omp simd
    for (std::size_t j = 0; j < kLanes; ++j) lane[j] = from[j] + 0.0;
}

template <class T>
void fetch_lanes(const T* lanes) {
    constexpr std::size_t kCacheLine = 64;
    for (std::size_t b = 0; b < kLanes * sizeof(T); b += kCacheLine) prefetch(reinterpret_cast<const char*>(lanes) + b);
}

// Adds a square to a sum. That of a float32 is exact in a double, so that one instruction for both leaves the same
// bits.
template <class T>
double plus_square(double sum, T x) {
    const double v = static_cast<double>(x);
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    if constexpr (sizeof(T) == 4) return __builtin_fma(v, v, sum);
#endif
    return sum + v * v;
}

// Asks for what a sum comes to `ahead` bytes later.
template <class T>
void fetch_ahead(const T* lanes, std::size_t ahead) {
    fetch_lanes(lanes + ahead / sizeof(T));
}

template <class T>
BlockSum sum_squares(const void* data, std::size_t n, std::size_t ahead) {
    const T* const x = static_cast<const T*>(data);
    double lane[kLanes] = {};
    double zero[kLanes] = {};  // stays zero unless an element is infinite or NaN
    const auto add = [&](std::size_t i, std::size_t j) {
        lane[j] = plus_square(lane[j], x[i]);
        if constexpr (sizeof(T) == 8)
            zero[j] += x[i] * 0.0;  // squares of float32 cannot overflow a double: their sum tells
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        fetch_ahead(x + i, ahead);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    const double sum = combined(lane);
    if constexpr (sizeof(T) == 4) return {sum, sum - sum == 0.0};
    return {sum, combined(zero) == 0.0};
}

// What a second moment in factors is made of: squares of rows and by columns, and its elements. Several rows at a time,
// and the next ones are asked for: the sums by columns are read and written once for all of them.
template <class T, std::size_t kRows>
void add_squares_of(const T* x, std::size_t stride, double* columns, double* rows, std::size_t n, bool asks) {
    double* const __restrict s = columns;
    const std::size_t next = asks ? kRows * stride : 0;
    double lane[kRows][kLanes] = {};
    const auto add = [&](std::size_t i, std::size_t j) {
        double sum = s[i];
        for (std::size_t r = 0; r < kRows; ++r) {
            lane[r][j] = plus_square(lane[r][j], x[r * stride + i]);
            sum = plus_square(sum, x[r * stride + i]);
        }
        s[i] = sum;
    };
    const std::size_t whole = n / kLanes * kLanes;
    for (std::size_t i = 0; i < whole; i += kLanes) {
        for (std::size_t r = 0; r < kRows; ++r) fetch_lanes(x + next + r * stride + i);
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) add(i + j, j);
    }
    for (std::size_t j = 0; j < n - whole; ++j) add(whole + j, j);
    for (std::size_t r = 0; r < kRows; ++r) rows[r] += combined(lane[r]);
}
template <class T>
void add_squares(const void* x, std::size_t stride, std::size_t count, double* columns, double* rows, std::size_t n,
                 std::size_t ahead) {
    constexpr std::size_t kRows = 4;
    const bool asks = ahead != 0;
    const T* values = static_cast<const T*>(x);
    std::size_t row = 0;
#if defined(__AVX512F__)
    // As many as registers hold. With what is asked for ahead they would be more than fits into an L1 cache.
    constexpr std::size_t kMostRows = 8;
    for (; !asks && row + kMostRows <= count; row += kMostRows)
        add_squares_of<T, kMostRows>(values + row * stride, stride, columns, rows + row, n, asks);
#endif
    for (; row + kRows <= count; row += kRows)
        add_squares_of<T, kRows>(values + row * stride, stride, columns, rows + row, n, asks);
    for (; row < count; ++row) add_squares_of<T, 1>(values + row * stride, stride, columns, rows + row, n, asks);
}
