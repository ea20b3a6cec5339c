// How many threads a step may use, and who decided that.
#pragma once
#include <cstdint>
#include <string>

namespace fusedstep {

// The number of threads of a step: what set_num_threads chose, else the default below.
int num_threads();
constexpr int kMaxThreads = 4096;
void set_num_threads(int n);  // 1 to kMaxThreads; std::invalid_argument otherwise

// Threads for work that is worth `worth` of them: no more than num_threads(), nor than the CPUs of the affinity mask,
// or of OpenMP's places where its threads run the loops. More threads than CPUs wait for each other, and each costs a
// wake-up. They are counted at the first use and again after forget_cpus() and set_num_threads.
int team_size(std::uint64_t worth);
void forget_cpus();

// Takes so many CPUs for those of the mask, until set_num_threads: for tests of larger teams. 0: those there are.
void pretend_cpus(int n);

// FUSEDSTEP_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs this process may use (as above, and cgroup quota).
// `source` says which of them it was. std::invalid_argument if FUSEDSTEP_NUM_THREADS is no such number.
struct ThreadDefault {
    int count;
    std::string source;
};
const ThreadDefault& default_threads();

}  // namespace fusedstep
