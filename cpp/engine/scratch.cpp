#include "scratch.hpp"

#include <new>

#include "../threads/static_tls.hpp"

namespace fusedstep {
namespace {

struct alignas(64) Bytes {
    unsigned char bytes[Scratch::kBytes];
};

Bytes shared;
std::mutex turns;

FUSEDSTEP_STATIC_TLS thread_local std::unique_ptr<Bytes> own;

}  // namespace

unsigned char* Scratch::take() noexcept {
    if (own == nullptr) own.reset(new (std::nothrow) Bytes);
    if (own == nullptr) turn_ = std::unique_lock<std::mutex>(turns);
    return data_ = own == nullptr ? shared.bytes : own->bytes;
}

}  // namespace fusedstep
