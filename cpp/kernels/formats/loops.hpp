// The conversion loops: n elements from storage to the compute type T (float or double) and back. Every encoder starts
// from float32, to which a double is rounded first. No two arrays of one call overlap.
#pragma once

// One element or a vector of them, as numbers or as the low bits of unsigned integers; the last argument says which.
template <class T>
inline float get(const T* from, float) {
    return static_cast<float>(*from);
}
template <class T>
inline void put(T* to, float x) {
    *to = static_cast<T>(x);
}
template <class Stored>
inline std::uint32_t get_bits(const Stored* from, float) {
    return static_cast<std::uint32_t>(*from);  // with the sign of a signed one
}
template <class Stored>
inline void put_bits(Stored* to, std::uint32_t bits) {
    *to = static_cast<Stored>(bits);
}
#if defined(FUSEDSTEP_VEC)
VEC_INLINE Vec get(const float* from, const Vec&) { return load<Vec>(from); }
VEC_INLINE void put(float* to, const Vec& x) { store(to, x); }
template <class Stored>
VEC_INLINE VecU get_bits(const Stored* from, const Vec&) {
    return promote(from);
}
template <class Stored>
VEC_INLINE void put_bits(Stored* to, const VecU& bits) {
    demote(to, bits);
}
#endif

// Calls body(i, float{}) for every element i or, in whole vectors of float32, body(i, Vec{}): compilers make slower
// ones of conversions between widths (GCC 12: 8 bits and float16 on AVX2 1.3 to 4 times).
template <class T, bool kVectors = true, class Body>
inline void for_elements(std::size_t begin, std::size_t end, const Body& body) {
#if defined(FUSEDSTEP_VEC)
    if constexpr (sizeof(T) == sizeof(float) && kVectors)
        for (; begin + kVecLanes <= end; begin += kVecLanes) body(begin, Vec{});
#endif
#pragma omp simd
    for (std::size_t i = begin; i < end; ++i) body(i, float{});
}

template <class From, class To>
void convert(const From* from, To* to, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) to[i] = static_cast<To>(from[i]);
}

// 16-bit formats.
#if defined(FUSEDSTEP_VEC)
template <class Half>
constexpr bool kInVectors = kVecHalves || !Half::kByShifts;
#else
template <class Half>
constexpr bool kInVectors = false;
#endif
template <class Half, class T>
void decode_half(const std::uint16_t* from, T* to, std::size_t n) {
    for_elements<T, kInVectors<Half>>(
        0, n, [=](std::size_t i, auto as) { put(to + i, Half::decode(get_bits(from + i, as))); });
}
template <class Half, class T>
void encode_half(const T* from, std::uint16_t* to, std::size_t n) {
    for_elements<T, kInVectors<Half>>(
        0, n, [=](std::size_t i, auto as) { put_bits(to + i, Half::encode(get(from + i, as))); });
}
template <class Half, class T>
void encode_half(const T* from, std::uint16_t* to, const std::uint16_t* noise, std::size_t n) {
    for_elements<T, kInVectors<Half>>(0, n, [=](std::size_t i, auto as) {
        put_bits(to + i, Half::encode(get(from + i, as), get_bits(noise + i, as)));
    });
}

template <class T>
void decode_split(const std::uint16_t* parameter, const std::int16_t* remainder, T* to, std::size_t n) {
    for_elements<T, kInVectors<Split>>(0, n, [=](std::size_t i, auto as) {
        put(to + i, Split::decode(get_bits(parameter + i, as), get_bits(remainder + i, as)));
    });
}
template <class T>
void encode_split(const T* from, std::uint16_t* parameter, std::int16_t* remainder, std::size_t n) {
    for_elements<T, kInVectors<Split>>(0, n, [=](std::size_t i, auto as) {
        const auto low = Split::remainder(get(from + i, as));
        put_bits(parameter + i, Split::parameter(low));
        put_bits(remainder + i, low);
    });
}

template <class Half, class T>
void decode_master(const std::uint16_t* parameter, const float* master, T* to, std::size_t n) {
    for_elements<T>(0, n, [=](std::size_t i, auto as) {
        put(to + i, master_of<Half>(get_bits(parameter + i, as), get(master + i, as)));
    });
}
template <class Half, class T>
void encode_master(const T* from, std::uint16_t* parameter, float* master, std::size_t n) {
    for_elements<T>(0, n, [=](std::size_t i, auto as) {
        const auto x = get(from + i, as);
        put(master + i, x);
        put_bits(parameter + i, Half::encode(x));
    });
}

// 8-bit blocks: the pointers stand at the start of a block of 256, n is any length (the last block may be short).
template <bool Signed, class T>
void decode_q8(const std::uint8_t* codes, const float* scales, T* to, std::size_t n) {
    for (std::size_t begin = 0; begin < n; begin += kQuantBlock) {
        const std::size_t end = n - begin < kQuantBlock ? n : begin + kQuantBlock;
        const float scale = *scales++;
        for_elements<T>(begin, end, [=](std::size_t i, auto as) {
            put(to + i, Q8<Signed>::decode(get_bits(codes + i, as), scale));
        });
    }
}

// Returns the number of blocks that hold a NaN or an infinity (or, unsigned, a sign); their scale becomes NaN.
template <bool Signed, class T>
std::size_t encode_q8(const T* from, std::uint8_t* codes, float* scales, std::size_t n) {
    std::size_t nonfinite = 0;
    for (std::size_t begin = 0; begin < n; begin += kQuantBlock) {
        const std::size_t end = n - begin < kQuantBlock ? n : begin + kQuantBlock;
        std::uint32_t top = 0;
#pragma omp simd reduction(max : top)
        for (std::size_t i = begin; i < end; ++i) {
            const std::uint32_t size = Q8<Signed>::size(static_cast<float>(from[i]));
            top = top < size ? size : top;
        }
        *scales++ = Q8<Signed>::scale(top);
        nonfinite += Q8<Signed>::nonfinite(top);
        const float inverse = Q8<Signed>::inverse(top);
        if (inverse == 0.0f) {
            std::memset(codes + begin, 0, end - begin);
            continue;
        }
        for_elements<T>(begin, end, [=](std::size_t i, auto as) {
            put_bits(codes + i, Q8<Signed>::encode(get(from + i, as), inverse));
        });
    }
    return nonfinite;
}
