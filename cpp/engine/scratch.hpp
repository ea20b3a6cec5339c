// A thread's memory for intermediate values. Not on its stack, which Python lets be as small as 32 KiB.
#pragma once
#include <cstddef>
#include <memory>
#include <mutex>

namespace fusedstep {

class Scratch {
public:
    static constexpr std::size_t kBytes = 96 * 1024;
    enum Use : int { kStep, kWatch };

    explicit Scratch(Use use = kStep) : use_(use) {}
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    // The calling thread's memory, aligned to a cache line and good for as long as this object exists; a thread has one
    // such object of each use at a time. Where there is no memory for that, all such threads take turns with one that
    // always exists.
    unsigned char* data() noexcept { return data_ != nullptr ? data_ : take(); }

private:
    unsigned char* take() noexcept;

    Use use_;
    unsigned char* data_ = nullptr;
    std::unique_lock<std::mutex> turn_;
};

}  // namespace fusedstep
