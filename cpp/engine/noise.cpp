#include "noise.hpp"

#include <cstddef>
#include <cstring>

namespace fusedstep {
namespace {

// The same text as in the kernels, of which each instruction set has a copy of its own.
namespace text {
#include "../kernels/formats/noise.hpp"
}

}  // namespace

std::uint64_t noise_key(std::uint64_t seed, std::uint64_t tensor, std::uint64_t step) {
    return text::noise_key(seed, tensor, step);
}

}  // namespace fusedstep
