#include "openmp.hpp"

#include <omp.h>

#include "float_environment.hpp"

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

namespace fusedstep {
namespace {

const char* runtime() noexcept {
#if !defined(_WIN32)
    Dl_info found;
    if (dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &found) != 0) return found.dli_fname;
#endif
    return "";
}

int max_threads() noexcept { return omp_get_max_threads(); }
int cpus() noexcept { return omp_get_num_procs(); }

// The runtime may give fewer threads than asked for (OMP_DYNAMIC, OMP_THREAD_LIMIT, a region around this one): those
// that come do the shares of the others.
void run(std::size_t chunks, int threads, Body body, void* context) noexcept {
    thread_local Shares shares;  // every caller has a team of its own
    if (!shares.reserve(threads)) {
        for (std::size_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
        return;
    }
    shares.deal(chunks, threads);
    Shares& dealt = shares;
#pragma omp parallel num_threads(threads)
    {
        // The team's threads belong to whoever used them last.
        const DefaultFloats guard;
        dealt.work(omp_get_thread_num(), body, context);
    }
}

}  // namespace
}  // namespace fusedstep

const fusedstep::OpenMP* fusedstep_openmp() noexcept {
    static constexpr fusedstep::OpenMP team{_OPENMP, fusedstep::runtime, fusedstep::max_threads, fusedstep::cpus,
                                            fusedstep::run};
    return &team;
}
