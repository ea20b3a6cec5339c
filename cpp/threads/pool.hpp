// The threads behind parallel_for.
//
// OpenMP's runtime waits at the end of a region for every thread of the team. Where another library's idle threads spin
// on the same CPUs (NumPy's OpenBLAS after each matrix product), a team thread may not get one for milliseconds, and a
// step of 20 microseconds took 2 to 6 milliseconds. Here the caller takes work like everybody else and at the end waits
// only for workers that began: a worker that gets no CPU costs nothing, its share is done by the others.
//
// Who is in a job wakes others: two before the first chunk and one before each further chunk, until all are awake. Many
// threads thus come in as many steps as their number has bits, and nobody's coming hangs on one that gets no CPU.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "shares.hpp"

namespace fusedstep {

class Pool {
public:
    // As parallel_for, for 2 threads or more and no more than chunks or kMaxThreads. The caller does it alone if
    // another thread is running a job just now.
    void run(std::size_t chunks, int threads, Body body, void* context) noexcept;

private:
    // Where one worker sleeps. Each has its own, so that a job wakes those that it wants and nobody else.
    struct alignas(64) Bed {
        std::mutex mutex;
        std::condition_variable wake;
        std::atomic<bool> asleep{false};
    };

    void live(int self, Bed& bed) noexcept;
    int grow(int workers) noexcept;
    void wake_one() noexcept;
    static void work(void* pool, std::size_t chunk);

    static constexpr std::uint32_t kClosed = 1u << 31;

    std::mutex busy_;  // held by the caller for the length of a job
    // A job's number times kJob, plus its threads: a worker that a job does not want sees that and stays away.
    std::atomic<std::uint64_t> job_{0};
    std::atomic<std::uint32_t> inside_{kClosed};  // workers in the job; closed: nobody may enter any more

    // The job. Written by the caller while closed, read by workers that have entered.
    Body body_ = nullptr;
    void* context_ = nullptr;
    int threads_ = 0;
    std::atomic<int> next_bed_{0};  // the first that nobody has looked into yet to wake its worker
    Shares shares_;
    std::vector<std::unique_ptr<Bed>> beds_;  // one for each worker
};

}  // namespace fusedstep
