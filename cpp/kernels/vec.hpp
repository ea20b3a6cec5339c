// SIMD vectors of float32 and of 32-bit integers: GCC's and Clang's vector types, whose operators the rules and formats
// are written with, and the few operations that those lack. Included before the rules, so that they find its root.
#pragma once

#if (defined(__GNUC__) || defined(__clang__)) && \
    (defined(__AVX2__) || (defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)))
#define FUSEDSTEP_VEC 1

#if defined(__AVX512F__)
constexpr int kVecLanes = 16;
#elif defined(__AVX2__)
constexpr int kVecLanes = 8;
#else
constexpr int kVecLanes = 4;
#endif
// Whether vectors beat the loops that compilers make of one number when 16-bit integers are widened and shifted. NEON's
// four lanes do not: a step with bfloat16 states takes 1.1 to 1.4 times as many instructions as GCC's loops, which
// widen eight at a time.
constexpr bool kVecHalves = kVecLanes > 4;

using Vec = float __attribute__((vector_size(4 * kVecLanes)));
using VecU = std::uint32_t __attribute__((vector_size(4 * kVecLanes)));
using VecI = std::int32_t __attribute__((vector_size(4 * kVecLanes)));
using VecU16 = std::uint16_t __attribute__((vector_size(4 * kVecLanes)));
#define VEC_INLINE inline __attribute__((always_inline))
#define VEC_NOINLINE __attribute__((noinline))

