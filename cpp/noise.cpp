#include "noise.hpp"

namespace fusedstep {
namespace {

// The finaliser of SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
std::uint64_t mixed(std::uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

}  // namespace

std::uint64_t noise_key(std::uint64_t seed, std::uint64_t tensor, std::uint64_t step) {
    return mixed(mixed(mixed(seed) ^ tensor) ^ step);
}

}  // namespace fusedstep
