#include "dispatch.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(FUSEDSTEP_X86) && defined(_MSC_VER)  // clang-cl too: it links no library that knows the CPU
#include <immintrin.h>
#include <intrin.h>
#elif defined(FUSEDSTEP_X86)
#include <cpuid.h>
#endif

namespace fusedstep {

const KernelTable& table_baseline();
#if defined(FUSEDSTEP_X86)
const KernelTable& table_avx2();
const KernelTable& table_avx512();
#endif

namespace {

bool always() { return true; }

#if defined(FUSEDSTEP_X86)
#if defined(_MSC_VER)
// XCR0 says which registers the operating system saves: AVX needs bits 1 and 2, AVX-512 bits 5 to 7 as well.
bool saves_registers(unsigned long long mask) {
    int r[4];
    __cpuid(r, 1);
    const bool osxsave = (r[2] & (1 << 27)) != 0;
    return osxsave && (_xgetbv(0) & mask) == mask;
}
bool has_avx2() {
    int r1[4], r7[4];
    __cpuid(r1, 1);
    __cpuidex(r7, 7, 0);
    const int fma = 1 << 12, f16c = 1 << 29;
    return saves_registers(0x6) && (r7[1] & (1 << 5)) != 0 && (r1[2] & fma) != 0 && (r1[2] & f16c) != 0;
}
bool is_amd() {
    int r[4];
    __cpuid(r, 0);
    return r[1] == 0x68747541;  // "Auth"
}
bool has_avx512() {
    int r[4];
    __cpuidex(r, 7, 0);
    const int f = 1 << 16, dq = 1 << 17, bw = 1 << 30, vl = static_cast<int>(1u << 31);
    const int all = f | dq | bw | vl;
    return has_avx2() && saves_registers(0xE6) && (r[1] & all) == all;
}
#else
// GCC's and Clang's own check asks the operating system (XGETBV) too. Not all of them know F16C by name.
bool has_avx2() {
    unsigned a, b, c, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &a, &b, &c, &d) != 0 &&
           (c & (1u << 29)) != 0;
}
bool is_amd() { return __builtin_cpu_is("amd") != 0; }
bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif
#endif

// Over 1e8 elements (Zen 4, two threads), relative to asking for 2 KB ahead in passes that sum and 512 bytes in steps:
// Adam takes 0.9 times as long without, Adafactor 0.93. Relative to not asking, on an Intel Xeon: Adam 0.89, LAMB 0.95.
std::size_t best_ahead() {
#if defined(FUSEDSTEP_X86)
#if !defined(_MSC_VER)
    __builtin_cpu_init();
#endif
    if (is_amd() && has_avx512()) return 0;
#endif
    return 2048;
}

const Isa* find(const std::string& name) {
    for (const Isa& isa : built_isas())
        if (name == isa.name) return &isa;
    return nullptr;
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

const Isa& checked(const std::string& name, const char* source) {
    const Isa* isa = find(name);
    if (isa != nullptr && isa->supported()) return *isa;
    throw std::invalid_argument(std::string(source) + ": got '" + name +
                                (isa == nullptr ? "'" : "', which this machine cannot run") + ", needs one of " +
                                joined(available_isas()));
}

const KernelTable* initial() {
    const char* forced = std::getenv("FUSEDSTEP_ISA");
    if (forced != nullptr && *forced != '\0') return &checked(forced, "FUSEDSTEP_ISA").table();
    const Isa* best = nullptr;
    for (const Isa& isa : built_isas())
        if (isa.supported()) best = &isa;
    return &best->table();
}

std::atomic<const KernelTable*>& active() {
    static std::atomic<const KernelTable*> table{initial()};
    return table;
}

}  // namespace

const std::size_t bytes_ahead = best_ahead();

const std::vector<Isa>& built_isas() {
    static const std::vector<Isa> all = {
#if defined(FUSEDSTEP_X86)
        {"baseline", "SSE2", always, table_baseline},
        {"avx2", "AVX2, FMA, F16C", has_avx2, table_avx2},
        {"avx512", "AVX-512 F, BW, DQ, VL", has_avx512, table_avx512},
#elif defined(__aarch64__) || defined(_M_ARM64)
        {"baseline", "NEON", always, table_baseline},
#else
        {"baseline", "the compiler's default", always, table_baseline},
#endif
    };
    return all;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Isa& isa : built_isas())
        if (isa.supported()) names.emplace_back(isa.name);
    return names;
}

const KernelTable& active_kernels() { return *active().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) { active().store(&checked(name, "name").table()); }

}  // namespace fusedstep
