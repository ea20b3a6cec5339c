// The block loops: n elements from storage to the compute type T (float or double) and back. Every encoder starts from
// float32, to which a double is rounded first. No two arrays of one call overlap.
#pragma once

template <auto kFunction, class T, class Stored>
void decode_each(const Stored* from, T* to, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<T>(kFunction(from[i]));
}

template <auto kFunction, class T, class Stored>
void encode_each(const T* from, Stored* to, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = kFunction(static_cast<float>(from[i]));
}

template <auto kFunction, class T, class Stored>
void encode_each(const T* from, Stored* to, const std::uint16_t* noise, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = kFunction(static_cast<float>(from[i]), noise[i]);
}

template <class From, class To>
void convert(const From* from, To* to, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
}

template <class T>
void decode_f32(const float* from, T* to, std::size_t n) {
    convert(from, to, n);
}
template <class T>
void encode_f32(const T* from, float* to, std::size_t n) {
    convert(from, to, n);
}
template <class T>
void decode_f64(const double* from, T* to, std::size_t n) {
    convert(from, to, n);
}
template <class T>
void encode_f64(const T* from, double* to, std::size_t n) {
    convert(from, to, n);
}

template <class T>
void decode_bf16(const std::uint16_t* from, T* to, std::size_t n) {
    decode_each<bf16_to_f32>(from, to, n);
}
template <class T>
void encode_bf16(const T* from, std::uint16_t* to, std::size_t n) {
    encode_each<f32_to_bf16_nearest>(from, to, n);
}
template <class T>
void encode_bf16_stochastic(const T* from, std::uint16_t* to, const std::uint16_t* noise, std::size_t n) {
    encode_each<f32_to_bf16_stochastic>(from, to, noise, n);
}

template <class T>
void decode_f16(const std::uint16_t* from, T* to, std::size_t n) {
    decode_each<f16_to_f32>(from, to, n);
}
template <class T>
void encode_f16(const T* from, std::uint16_t* to, std::size_t n) {
    encode_each<f32_to_f16_nearest>(from, to, n);
}
template <class T>
void encode_f16_stochastic(const T* from, std::uint16_t* to, const std::uint16_t* noise, std::size_t n) {
    encode_each<f32_to_f16_stochastic>(from, to, noise, n);
}

template <class T>
void decode_split(const std::uint16_t* parameter, const std::int16_t* remainder, T* to, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<T>(split_join(parameter[i], remainder[i]));
}
template <class T>
void encode_split(const T* from, std::uint16_t* parameter, std::int16_t* remainder, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) {
        const Split both = split_split(static_cast<float>(from[i]));
        parameter[i] = both.parameter;
        remainder[i] = both.remainder;
    }
}

// 8-bit blocks: the pointers stand at the start of a block of 256, n is any length (the last block may be short).
template <bool Signed, class T>
void decode_q8(const std::uint8_t* codes, const float* scales, T* to, std::size_t n) {
    for (std::size_t begin = 0; begin < n; begin += kQ8Block) {
        const std::size_t end = n - begin < kQ8Block ? n : begin + kQ8Block;
        const float scale = *scales++;
#pragma omp simd
        for (std::size_t i = begin; i < end; ++i) to[i] = static_cast<T>(Q8<Signed>::decode(codes[i], scale));
    }
}

// Returns the number of blocks that hold a NaN or an infinity (or, unsigned, a sign); their scale becomes NaN.
template <bool Signed, class T>
std::size_t encode_q8(const T* from, std::uint8_t* codes, float* scales, std::size_t n) {
    std::size_t nonfinite = 0;
    for (std::size_t begin = 0; begin < n; begin += kQ8Block) {
        const std::size_t end = n - begin < kQ8Block ? n : begin + kQ8Block;
        std::uint32_t top = 0;
#pragma omp simd reduction(max : top)
        for (std::size_t i = begin; i < end; ++i) top = Q8<Signed>::maximum(top, static_cast<float>(from[i]));
        *scales++ = Q8<Signed>::scale(top);
        nonfinite += Q8<Signed>::nonfinite(top);
        const float inverse = Q8<Signed>::inverse(top);
        if (inverse == 0.0f) {
            std::memset(codes + begin, 0, end - begin);
            continue;
        }
#pragma omp simd
        for (std::size_t i = begin; i < end; ++i)
            codes[i] = static_cast<std::uint8_t>(Q8<Signed>::encode(static_cast<float>(from[i]), inverse));
    }
    return nonfinite;
}
