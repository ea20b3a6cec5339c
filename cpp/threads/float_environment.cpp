// Functions of their own rather than inline: a compiler moves no arithmetic on values from memory across their calls.
#include "float_environment.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#elif defined(_M_ARM64)
#include <intrin.h>
#endif

namespace fusedstep {

#if defined(__x86_64__) || defined(_M_X64)

// Writing MXCSR stalls, reading it does not: it is written where it differs alone, and not for the flags, which any
// arithmetic sets.
constexpr std::uint32_t kDefault = 0x1F80;  // all exceptions masked, round to nearest
constexpr std::uint32_t kFlags = 0x3F;      // exceptions that have occurred

FloatEnvironment enter_default_floats() noexcept {
    const std::uint32_t before = _mm_getcsr();
    if ((before & ~kFlags) != kDefault) _mm_setcsr(kDefault);
    return before;
}

void restore_floats(const FloatEnvironment& before) noexcept {
    if (((_mm_getcsr() ^ before) & ~kFlags) != 0) _mm_setcsr(before);
}

#elif defined(__aarch64__) || defined(_M_ARM64)

namespace {

#if defined(_M_ARM64)
constexpr int kControl = 0x5A20, kStatus = 0x5A21;  // ARM64_SYSREG(3, 3, 4, 4, 0) and (3, 3, 4, 4, 1)
std::uint64_t control() { return static_cast<std::uint64_t>(_ReadStatusReg(kControl)); }
std::uint64_t status() { return static_cast<std::uint64_t>(_ReadStatusReg(kStatus)); }
void set_control(std::uint64_t value) { _WriteStatusReg(kControl, static_cast<__int64>(value)); }
void set_status(std::uint64_t value) { _WriteStatusReg(kStatus, static_cast<__int64>(value)); }
#else
std::uint64_t control() {
    std::uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
}
std::uint64_t status() {
    std::uint64_t value;
    asm volatile("mrs %0, fpsr" : "=r"(value));
    return value;
}
void set_control(std::uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
void set_status(std::uint64_t value) { asm volatile("msr fpsr, %0" : : "r"(value)); }
#endif

}  // namespace

FloatEnvironment enter_default_floats() noexcept {
    const FloatEnvironment before{control(), status()};
    if (before.control != 0) set_control(0);
    return before;
}

void restore_floats(const FloatEnvironment& before) noexcept {
    if (control() != before.control) set_control(before.control);
    if (status() != before.status) set_status(before.status);
}

#else

FloatEnvironment enter_default_floats() noexcept {
    FloatEnvironment before;
    std::fegetenv(&before);
    std::fesetenv(FE_DFL_ENV);
    return before;
}

void restore_floats(const FloatEnvironment& before) noexcept { std::fesetenv(&before); }

#endif

}  // namespace fusedstep
