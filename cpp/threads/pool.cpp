#include "pool.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "count.hpp"
#include "float_environment.hpp"

#if defined(_MSC_VER)
#include <intrin.h>
#endif

namespace fusedstep {
namespace {

// How long an idle worker stays awake: a loop of small steps finds it ready, a training loop does not pay for it.
constexpr std::chrono::microseconds kAwake{50};

constexpr std::uint64_t kJob = 1u << 13;
static_assert(kMaxThreads < static_cast<int>(kJob));

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
    next_bed_.store(0, std::memory_order_relaxed);
    shares_.deal(chunks, threads);
    inside_.store(0, std::memory_order_release);
    job_.store((job_.load(std::memory_order_relaxed) / kJob + 1) * kJob + static_cast<std::uint64_t>(threads));
    wake_one();
    shares_.work(0, work, this);
    inside_.fetch_or(kClosed, std::memory_order_acq_rel);
    for (unsigned turn = 0; (inside_.load(std::memory_order_acquire) & ~kClosed) != 0; ++turn) {
        relax();
        if (turn > 10000) std::this_thread::yield();  // the worker may be waiting for this CPU
    }
}

void Pool::work(void* pool, std::size_t chunk) {
    Pool& self = *static_cast<Pool*>(pool);
    self.wake_one();
    self.body_(self.context_, chunk);
}

// Wakes the next of the job's workers that sleeps. Called by the caller and by workers that have entered.
void Pool::wake_one() noexcept {
    const int workers = threads_ - 1;
    while (next_bed_.load(std::memory_order_relaxed) < workers) {
        const int next = next_bed_.fetch_add(1, std::memory_order_relaxed);
        if (next >= workers) return;
        // A worker notes that it sleeps and then looks for a job; a job is there before anyone looks into a bed. So one
        // of the two sees the other.
        Bed& bed = *beds_[static_cast<std::size_t>(next)];
        if (!bed.asleep.load()) continue;
        {
            const std::lock_guard<std::mutex> lock(bed.mutex);
        }
        bed.wake.notify_one();
        return;
    }
}

void Pool::live(int self, Bed& bed) noexcept {
    enter_default_floats();  // a new thread inherits what its maker has set
    std::uint64_t seen = 0;
    auto since = std::chrono::steady_clock::now();
    for (;;) {
        std::uint64_t job = job_.load();
        while (job == seen) {
            for (int i = 0; i < 32; ++i) relax();
            if (std::chrono::steady_clock::now() - since >= kAwake) {
                std::unique_lock<std::mutex> lock(bed.mutex);
                bed.asleep.store(true);
                bed.wake.wait(lock, [&] { return job_.load() != seen; });
                bed.asleep.store(false);
            }
            job = job_.load();
        }
        seen = job;
        if (self >= static_cast<int>(job % kJob)) continue;  // no reason to stay awake
        std::uint32_t now = inside_.load(std::memory_order_relaxed);
        while ((now & kClosed) == 0 && !inside_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
        }
        if ((now & kClosed) == 0) {
            if (self < threads_) {  // of the job that is open now, which may be a later one
                wake_one();
                shares_.work(self, work, this);
            }
            inside_.fetch_sub(1, std::memory_order_release);
        }
        since = std::chrono::steady_clock::now();
    }
}

// Makes sure of so many workers; returns how many there are to be used.
int Pool::grow(int workers) noexcept {
    if (!shares_.reserve(workers + 1)) return 0;
    try {
        while (static_cast<int>(beds_.size()) < workers) {
            beds_.push_back(std::make_unique<Bed>());
            try {
                std::thread([this, self = static_cast<int>(beds_.size()), bed = beds_.back().get()] {
                    live(self, *bed);
                }).detach();
            } catch (...) {
                beds_.pop_back();
                throw;
            }
        }
    } catch (const std::exception&) {
        // No more threads or memory to be had: go on with those there are.
    }
    return std::min(workers, static_cast<int>(beds_.size()));
}

}  // namespace fusedstep