template <class V>
VEC_INLINE V load(const void* from) {
    V v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
template <class V>
VEC_INLINE void store(void* to, const V& v) {
    std::memcpy(to, &v, sizeof v);
}
VEC_INLINE Vec broadcast(float x) { return x - Vec{}; }
VEC_INLINE VecU to_bits(const Vec& x) { return reinterpret_cast<VecU>(x); }
VEC_INLINE Vec from_bits(const VecU& bits) { return reinterpret_cast<Vec>(bits); }
VEC_INLINE VecI as_signed(const VecU& bits) { return reinterpret_cast<VecI>(bits); }
VEC_INLINE VecU as_unsigned(const VecI& bits) { return reinterpret_cast<VecU>(bits); }
VEC_INLINE VecU truncated(const Vec& x) { return as_unsigned(__builtin_convertvector(x, VecI)); }
VEC_INLINE Vec magnitude(const Vec& x) { return from_bits(to_bits(x) & 0x7FFFFFFFu); }

// Compilers turn a conversion between vectors of different widths into one move per element (GCC 12): hence intrinsics.
#if defined(__AVX512F__)
VEC_INLINE Vec root(const Vec& x) {
    return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xFFFF, reinterpret_cast<__m512>(x)));
}
// The same bits from products, for when the divider is busy dividing: an estimate, one step of Newton's method for the
// root and for half its inverse together, and a last one with the exact remainder. P. W. Markstein, "Computation of
// elementary functions on the IBM RISC System/6000 processor", IBM J. Res. Dev. 34, 1990. tests/roots.cpp goes through
// all numbers.
VEC_INLINE Vec root_by_products(const Vec& x) {
    // From 2**-100 to below 2**127 nothing overflows and every remainder is exact.
    const __m512i from = _mm512_set1_epi32(27 << 23), range = _mm512_set1_epi32(227 << 23);
    const __m512i above = _mm512_sub_epi32(reinterpret_cast<__m512i>(x), from);
    if (__builtin_expect(_mm512_cmpge_epu32_mask(above, range) != 0, 0)) return root(x);
    const __m512 a = reinterpret_cast<__m512>(x), half = _mm512_set1_ps(0.5f);
    const __m512 estimate = _mm512_maskz_rsqrt14_ps(0xFFFF, a);
    const __m512 near = _mm512_mul_ps(a, estimate), inverse = _mm512_mul_ps(estimate, half);
    const __m512 error = _mm512_fnmadd_ps(near, inverse, half);
    const __m512 nearer = _mm512_fmadd_ps(near, error, near), half_inverse = _mm512_fmadd_ps(inverse, error, inverse);
    const __m512 remainder = _mm512_fnmadd_ps(nearer, nearer, a);
    return reinterpret_cast<Vec>(_mm512_fmadd_ps(remainder, half_inverse, nearer));
}
VEC_INLINE VecU promote(const std::uint8_t* x) {
    return reinterpret_cast<VecU>(_mm512_maskz_cvtepu8_epi32(0xFFFF, load<__m128i>(x)));
}
VEC_INLINE VecU promote(const std::uint16_t* x) {
    return reinterpret_cast<VecU>(_mm512_maskz_cvtepu16_epi32(0xFFFF, load<__m256i>(x)));
}
VEC_INLINE VecU promote(const std::int16_t* x) {
    return reinterpret_cast<VecU>(_mm512_maskz_cvtepi16_epi32(0xFFFF, load<__m256i>(x)));
}
VEC_INLINE void demote(std::uint8_t* to, const VecU& x) {
    store(to, _mm512_maskz_cvtepi32_epi8(0xFFFF, reinterpret_cast<__m512i>(x)));
}
VEC_INLINE void demote(std::uint16_t* to, const VecU& x) {
    store(to, _mm512_maskz_cvtepi32_epi16(0xFFFF, reinterpret_cast<__m512i>(x)));
}
VEC_INLINE Vec half_to_float(const VecU& half) {
    return reinterpret_cast<Vec>(
        _mm512_maskz_cvtph_ps(0xFFFF, _mm512_maskz_cvtepi32_epi16(0xFFFF, reinterpret_cast<__m512i>(half))));
}
VEC_INLINE VecU float_to_half(const Vec& x) {
    return reinterpret_cast<VecU>(_mm512_maskz_cvtepu16_epi32(
        0xFFFF, _mm512_maskz_cvtps_ph(0xFFFF, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT)));
}
VEC_INLINE VecU upper_product(const VecU& x, int factor) {  // signed upper halves of lanes times 16 bits
    return reinterpret_cast<VecU>(
        _mm512_madd_epi16(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(VecI{} + (factor << 16))));
}
VEC_INLINE VecU words(const std::uint8_t* x) {  // two bytes to a lane, each in 16 bits
    return reinterpret_cast<VecU>(_mm512_cvtepu8_epi16(load<__m256i>(x)));
}
VEC_INLINE void bytes_of_words(std::uint8_t* to, const VecU& x) {
    store(to, _mm512_maskz_cvtepi16_epi8(0xFFFFFFFF, reinterpret_cast<__m512i>(x)));
}
VEC_INLINE VecU larger_bits(const VecU& a, const VecU& b) {
    return reinterpret_cast<VecU>(
        _mm512_maskz_max_epu32(0xFFFF, reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b)));
}
#elif defined(__AVX2__)
VEC_INLINE Vec root(const Vec& x) { return reinterpret_cast<Vec>(_mm256_sqrt_ps(reinterpret_cast<__m256>(x))); }
VEC_INLINE VecU promote(const std::uint8_t* x) {
    return reinterpret_cast<VecU>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(x))));
}
VEC_INLINE VecU promote(const std::uint16_t* x) {
    return reinterpret_cast<VecU>(_mm256_cvtepu16_epi32(load<__m128i>(x)));
}
VEC_INLINE VecU promote(const std::int16_t* x) {
    return reinterpret_cast<VecU>(_mm256_cvtepi16_epi32(load<__m128i>(x)));
}
// The low byte, or the low half, of every lane.
VEC_INLINE void demote(std::uint8_t* to, const VecU& x) {
    const __m256i pick = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                          0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_shuffle_epi8(reinterpret_cast<__m256i>(x), pick);
    const __m128i both = _mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), both);
}
VEC_INLINE void demote(std::uint16_t* to, const VecU& x) {
    const __m256i pick = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
                                          -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13);
    const __m256i halves = _mm256_shuffle_epi8(reinterpret_cast<__m256i>(x), pick);
    store(to, _mm_or_si128(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1)));
}
VEC_INLINE Vec half_to_float(const VecU& half) {
    std::uint16_t each[kVecLanes];
    demote(each, half);
    return reinterpret_cast<Vec>(_mm256_cvtph_ps(load<__m128i>(each)));
}
VEC_INLINE VecU float_to_half(const Vec& x) {
    return reinterpret_cast<VecU>(
        _mm256_cvtepu16_epi32(_mm256_cvtps_ph(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT)));
}
VEC_INLINE VecU upper_product(const VecU& x, int factor) {
    return reinterpret_cast<VecU>(
        _mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(VecI{} + (factor << 16))));
}
VEC_INLINE VecU words(const std::uint8_t* x) { return reinterpret_cast<VecU>(_mm256_cvtepu8_epi16(load<__m128i>(x))); }
VEC_INLINE void bytes_of_words(std::uint8_t* to, const VecU& x) {
    const __m256i low = _mm256_and_si256(reinterpret_cast<__m256i>(x), _mm256_set1_epi16(0xFF));
    store(to, _mm_packus_epi16(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1)));
}
VEC_INLINE VecU larger_bits(const VecU& a, const VecU& b) {
    return reinterpret_cast<VecU>(_mm256_max_epu32(reinterpret_cast<__m256i>(a), reinterpret_cast<__m256i>(b)));
}
#else
VEC_INLINE uint32x4_t neon(const VecU& x) { return reinterpret_cast<uint32x4_t>(x); }
VEC_INLINE float32x4_t neon(const Vec& x) { return reinterpret_cast<float32x4_t>(x); }

