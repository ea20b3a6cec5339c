// Compares root_by_products with the instruction for every float, and from estimates as far off as the estimate of any
// processor may be. Prints the number of differences.
#include <immintrin.h>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {
__m512 estimate_factor;
}
// The estimate, relative error below 2**-14, times a factor that brings the error to either end of that.
#define _mm512_maskz_rsqrt14_ps(mask, x) \
    _mm512_mul_ps(estimate_factor, _mm512_div_ps(_mm512_set1_ps(1.0f), _mm512_sqrt_ps(x)))

namespace {
#include "vec.hpp"

std::uint64_t differences(std::uint64_t begin, std::uint64_t end) {
    std::uint64_t count = 0;
    for (std::uint64_t i = begin; i < end; i += kVecLanes) {
        VecU bits;
        for (int j = 0; j < kVecLanes; ++j) bits[j] = static_cast<std::uint32_t>(i) + static_cast<std::uint32_t>(j);
        const VecU got = reinterpret_cast<VecU>(root_by_products(reinterpret_cast<Vec>(bits)));
        const VecU needed = reinterpret_cast<VecU>(root(reinterpret_cast<Vec>(bits)));
        const VecI wrong = got != needed;
        for (int j = 0; j < kVecLanes; ++j) count += wrong[j] != 0;
    }
    return count;
}
}  // namespace

int main() {
    std::uint64_t count = 0;
    const float errors[] = {0.0f, 0x1p-14f, -0x1p-14f, 0x1p-15f, -0x1p-15f, 0x1.5p-16f, -0x1.5p-16f, 0x1p-24f};
    for (const float error : errors) {
        estimate_factor = _mm512_set1_ps(1.0f + error);
        count += differences(0x3F000000, 0x40000000);  // two octaves: all mantissas, both parities of the exponent
    }
    estimate_factor = _mm512_set1_ps(1.0f);
    count += differences(0, 0x100000000);
    std::printf("%llu\n", static_cast<unsigned long long>(count));
}
