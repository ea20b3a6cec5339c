// The loop that a step's threads share, and which team of threads runs it: OpenMP's or the package's own pool.
#pragma once
#include <cstddef>
#include <string>

#include "shares.hpp"

namespace fusedstep {

// Calls body(context, chunk) for every chunk from 0 to chunks - 1, each once and in no particular order, on up to
// `threads` threads, and returns when all are done. The caller is one of them. The other threads run in the default
// floating-point environment; the caller sets its own. Works in a forked child too, with threads of its own.
void parallel_for(std::size_t chunks, int threads, Body body, void* context) noexcept;

// "openmp" or "pool": what set_threading chose, else FUSEDSTEP_THREADING, else the default. A forked child has the
// pool: OpenMP's threads stay behind in its parent, and GNU's runtime waits for them for ever.
// std::invalid_argument if the variable holds anything else.
const char* threading();

// std::invalid_argument for another name, and where there is no OpenMP.
void set_threading(const std::string& name);

// The CPUs that OpenMP's threads may have, if they run the loops; 0 if the pool does.
int openmp_cpus();

// What set_threading("openmp") would use: "OpenMP 4.5 (libgomp.so.1)"; or "" and why there is none.
struct OpenMPFound {
    std::string description, reason;
};
const OpenMPFound& find_openmp();

}  // namespace fusedstep
