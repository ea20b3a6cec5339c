// What the pool's threads cost by themselves: seconds of a loop with nothing to do, for teams of 2 to 256 threads.
// benchmarks/scaling.py compiles and runs it. The arguments are the threads that there are and those of a loop.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "../cpp/threads/pool.hpp"

namespace {

std::atomic<std::size_t> done{0};

void nothing(void*, std::size_t) { done.fetch_add(1, std::memory_order_relaxed); }

// A chunk for each thread, and none ends before all have begun.
std::atomic<int> begun{0};
void meet(void* threads, std::size_t) {
    begun.fetch_add(1);
    while (begun.load() < *static_cast<int*>(threads)) std::this_thread::yield();
}

double now(clockid_t clock) {
    timespec t;
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Median wall microseconds of a loop, and the mean CPU microseconds that all threads spend on it and after it.
void measure(fusedstep::Pool& pool, int threads, int loops, std::chrono::microseconds pause) {
    const std::size_t chunks = static_cast<std::size_t>(threads) * 4;
    std::vector<double> wall;
    const std::size_t before = done;
    const double cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int loop = 0; loop < loops; ++loop) {
        if (pause.count() > 0) std::this_thread::sleep_for(pause);
        const double start = now(CLOCK_MONOTONIC);
        pool.run(chunks, threads, nothing, nullptr);
        wall.push_back(1e6 * (now(CLOCK_MONOTONIC) - start));
    }
    const double spent = 1e6 * (now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / loops;
    if (done - before != chunks * static_cast<std::size_t>(loops)) std::abort();
    std::nth_element(wall.begin(), wall.begin() + loops / 2, wall.end());
    std::printf(" %.2f %.2f", wall[static_cast<std::size_t>(loops / 2)], spent);
}

// Median wall microseconds until all threads have begun, from sleep.
void measure_waking(fusedstep::Pool& pool, int threads, int loops) {
    std::vector<double> wall;
    for (int loop = 0; loop < loops; ++loop) {
        std::this_thread::sleep_for(std::chrono::microseconds(5000));
        begun = 0;
        const double start = now(CLOCK_MONOTONIC);
        pool.run(static_cast<std::size_t>(threads), threads, meet, &threads);
        wall.push_back(1e6 * (now(CLOCK_MONOTONIC) - start));
    }
    std::nth_element(wall.begin(), wall.begin() + loops / 2, wall.end());
    std::printf(" %.2f", wall[static_cast<std::size_t>(loops / 2)]);
}

}  // namespace

int main(int count, char** values) {
    if (count != 3) return 2;
    const int there = std::atoi(values[1]), threads = std::atoi(values[2]);
    static fusedstep::Pool pool;  // its threads outlive main
    pool.run(static_cast<std::size_t>(there), there, nothing, nullptr);
    measure(pool, threads, 2000, std::chrono::microseconds(0));
    measure(pool, threads, 200, std::chrono::microseconds(5000));
    measure_waking(pool, threads, 200);
    std::printf("\n");
    std::fflush(stdout);
    std::_Exit(0);
}
