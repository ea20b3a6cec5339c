#include "shares.hpp"

#include <new>

namespace fusedstep {

bool Shares::reserve(int threads) noexcept {
    if (threads <= room_) return true;
    Share* made = new (std::nothrow) Share[static_cast<std::size_t>(threads)];
    if (made == nullptr) return false;
    shares_.reset(made);
    room_ = threads;
    return true;
}

void Shares::deal(std::size_t chunks, int threads) noexcept {
    threads_ = threads;
    const auto n = static_cast<std::size_t>(threads);
    for (std::size_t k = 0; k < n; ++k) {
        shares_[k].end = chunks * (k + 1) / n;
        shares_[k].next.store(chunks * k / n, std::memory_order_relaxed);
    }
}

void Shares::work(int self, Body body, void* context) noexcept {
    for (int k = 0; k < threads_; ++k) {
        Share& share = shares_[static_cast<std::size_t>((self + k) % threads_)];
        // A share that is done is only read: it stays in everybody's cache.
        while (share.next.load(std::memory_order_relaxed) < share.end) {
            const std::size_t chunk = share.next.fetch_add(1, std::memory_order_relaxed);
            if (chunk >= share.end) break;
            body(context, chunk);
        }
    }
}

}  // namespace fusedstep
