// The threads behind parallel_for.
//
// OpenMP's runtime waits at the end of a region for every thread of the team. Where another library's idle threads spin
// on the same CPUs (NumPy's OpenBLAS after each matrix product), a team thread may not get one for milliseconds, and a
// step of 20 microseconds took 2 to 6 milliseconds. Here the caller takes work like everybody else and at the end waits
// only for workers that began: a worker that gets no CPU costs nothing, its share is done by the others.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>

#include "shares.hpp"

namespace fusedstep {

class Pool {
public:
    // As parallel_for, for 2 threads or more and no more than chunks. The caller does it alone if another thread is
    // running a job just now.
    void run(std::size_t chunks, int threads, Body body, void* context) noexcept;

private:
    void live(int self) noexcept;
    int grow(int workers) noexcept;

    static constexpr std::uint32_t kClosed = 1u << 31;

    std::mutex busy_;  // held by the caller for the length of a job
    std::atomic<std::uint64_t> generation_{0};
    std::atomic<std::uint32_t> inside_{kClosed};  // workers in the job; closed: nobody may enter any more
    std::mutex sleep_;
    std::condition_variable wake_;
    std::atomic<int> sleeping_{0};

    // The job. Written by the caller while closed, read by workers that have entered.
    Body body_ = nullptr;
    void* context_ = nullptr;
    int threads_ = 0;
    Shares shares_;
    int workers_ = 0;
};

}  // namespace fusedstep
