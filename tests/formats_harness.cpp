// The storage formats behind a C interface, for tests/test_formats_native.py: one shared object per compiler and ISA.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../cpp/types.hpp"

namespace {
using fusedstep::kQuantBlock;
#include "../cpp/kernels/vec.hpp"

#include "../cpp/kernels/formats/formats.hpp"
}  // namespace

using u8 = std::uint8_t;
using u16 = std::uint16_t;
using i16 = std::int16_t;
using size = std::size_t;

#define FORMATS(T, SUFFIX)                                                                                        \
    void decode_f32_##SUFFIX(const float* a, T* b, size n) { convert(a, b, n); }                                  \
    void encode_f32_##SUFFIX(const T* a, float* b, size n) { convert(a, b, n); }                                  \
    void decode_f64_##SUFFIX(const double* a, T* b, size n) { convert(a, b, n); }                                 \
    void encode_f64_##SUFFIX(const T* a, double* b, size n) { convert(a, b, n); }                                 \
    void decode_f16_##SUFFIX(const u16* a, T* b, size n) { decode_half<Float16>(a, b, n); }                       \
    void encode_f16_##SUFFIX(const T* a, u16* b, size n) { encode_half<Float16>(a, b, n); }                       \
    void encode_f16_stochastic_##SUFFIX(const T* a, u16* b, const u16* z, size n) {                               \
        encode_half<Float16>(a, b, z, n);                                                                         \
    }                                                                                                             \
    void decode_bf16_##SUFFIX(const u16* a, T* b, size n) { decode_half<Bfloat16>(a, b, n); }                     \
    void encode_bf16_##SUFFIX(const T* a, u16* b, size n) { encode_half<Bfloat16>(a, b, n); }                     \
    void encode_bf16_stochastic_##SUFFIX(const T* a, u16* b, const u16* z, size n) {                              \
        encode_half<Bfloat16>(a, b, z, n);                                                                        \
    }                                                                                                             \
    void decode_split_##SUFFIX(const u16* a, const i16* r, T* b, size n) { decode_split(a, r, b, n); }            \
    void encode_split_##SUFFIX(const T* a, u16* b, i16* r, size n) { encode_split(a, b, r, n); }                  \
    void decode_q8_signed_##SUFFIX(const u8* a, const float* s, T* b, size n) { decode_q8<true>(a, s, b, n); }    \
    void decode_q8_unsigned_##SUFFIX(const u8* a, const float* s, T* b, size n) { decode_q8<false>(a, s, b, n); } \
    size encode_q8_signed_##SUFFIX(const T* a, u8* b, float* s, size n) { return encode_q8<true>(a, b, s, n); }   \
    size encode_q8_unsigned_##SUFFIX(const T* a, u8* b, float* s, size n) { return encode_q8<false>(a, b, s, n); }

extern "C" {
FORMATS(float, f32)
FORMATS(double, f64)
std::uint64_t noise_key_of(std::uint64_t seed, std::uint64_t parameter, std::uint64_t step) {
    return noise_key(seed, parameter, step);
}
void noise(std::uint64_t key, std::uint64_t first, u16* out, size n) { noise_fill(key, first, out, n); }
}
