// The floating-point environment of a thread: rounding mode, flush-to-zero, denormals-are-zero, exception masks.
//
// Any library in the process may change it (torch.set_flush_denormal, fesetround, one built with -ffast-math), for the
// thread that calls it alone. A step must leave the same bits in any of them and on any thread.
#pragma once
#include <cstdint>

#if !(defined(__x86_64__) || defined(_M_X64) || defined(__aarch64__) || defined(_M_ARM64))
#include <cfenv>
#endif

namespace fusedstep {

#if defined(__x86_64__) || defined(_M_X64)
using FloatEnvironment = std::uint32_t;  // MXCSR
#elif defined(__aarch64__) || defined(_M_ARM64)
struct FloatEnvironment {
    std::uint64_t control, status;  // FPCR, FPSR
};
#else
using FloatEnvironment = std::fenv_t;
#endif

// Sets the default (round to nearest, subnormal numbers kept, no traps) and returns what was set before.
FloatEnvironment enter_default_floats() noexcept;

// Puts an environment back, exception flags included: nobody sees that arithmetic was done in between.
void restore_floats(const FloatEnvironment& before) noexcept;

// The default for the length of a scope.
class DefaultFloats {
public:
    DefaultFloats() noexcept : before_(enter_default_floats()) {}
    ~DefaultFloats() { restore_floats(before_); }
    DefaultFloats(const DefaultFloats&) = delete;
    DefaultFloats& operator=(const DefaultFloats&) = delete;

private:
    FloatEnvironment before_;
};

}  // namespace fusedstep
