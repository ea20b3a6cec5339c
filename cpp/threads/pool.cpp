#include "pool.hpp"

#include <algorithm>
#include <chrono>
#include <system_error>

#include "float_environment.hpp"

#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace fusedstep {
namespace {

// How long an idle worker stays awake: a loop of small steps finds it ready, a training loop does not pay for it.
constexpr std::chrono::microseconds kAwake{50};

void relax() {
#if defined(_MSC_VER) && (defined(_M_X64) || defined(_M_IX86))
    _mm_pause();
#elif defined(_MSC_VER)
    __yield();
#elif defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void Pool::run(std::size_t chunks, int threads, Body body, void* context) noexcept {
    std::unique_lock<std::mutex> job(busy_, std::try_to_lock);
    if (job.owns_lock()) threads = 1 + grow(threads - 1);
    if (!job.owns_lock() || threads <= 1) {
        for (std::size_t chunk = 0; chunk < chunks; ++chunk) body(context, chunk);
        return;
    }
    body_ = body;
    context_ = context;
    threads_ = threads;
    shares_.deal(chunks, threads);
    inside_.store(0, std::memory_order_release);
    generation_.fetch_add(1);
    if (sleeping_.load() > 0) {
        {
            const std::lock_guard<std::mutex> lock(sleep_);
        }
        wake_.notify_all();
    }
    shares_.work(0, body, context);
    inside_.fetch_or(kClosed, std::memory_order_acq_rel);
    for (unsigned turn = 0; (inside_.load(std::memory_order_acquire) & ~kClosed) != 0; ++turn) {
        relax();
        if (turn > 10000) std::this_thread::yield();  // the worker may be waiting for this CPU
    }
}

void Pool::live(int self) noexcept {
    enter_default_floats();  // a new thread inherits what its maker has set
    std::uint64_t seen = 0;
    for (;;) {
        const auto since = std::chrono::steady_clock::now();
        while (generation_.load(std::memory_order_acquire) == seen) {
            for (int i = 0; i < 32; ++i) relax();
            if (std::chrono::steady_clock::now() - since < kAwake) continue;
            // The caller raises the generation and then looks for sleepers; this counts itself and then looks at the
            // generation: one of them sees the other.
            std::unique_lock<std::mutex> lock(sleep_);
            sleeping_.fetch_add(1);
            wake_.wait(lock, [&] { return generation_.load() != seen; });
            sleeping_.fetch_sub(1);
        }
        seen = generation_.load(std::memory_order_acquire);
        std::uint32_t now = inside_.load(std::memory_order_relaxed);
        while ((now & kClosed) == 0 && !inside_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
        }
        if ((now & kClosed) != 0) continue;
        if (self < threads_) shares_.work(self, body_, context_);
        inside_.fetch_sub(1, std::memory_order_release);
    }
}

// Makes sure of so many workers; returns how many there are to be used.
int Pool::grow(int workers) noexcept {
    if (!shares_.reserve(workers + 1)) return 0;
    try {
        while (workers_ < workers) {
            const int self = workers_ + 1;
            std::thread([this, self] { live(self); }).detach();
            ++workers_;
        }
    } catch (const std::exception&) {
        // No more threads or memory to be had: go on with those there are.
    }
    return std::min(workers, workers_);
}

}  // namespace fusedstep
