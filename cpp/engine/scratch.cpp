#include "scratch.hpp"

#include <new>

#include "../threads/static_tls.hpp"

namespace fusedstep {
namespace {

struct alignas(64) Bytes {
    unsigned char bytes[Scratch::kBytes];
};

constexpr int kUses = 2;
Bytes shared[kUses];
std::mutex turns[kUses];

FUSEDSTEP_STATIC_TLS thread_local std::unique_ptr<Bytes> own[kUses];

}  // namespace

unsigned char* Scratch::take() noexcept {
    std::unique_ptr<Bytes>& mine = own[use_];
    if (mine == nullptr) mine.reset(new (std::nothrow) Bytes);
    if (mine == nullptr) turn_ = std::unique_lock<std::mutex>(turns[use_]);
    return data_ = mine == nullptr ? shared[use_].bytes : mine->bytes;
}

}  // namespace fusedstep
