// Loops over elements, compiled once per instruction set. Exports one table and nothing else: all that the headers here
// hold has internal linkage, so no function built for AVX-512 can be picked by the linker for a CPU without it.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#include "../types.hpp"

namespace fusedstep {
namespace {

extern const KernelTable table;  // below

// clang-format off: each needs those before it
#include "vec.hpp"
#include "rules/rules.hpp"
#include "formats/formats.hpp"
#include "formats/streams.hpp"
#include "element.hpp"
#include "narrow_step.hpp"
#include "bfloat16_step.hpp"
#include "divide_bound.hpp"
#include "sums.hpp"
#include "step.hpp"
#include "step_options.hpp"
#include "watch.hpp"
#include "entry.hpp"
// clang-format on

std::uint32_t largest(const float* x, std::size_t n) {
    std::int32_t top = 0;  // signed: SSE2 compares no others
#pragma omp simd reduction(max : top)
    for (std::size_t i = 0; i < n; ++i) {
        const std::int32_t size = as_signed(to_bits(x[i]) & 0x7FFFFFFF);
        top = top < size ? size : top;
    }
    return as_unsigned(top);
}

void add_one(float* x, std::size_t n) {
#pragma omp simd
    for (std::size_t i = 0; i < n; ++i) x[i] += 1.0f;
}

float sum(const float* x, std::size_t n) {
    float lane[kLanes] = {};
    for (std::size_t i = 0; i + kLanes <= n; i += kLanes) {
#pragma omp simd
        for (std::size_t j = 0; j < kLanes; ++j) lane[j] += x[i + j];
    }
    float total = 0;
    for (const float v : lane) total += v;
    return total;
}

const KernelTable table = {
    FUSEDSTEP_ISA_NAME,
    Entries<Rules>::table,
    Entries<Rules>::count,
    // In the order of the enumeration Format.
    {{decode_native<float, float>, decode_native<float, double>},
     {decode_native<double, float>, decode_native<double, double>},
     {decode<Float16, float>, decode<Float16, double>},
     {decode<Bfloat16, float>, decode<Bfloat16, double>},
     {decode<Float16, float>, decode<Float16, double>},
     {decode<Bfloat16, float>, decode<Bfloat16, double>},
     {decode_split_stream<float>, decode_split_stream<double>},
     {decode_master_stream<Float16, float>, decode_master_stream<Float16, double>},
     {decode_master_stream<Bfloat16, float>, decode_master_stream<Bfloat16, double>},
     {decode_blocks<true, float>, decode_blocks<true, double>},
     {decode_blocks<false, float>, decode_blocks<false, double>}},
    {{encode_native<float, float>, encode_native<float, double>},
     {encode_native<double, float>, encode_native<double, double>},
     {encode<Float16, float>, encode<Float16, double>},
     {encode<Bfloat16, float>, encode<Bfloat16, double>},
     {encode_noisy<Float16, float>, encode_noisy<Float16, double>},
     {encode_noisy<Bfloat16, float>, encode_noisy<Bfloat16, double>},
     {encode_split_stream<float>, encode_split_stream<double>},
     {encode_master_stream<Float16, float>, encode_master_stream<Float16, double>},
     {encode_master_stream<Bfloat16, float>, encode_master_stream<Bfloat16, double>},
     {encode_blocks<true, float>, encode_blocks<true, double>},
     {encode_blocks<false, float>, encode_blocks<false, double>}},
    {sum_squares<float>, sum_squares<double>},
    {prepare<float>, prepare<double>},
    {average<float>, average<double>},
    {add_decay<float>, add_decay<double>},
    {count_descents<float>, count_descents<double>},
    {descend<float>, descend<double>},
    {add_squares<float>, add_squares<double>},
    {multiply<float>, multiply<double>},
    largest,
    {add_gradient<float>, add_gradient<double>},
    {add_update<float>, add_update<double>},
    combine,
    {count_exponents<float>, count_exponents<double>},
    add_one,
    sum,
};

}  // namespace

const KernelTable& FUSEDSTEP_TABLE() { return table; }

}  // namespace fusedstep
