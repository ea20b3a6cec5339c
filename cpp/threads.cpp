#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <new>
#include <stdexcept>
#include <thread>

#include "pool.hpp"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#elif defined(__APPLE__)
#include <pthread.h>
#endif

namespace fusedstep {
namespace {

std::atomic<int> chosen{0};        // 0: the default
std::atomic<Pool*> pool{nullptr};  // made at the first use, and never destroyed: its threads outlive main()

// The number in an environment variable; 0 when it is not set or not a positive integer. "4,2" (nested OpenMP) is 4.
int from_environment(const char* name) {
    const char* text = std::getenv(name);
    if (text == nullptr) return 0;
    char* end = nullptr;
    const long n = std::strtol(text, &end, 10);
    return end != text && (*end == '\0' || *end == ',') && n > 0 && n <= kMaxThreads ? static_cast<int>(n) : 0;
}

int cpus_of_affinity() {
#if defined(__linux__)
    // A machine with more than 1,024 CPUs wants a larger mask than cpu_set_t.
    for (int bits = 1024; bits <= 1 << 18; bits *= 2) {
        cpu_set_t* set = CPU_ALLOC(bits);
        const std::size_t bytes = CPU_ALLOC_SIZE(bits);
        const int failed = sched_getaffinity(0, bytes, set);
        const int count = failed ? 0 : CPU_COUNT_S(bytes, set);
        CPU_FREE(set);
        if (!failed) return count;
    }
#endif
    return static_cast<int>(std::thread::hardware_concurrency());
}

// CPUs' worth of time the control groups of this process allow, 0 without a limit. Every group up to the root counts;
// in a container the root of the file system is the container's own group.
double cgroup_quota() {
    double least = 0;
#if defined(__linux__)
    const auto note = [&least](double quota, double period) {
        if (quota > 0 && period > 0 && (least == 0 || quota / period < least)) least = quota / period;
    };
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        const std::size_t colon = line.find(':');
        const std::size_t slash = line.find(':', colon + 1);
        if (colon == std::string::npos || slash == std::string::npos) continue;
        const std::string controllers = line.substr(colon + 1, slash - colon - 1);
        const bool v2 = controllers.empty();
        if (!v2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
        for (std::string path = line.substr(slash + 1);; path.resize(path.find_last_of('/'))) {
            if (path == "/") path.clear();
            double quota = 0, period = 0;
            if (v2) {
                std::string text;
                std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
                if (file >> text >> period && text != "max") note(std::strtod(text.c_str(), nullptr), period);
            } else {
                const std::string folder = "/sys/fs/cgroup/cpu" + path;
                std::ifstream q(folder + "/cpu.cfs_quota_us"), p(folder + "/cpu.cfs_period_us");
                if (q >> quota && p >> period) note(quota, period);
            }
            if (path.empty() || path.find('/') == std::string::npos) break;
        }
    }
#endif
    return least;
}

ThreadDefault find_default() {
    for (const char* name : {"FUSEDSTEP_NUM_THREADS", "OMP_NUM_THREADS"})
        if (const int n = from_environment(name)) return {n, name};
    const int cpus = std::max(1, cpus_of_affinity());
    const double quota = cgroup_quota();
    const int allowed = std::max(1, static_cast<int>(std::ceil(quota)));
    if (quota > 0 && allowed < cpus) return {allowed, "cgroup CPU quota"};
    return {cpus, "CPU affinity"};
}

#if defined(__linux__) || defined(__APPLE__)
// The pool's threads stay behind in the parent: a child makes its own.
const int watch_fork = pthread_atfork(nullptr, nullptr, [] { pool = nullptr; });
#endif

}  // namespace

const ThreadDefault& default_threads() {
    static const ThreadDefault found = find_default();
    return found;
}

int num_threads() {
    const int n = chosen.load(std::memory_order_relaxed);
    return n > 0 ? n : default_threads().count;
}

void set_num_threads(int n) {
    if (n < 1 || n > kMaxThreads)
        throw std::invalid_argument("n: needs a number of threads from 1 to " + std::to_string(kMaxThreads));
    chosen = n;
}

void parallel_for(std::size_t chunks, int threads, void (*body)(void*, std::size_t), void* context) noexcept {
    Pool* current = pool.load(std::memory_order_acquire);
    if (current == nullptr) {
        Pool* made = new (std::nothrow) Pool;
        if (made == nullptr) {
            for (std::size_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
            return;
        }
        if (pool.compare_exchange_strong(current, made))
            current = made;
        else
            delete made;  // another thread was first; nobody has seen this one
    }
    current->run(chunks, threads, body, context);
}

}  // namespace fusedstep
