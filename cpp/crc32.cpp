#include "crc32.hpp"

#if defined(FUSEDSTEP_X86)
#include <immintrin.h>
#if defined(_MSC_VER)
#include <intrin.h>
#endif
#endif

#if defined(__GNUC__) || defined(__clang__)
#define FUSEDSTEP_PCLMUL __attribute__((target("pclmul")))
#else
#define FUSEDSTEP_PCLMUL
#endif

namespace fusedstep {

#if defined(FUSEDSTEP_X86)

bool has_fast_crc32() {
#if defined(_MSC_VER)
    int r[4];
    __cpuid(r, 1);
    return (r[2] & (1 << 1)) != 0;
#else
    return __builtin_cpu_supports("pclmul");
#endif
}

namespace {

// Gopal et al. (2009), "Fast CRC computation for generic polynomials using PCLMULQDQ instruction", Intel: a message is
// a polynomial over GF(2); its high parts are folded onto lower ones by x**n mod P, a constant for each distance n.
// The constants are those of the paper's last section, for the bit-reflected polynomial 0xEDB88320.
constexpr long long kFold512[] = {0x154442BD4, 0x1C6E41596};  // x**(512 + 32), x**(512 - 32)
constexpr long long kFold128[] = {0x1751997D0, 0x0CCAA009E};  // x**(128 + 32), x**(128 - 32)
constexpr long long kFold64 = 0x163CD6124;                    // x**64
constexpr long long kBarrett[] = {0x1DB710641, 0x1F7011641};  // P, and floor(x**64 / P)

__m128i load(const unsigned char* data) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data)); }

// `part` moved on by the distance of `constants`, and what stands there added.
FUSEDSTEP_PCLMUL __m128i folded(__m128i part, __m128i constants, __m128i there) {
    const __m128i low = _mm_clmulepi64_si128(part, constants, 0x00);
    const __m128i high = _mm_clmulepi64_si128(part, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), there);
}

// Of whole 16-byte pieces, at least four. `crc` is inverted before and after by the caller.
FUSEDSTEP_PCLMUL std::uint32_t of_pieces(std::uint32_t crc, const unsigned char* data, std::size_t size) {
    const __m128i fold512 = _mm_set_epi64x(kFold512[1], kFold512[0]);
    const __m128i fold128 = _mm_set_epi64x(kFold128[1], kFold128[0]);
    __m128i a = _mm_xor_si128(load(data), _mm_cvtsi32_si128(static_cast<int>(crc)));
    __m128i b = load(data + 16), c = load(data + 32), d = load(data + 48);
    const unsigned char* const end = data + size;
    for (data += 64; end - data >= 64; data += 64) {
        a = folded(a, fold512, load(data));
        b = folded(b, fold512, load(data + 16));
        c = folded(c, fold512, load(data + 32));
        d = folded(d, fold512, load(data + 48));
    }
    a = folded(folded(folded(a, fold128, b), fold128, c), fold128, d);
    for (; end - data >= 16; data += 16) a = folded(a, fold128, load(data));

    const __m128i low_words = _mm_setr_epi32(~0, 0, ~0, 0);
    a = _mm_xor_si128(_mm_srli_si128(a, 8), _mm_clmulepi64_si128(a, fold128, 0x10));  // 128 bits to 96
    a = _mm_xor_si128(_mm_srli_si128(a, 4),
                      _mm_clmulepi64_si128(_mm_and_si128(a, low_words), _mm_set_epi64x(0, kFold64), 0x00));  // to 64
    const __m128i barrett = _mm_set_epi64x(kBarrett[1], kBarrett[0]);
    __m128i quotient = _mm_clmulepi64_si128(_mm_and_si128(a, low_words), barrett, 0x10);
    quotient = _mm_clmulepi64_si128(_mm_and_si128(quotient, low_words), barrett, 0x00);
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_srli_si128(_mm_xor_si128(a, quotient), 4)));
}

}  // namespace

std::uint32_t fast_crc32(std::uint32_t value, const unsigned char* data, std::size_t size) {
    std::uint32_t crc = ~value;
    const std::size_t pieces = size < 64 ? 0 : size / 16 * 16;
    if (pieces != 0) crc = of_pieces(crc, data, pieces);
    for (const unsigned char* byte = data + pieces; byte != data + size; ++byte) {
        crc ^= *byte;
        for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

#else

bool has_fast_crc32() { return false; }
std::uint32_t fast_crc32(std::uint32_t value, const unsigned char*, std::size_t) { return value; }

#endif

}  // namespace fusedstep
