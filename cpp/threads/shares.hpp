// How the chunks of one loop are dealt out to the threads of a team, of whichever kind.
#pragma once
#include <atomic>
#include <cstddef>
#include <memory>

namespace fusedstep {

using Body = void (*)(void* context, std::size_t chunk);

class Shares {
public:
    // Makes room for so many threads; false without the memory for it.
    bool reserve(int threads) noexcept;

    // Gives every thread a share of the chunks. Call while no thread works.
    void deal(std::size_t chunks, int threads) noexcept;

    // Works on the thread's own share first, then on what is left of the others': the same thread thus sees the same
    // elements in every step, as far as it can, and finds them in its cache. Every chunk is taken once, whether all
    // threads come or one alone.
    void work(int self, Body body, void* context) noexcept;

private:
    struct alignas(64) Share {
        std::atomic<std::size_t> next{0};
        std::size_t end = 0;
    };
    std::unique_ptr<Share[]> shares_;
    int room_ = 0, threads_ = 0;
};

}  // namespace fusedstep
