// Keeps other threads out of an optimizer while one steps, saves, loads or changes it.
#pragma once
#include <atomic>
#include <cstdint>

namespace fusedstep {

// Free, or held by one thread of this process. A claim held by another process's thread does not count: a child forked
// in the middle of a step is free to step.
class Claim {
public:
    // Holds the claim for as long as it exists. A thread that holds it may take it again, but for anything during a
    // step. std::runtime_error that begins with `what` when it is taken: "state_dict()".
    class Guard {
    public:
        Guard(Claim& claim, const char* what, bool step);
        ~Guard();
        Guard(const Guard&) = delete;
        Guard& operator=(const Guard&) = delete;

    private:
        Claim& claim_;
        std::uint64_t held_, before_;
    };

private:
    std::atomic<std::uint64_t> holder_{0};  // 0: free; else kStep, the process's number, the thread's number
};

}  // namespace fusedstep
