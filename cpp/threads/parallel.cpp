#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "count.hpp"
#include "openmp.hpp"
#include "pool.hpp"

#if !defined(_WIN32)
#include <dlfcn.h>
#include <pthread.h>
#endif
#if defined(__linux__)
#include <fstream>
#endif

namespace fusedstep {
namespace {

enum class Team { unset, pool, openmp };
constexpr Team kDefault = Team::pool;

std::atomic<Team> team{Team::unset};
std::atomic<Pool*> pool{nullptr};  // made at the first use, and never destroyed: its threads outlive main()
std::atomic<const OpenMP*> openmp{nullptr};
int openmp_threads = 0;  // its own setting when it was loaded

// Whether OpenMP's threads may have stayed behind in a parent process: in a child that was forked and did not start
// another program since. Noted at each fork, and for a fork before this library was loaded asked of the system.
std::atomic<bool> forked{false};

#if !defined(_WIN32)
const int watch_fork = pthread_atfork(nullptr, nullptr, [] {
    forked = true;
    pool = nullptr;
    if (team == Team::openmp) team = Team::pool;
});
#endif

bool forked_before() {
#if defined(__linux__)
    constexpr unsigned long kForkedWithoutExec = 0x40;  // PF_FORKNOEXEC
    std::ifstream file("/proc/self/stat");
    std::string text;
    std::getline(file, text);
    // The name of the program, in brackets, may hold anything; state and five numbers come before the flags.
    const std::size_t name_end = text.rfind(')');
    if (name_end == std::string::npos) return false;
    std::size_t at = name_end + 2;
    for (int field = 0; field < 6 && at != std::string::npos; ++field) {
        at = text.find(' ', at);
        if (at != std::string::npos) ++at;
    }
    return at != std::string::npos && (std::strtoul(text.c_str() + at, nullptr, 10) & kForkedWithoutExec) != 0;
#else
    return false;
#endif
}

std::string version(int specification) {
    switch (specification) {
        case 201511:
            return "4.5";
        case 201811:
            return "5.0";
        case 202011:
            return "5.1";
        default:
            return "of " + std::to_string(specification / 100);
    }
}

OpenMPFound load_openmp() {
    const OpenMP* found = nullptr;
    std::string reason = "this build has none";
#if defined(FUSEDSTEP_OPENMP_LINKED)
    found = fusedstep_openmp();
#elif defined(FUSEDSTEP_OPENMP_BESIDE)
    Dl_info here;
    std::string path = FUSEDSTEP_OPENMP_BESIDE;
    if (dladdr(reinterpret_cast<void*>(&find_openmp), &here) != 0) {
        const std::string self = here.dli_fname;
        path = self.substr(0, self.find_last_of('/') + 1) + path;
    }
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    void* entry = library == nullptr ? nullptr : dlsym(library, "fusedstep_openmp");
    if (entry != nullptr) {
        found = reinterpret_cast<const OpenMP* (*)() noexcept>(entry)();
    } else {
        const char* error = dlerror();
        reason = error == nullptr ? "it cannot be loaded" : error;
    }
#endif
    if (found == nullptr) return {"", reason};
    if (forked_before()) forked = true;
    openmp_threads = found->max_threads();
    openmp = found;
    std::string description = "OpenMP " + version(found->specification);
    const std::string file = found->runtime();
    if (!file.empty()) description += " (" + file.substr(file.find_last_of('/') + 1) + ")";
    return {description, ""};
}

Team named(const std::string& name, const char* source) {
    if (name == "pool") return Team::pool;
    if (name != "openmp")
        throw std::invalid_argument(std::string(source) + ": got '" + name + "', needs 'openmp' or 'pool'");
    if (find_openmp().description.empty())
        throw std::invalid_argument(std::string(source) +
                                    ": got 'openmp', needs 'pool'; there is no OpenMP: " + find_openmp().reason);
    return Team::openmp;
}

Team find_default() {
    const char* text = std::getenv("FUSEDSTEP_THREADING");
    const Team found = text == nullptr || *text == '\0' ? kDefault : named(text, "FUSEDSTEP_THREADING");
    return forked ? Team::pool : found;
}

Team current() {
    const Team set = team.load(std::memory_order_acquire);
    if (set != Team::unset) return set;
    const Team found = find_default();
    Team unset = Team::unset;
    team.compare_exchange_strong(unset, found);
    return team;
}

// A limit that was set through OpenMP holds here as well.
int limited(const OpenMP& runtime, int threads) {
    const int now = runtime.max_threads();
    return now < openmp_threads ? std::min(now, threads) : threads;
}

}  // namespace

void parallel_for(std::size_t chunks, int threads, Body body, void* context) noexcept {
    threads = static_cast<int>(std::min<std::size_t>(chunks, static_cast<std::size_t>(std::max(1, threads))));
    if (threads > 1 && current() == Team::openmp) {
        const OpenMP& runtime = *openmp.load(std::memory_order_acquire);
        runtime.run(chunks, limited(runtime, threads), body, context);
        return;
    }
    Pool* own = pool.load(std::memory_order_acquire);
    if (own == nullptr && threads > 1) {
        Pool* made = new (std::nothrow) Pool;
        if (made != nullptr && pool.compare_exchange_strong(own, made))
            own = made;
        else
            delete made;  // another thread was first; nobody has seen this one
    }
    if (own != nullptr && threads > 1) return own->run(chunks, threads, body, context);
    for (std::size_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
}

int openmp_cpus() {
    return current() == Team::openmp ? std::max(1, openmp.load(std::memory_order_acquire)->cpus()) : 0;
}

const char* threading() { return current() == Team::openmp ? "openmp" : "pool"; }

void set_threading(const std::string& name) {
    current();  // an error in the environment is not hidden by a choice
    const Team chosen = named(name, "name");
    if (chosen == Team::openmp && forked)
        throw std::invalid_argument(
            "threading: got 'openmp', needs 'pool' in a forked process; OpenMP's threads stay behind in its parent");
    team = chosen;
    forget_cpus();
}

const OpenMPFound& find_openmp() {
    static const OpenMPFound found = load_openmp();
    return found;
}

}  // namespace fusedstep
