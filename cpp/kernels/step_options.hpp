// What step options do to arrays of the compute type: clipping, averages, cautious steps.
#pragma once

// Gradient clipping by value; a NaN stays NaN.
template <class T>
void prepare(const void* grad, double multiplier, double clip, void* out, std::size_t n) {
    const T scale = T(multiplier), high = T(clip), low = -high;
    const T* const g = static_cast<const T*>(grad);
    T* const result = static_cast<T*>(out);  // may be grad itself
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) {
        T x = scale * g[i];
        x = x > high ? high : x;
        x = x < low ? low : x;
        result[i] = x;
    }
}

template <class T>
void average(double decay, const void* param, void* ema, std::size_t n) {
    const T keep = T(decay), take = T(1.0 - decay);
    const T* const __restrict p = static_cast<const T*>(param);
    T* const __restrict e = static_cast<T*>(ema);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) e[i] = flushed(keep * e[i] + take * p[i]);
}

// The parts of a cautious step that are the same for every rule: see Engine::caution().
template <class T>
void add_decay(double l2, const void* param, void* grad, std::size_t n) {
    const T factor = T(l2);
    const T* const __restrict p = static_cast<const T*>(param);
    T* const __restrict g = static_cast<T*>(grad);
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) g[i] = g[i] + factor * p[i];
}

// 1 where the step goes against the gradient, else 0, of a NaN or zero too. By the signs: a product could underflow.
template <class T>
inline T descends(const T& step, const T& grad) {
    const T downhill = grad > T{} ? step : T{};
    const T along = grad < T{} ? -step : downhill;
    return along < T{} ? T{} + 1 : T{};
}

template <class T>
std::size_t count_descents(const void* step, const void* grad, std::size_t n) {
    const T* const s = static_cast<const T*>(step);
    const T* const g = static_cast<const T*>(grad);
    T sum = 0;  // of at most a block's elements: exact
#pragma omp simd reduction(+ : sum)
    for (std::size_t i = 0; i < n; ++i) sum += descends(s[i], g[i]);
    return static_cast<std::size_t>(sum);
}

template <class T>
void descend(Decay decay, double scale, const void* step, const void* grad, void* param, std::size_t n) {
    const T shrink = T(decay.shrink), factor = T(scale);
    const T* const __restrict s = static_cast<const T*>(step);
    const T* const __restrict g = static_cast<const T*>(grad);
    T* const __restrict p = static_cast<T*>(param);
    // A product, not a select: what is NaN stays NaN, and an infinite step is seen.
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) p[i] = p[i] * shrink + s[i] * (factor * descends(s[i], g[i]));
}
