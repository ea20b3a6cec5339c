#include "claim.hpp"

#include "../threads/static_tls.hpp"

#if defined(__linux__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include <stdexcept>
#include <string>

namespace fusedstep {
namespace {

// holder_: bit 63 while a step is taken, bits 32 to 62 the number of forks, bits 0 to 31 the thread.
constexpr std::uint64_t kStep = std::uint64_t{1} << 63;

std::atomic<std::uint64_t> forks{0};

#if defined(__linux__) || defined(__APPLE__)
const int watch_fork = pthread_atfork(nullptr, nullptr, [] { ++forks; });
#endif

std::uint64_t process_bits() { return (forks.load(std::memory_order_relaxed) << 32) & ~kStep; }

std::uint64_t thread_bits() {
    static std::atomic<std::uint32_t> threads{0};
    FUSEDSTEP_STATIC_TLS thread_local std::uint32_t number = 0;
    while (number == 0) number = ++threads;
    return number;
}

}  // namespace

Claim::Guard::Guard(Claim& claim, const char* what, bool step) : claim_(claim), before_(0) {
    const std::uint64_t process = process_bits(), mine = process | thread_bits();
    held_ = mine | (step ? kStep : 0);
    std::uint64_t seen = 0;
    while (!claim.holder_.compare_exchange_strong(seen, held_, std::memory_order_acquire)) {
        const bool other_process = ((seen ^ process) & ~kStep) >> 32 != 0;
        if (other_process || seen == 0) continue;  // its thread does not exist here
        if (seen == mine) continue;
        const std::string name(what);
        if (seen == (mine | kStep)) throw std::runtime_error(name + ": called during a step of this optimizer");
        if ((seen & kStep) != 0)
            throw std::runtime_error(name + ": another thread is taking a step with this optimizer");
        throw std::runtime_error(name + ": another thread is saving, loading or changing this optimizer");
    }
    before_ = seen == mine ? mine : 0;
}

Claim::Guard::~Guard() {
    // A child forked while this was held has already dropped it.
    std::uint64_t expected = held_;
    claim_.holder_.compare_exchange_strong(expected, before_, std::memory_order_release, std::memory_order_relaxed);
}

}  // namespace fusedstep
