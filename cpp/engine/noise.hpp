// The key of one tensor's rounding noise in one step.
#pragma once
#include <cstdint>

namespace fusedstep {

std::uint64_t noise_key(std::uint64_t seed, std::uint64_t tensor, std::uint64_t step);

}  // namespace fusedstep