VEC_INLINE Vec root(const Vec& x) { return reinterpret_cast<Vec>(vsqrtq_f32(neon(x))); }
VEC_INLINE VecU promote(const std::uint8_t* x) {
    const std::uint64_t four = load<std::uint32_t>(x);
    return reinterpret_cast<VecU>(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four)))));
}
VEC_INLINE VecU promote(const std::uint16_t* x) { return reinterpret_cast<VecU>(vmovl_u16(vld1_u16(x))); }
VEC_INLINE VecU promote(const std::int16_t* x) { return reinterpret_cast<VecU>(vmovl_s16(vld1_s16(x))); }
VEC_INLINE void demote(std::uint8_t* to, const VecU& x) {
    const uint16x4_t halves = vmovn_u32(neon(x));
    const uint32x2_t bytes = vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves)));
    store(to, vget_lane_u32(bytes, 0));
}
VEC_INLINE void demote(std::uint16_t* to, const VecU& x) { vst1_u16(to, vmovn_u32(neon(x))); }
VEC_INLINE Vec half_to_float(const VecU& half) {
    return reinterpret_cast<Vec>(vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(neon(half)))));
}
VEC_INLINE VecU float_to_half(const Vec& x) {
    return reinterpret_cast<VecU>(vmovl_u16(vreinterpret_u16_f16(vcvt_f16_f32(neon(x)))));
}
VEC_INLINE VecU upper_product(const VecU& x, int factor) {
    return as_unsigned(reinterpret_cast<VecI>(vmulq_n_s32(vshrq_n_s32(vreinterpretq_s32_u32(neon(x)), 16), factor)));
}
VEC_INLINE VecU words(const std::uint8_t* x) { return reinterpret_cast<VecU>(vmovl_u8(vld1_u8(x))); }
VEC_INLINE void bytes_of_words(std::uint8_t* to, const VecU& x) {
    vst1_u8(to, vmovn_u16(vreinterpretq_u16_u32(neon(x))));
}
VEC_INLINE VecU larger_bits(const VecU& a, const VecU& b) {
    return reinterpret_cast<VecU>(vmaxq_u32(neon(a), neon(b)));
}
VEC_INLINE std::uint32_t largest_lane(const VecU& x) { return vmaxvq_u32(neon(x)); }
#endif

VEC_INLINE void demote(std::int16_t* to, const VecU& x) { demote(reinterpret_cast<std::uint16_t*>(to), x); }

#if defined(__AVX2__)
VEC_INLINE std::uint32_t largest_lane(const VecU& x) {
    alignas(64) std::uint32_t lane[kVecLanes];
    store(lane, x);
    __m256i wide = load<__m256i>(lane);
    for (int j = 8; j < kVecLanes; j += 8) wide = _mm256_max_epu32(wide, load<__m256i>(lane + j));
    __m128i most = _mm_max_epu32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0x4E));
    most = _mm_max_epu32(most, _mm_shuffle_epi32(most, 0xB1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(most));
}
#endif
#endif
