#include "count.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <thread>

#include "parallel.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fusedstep {
namespace {

std::atomic<int> chosen{0};  // 0: the default
std::atomic<int> cpus{0};    // that there are; 0: not counted yet
std::atomic<int> pretended{0};

// The first of the whole numbers from 1 to kMaxThreads that a text holds, spaces allowed around each: one number, or
// with `list` several between commas. 0 if the text is anything else.
int read_count(const char* text, bool list) {
    const auto skip_spaces = [&text] {
        while (*text == ' ' || (*text >= '\t' && *text <= '\r')) ++text;
    };
    int first = 0;
    for (;; ++text) {
        char* end = nullptr;
        errno = 0;
        const long n = std::strtol(text, &end, 10);
        if (end == text || errno != 0 || n < 1 || n > kMaxThreads) return 0;
        if (first == 0) first = static_cast<int>(n);
        text = end;
        skip_spaces();
        if (*text == '\0') return first;
        if (*text != ',' || !list) return 0;
    }
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
        if (!failed) return std::max(1, count);
    }
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int available_cpus() {
    const int places = openmp_cpus();
    return places > 0 ? places : cpus_of_affinity();
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
    if (const char* text = std::getenv("FUSEDSTEP_NUM_THREADS")) {
        if (const int n = read_count(text, false)) return {n, "FUSEDSTEP_NUM_THREADS"};
        throw std::invalid_argument(std::string("FUSEDSTEP_NUM_THREADS: got '") + text +
                                    "', needs a whole number from 1 to " + std::to_string(kMaxThreads));
    }
    // OpenMP's own variable: a list has a number for each level of nested regions, and other values are ignored.
    if (const char* text = std::getenv("OMP_NUM_THREADS"))
        if (const int n = read_count(text, true)) return {n, "OMP_NUM_THREADS"};
    const int present = available_cpus();
    const double quota = cgroup_quota();
    const int allowed = std::max(1, static_cast<int>(std::ceil(quota)));
    if (quota > 0 && allowed < present) return {allowed, "cgroup CPU quota"};
    return {present, "CPU affinity"};
}

}  // namespace

const ThreadDefault& default_threads() {
    if (openmp_cpus() > 0) {
        static const ThreadDefault with_openmp = find_default();
        return with_openmp;
    }
    static const ThreadDefault found = find_default();
    return found;
}

int num_threads() {
    const int n = chosen.load(std::memory_order_relaxed);
    return n > 0 ? n : default_threads().count;
}

void set_num_threads(int n) {
    default_threads();  // an error in the environment is not hidden by a choice
    if (n < 1 || n > kMaxThreads)
        throw std::invalid_argument("n: got " + std::to_string(n) + ", needs 1 to " + std::to_string(kMaxThreads));
    cpus = pretended = 0;
    chosen = n;
}

int team_size(std::uint64_t worth) {
    if (worth < 2) return 1;
    int present = pretended.load(std::memory_order_relaxed);
    if (present == 0) present = cpus.load(std::memory_order_relaxed);
    if (present == 0) {
        present = available_cpus();
        cpus.store(present, std::memory_order_relaxed);
    }
    return static_cast<int>(std::min(worth, static_cast<std::uint64_t>(std::min(present, num_threads()))));
}

void forget_cpus() { cpus = 0; }

void pretend_cpus(int n) { pretended = n; }

}  // namespace fusedstep
