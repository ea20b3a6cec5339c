// The OpenMP team as a library of its own that is loaded on request: the package works where there is no OpenMP
// runtime.
#pragma once
#include "shares.hpp"

namespace fusedstep {

struct OpenMP {
    int specification;  // yyyymm, as in _OPENMP

    // The file of the runtime that runs the teams; "" where that cannot be told.
    const char* (*runtime)() noexcept;

    // Threads of a team by OpenMP's own settings: OMP_NUM_THREADS, omp_set_num_threads, threadpoolctl.
    int (*max_threads)() noexcept;

    // CPUs of its places. It binds the main thread to one of them when it is loaded, whose affinity mask then holds
    // one.
    int (*cpus)() noexcept;

    // See parallel_for.
    void (*run)(std::size_t chunks, int threads, Body body, void* context) noexcept;
};

}  // namespace fusedstep

#if defined(_WIN32)
extern "C" const fusedstep::OpenMP* fusedstep_openmp() noexcept;
#else
extern "C" __attribute__((visibility("default"))) const fusedstep::OpenMP* fusedstep_openmp() noexcept;
#endif
