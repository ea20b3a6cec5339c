// How many threads a step may use, and the one parallel region it runs in.
#pragma once
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

// The runtime behind parallel(): for `python -m fusedstep info`.
std::string parallel_runtime();

// Runs body(context, thread, threads) on up to n threads and returns when all have. The caller is thread 0. In a
// forked child, where the parent's pool is gone, and without OpenMP, there is one thread.
void parallel(int n, void (*body)(void* context, int thread, int threads), void* context);

// Inside body: waits until every thread of the region is here.
void barrier();

}  // namespace fusedstep
