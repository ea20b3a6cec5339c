// Which instruction sets were built, which this CPU and its operating system can run, and which one is active.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "types.hpp"

namespace fusedstep {

struct Isa {
    const char* name;         // "baseline", "avx2", "avx512"
    const char* description;  // what the name stands for on this architecture
    bool (*supported)();
    const KernelTable& (*table)();
};

// Everything in this build, lowest first; the first runs on every CPU of the architecture.
const std::vector<Isa>& built_isas();

// The names of those this machine can run, lowest first.
std::vector<std::string> available_isas();

// The active kernels: the highest available set, or FUSEDSTEP_ISA, or what set_isa chose.
const KernelTable& active_kernels();

// Bytes that a pass which sums asks for ahead; 0: those at hand. Most processors follow a stream by themselves no
// further than to the end of its page. Zen 4 follows it better than it can be asked to: passes that ask for 512 bytes
// ahead or more take 1.05 to 1.15 times as long there (see dispatch.cpp).
extern const std::size_t bytes_ahead;

// Throws std::invalid_argument when the name is unknown or this machine cannot run it.
void set_isa(const std::string& name);

}  // namespace fusedstep
