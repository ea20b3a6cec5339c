// How many threads a step may use, and the loop they share.
#pragma once
#include <cstddef>
#include <string>

namespace fusedstep {

// The number of threads of a step: what set_num_threads chose, else the default below.
int num_threads();
constexpr int kMaxThreads = 4096;
void set_num_threads(int n);  // 1 to kMaxThreads; std::invalid_argument otherwise

// FUSEDSTEP_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may use (affinity mask and cgroup quota).
// `source` says which of them it was.
struct ThreadDefault {
    int count;
    std::string source;
};
const ThreadDefault& default_threads();

// Calls body(context, chunk) for every chunk from 0 to chunks - 1, each once and in no particular order, on up to
// `threads` threads, and returns when all are done. The caller is one of them. Works in a forked child too, with
// threads of its own.
void parallel_for(std::size_t chunks, int threads, void (*body)(void* context, std::size_t chunk),
                  void* context) noexcept;

}  // namespace fusedstep
