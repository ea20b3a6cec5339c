// The plain data that the engine and the per-ISA kernels hand each other.
//
// This header is compiled into every ISA's translation unit, so it holds declarations only: an inline function here
// could be emitted with AVX-512 instructions and chosen by the linker for a CPU that has none.
#pragma once
#include <cstddef>
#include <cstdint>

// The bits need one rounding per operation, to the operation's type: see docs/numerics.md. CMake sets the flags; these
// catch a build without them.
#if defined(_MSC_VER) && !defined(__clang__)
#pragma fp_contract(off)
#endif
#if defined(__FAST_MATH__) || defined(_M_FP_FAST)
#error "fusedstep cannot be compiled with fast math: its results would depend on the machine"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0 && __FLT_EVAL_METHOD__ != 16
#error "fusedstep needs arithmetic in float and double themselves: on 32-bit x86 compile with -msse2 -mfpmath=sse"
#endif

namespace fusedstep {

// How numbers lie in memory. The two native formats are also the compute types.
enum class Format : std::uint8_t {
    float32,
    float64,
    float16,
    bfloat16,
    float16_stochastic,   // read as float16, written with stochastic rounding
    bfloat16_stochastic,  // read as bfloat16, written with stochastic rounding
    split,                // bfloat16 and a signed 16-bit remainder: a float32 in two arrays
    float16_master,       // float16 and the float32 that it is the rounding of; where it is not, the float16 counts
    bfloat16_master,      // the same for bfloat16
    q8_signed,            // blocks of 256 codes with one float32 scale: first moments
    q8_unsigned,          // the same for second moments
};
constexpr int kFormats = 11;

// What the engine and the bindings know about a format: bytes of an element, and of an element of the second array
// (the remainder or the master) where there is one. 8-bit blocks have one float32 scale each instead.
struct FormatSizes {
    std::uint8_t item, extra;
};
constexpr FormatSizes kFormatSizes[kFormats] = {{4, 0}, {8, 0}, {2, 0}, {2, 0}, {2, 0}, {2, 0},
                                                {2, 2}, {2, 4}, {2, 4}, {1, 0}, {1, 0}};

enum Compute : int { kFloat = 0, kDouble = 1 };
constexpr int kComputes = 2;

// What a state may be stored as: kSigned and kUnsigned (a second moment) in every format, kExact in the compute type.
enum StateKind : int { kSigned, kUnsigned, kExact };
struct State {
    const char* name;
    StateKind kind;
};

constexpr int kMaxStates = 4;
constexpr int kMaxHypers = 16;
constexpr int kMaxScalars = 4;
constexpr std::size_t kConstantsBytes = 192;
constexpr std::size_t kBlock = 2048;      // elements: the unit of partition and of the partial sums
constexpr std::size_t kExponents = 256;   // of float32
constexpr std::size_t kQuantBlock = 256;  // elements that share one scale in the 8-bit formats

// Asks for the cache line of an address. MSVC's own compiler, which has another name for it, does without.
static inline void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#endif
}

constexpr std::size_t kLanes = 16;  // sums over a block are of as many numbers, each of every 16th element

// What has been gathered of a block's two sums so far.
struct PairLanes {
    double first[kLanes], second[kLanes];
};

// A run of elements in the compute type; states the variant does not use are null.
struct Run {
    void* param;
    const void* grad;
    void* states[kMaxStates];
    std::size_t n;
    void* direction = nullptr;   // only of a rule with a product
    double factor = 1;           // what a second moment in factors is multiplied by: the row's part
    PairLanes* lanes = nullptr;  // of a first pass: read and written where a second moment is in factors
    std::size_t ahead = 0;       // of a first pass: bytes that it asks for ahead
};

// The sum of squares of one block, and whether every element was finite.
struct BlockSum {
    double sum;
    bool finite;
};

// Two sums of squares: what the first pass of a rule with a trust ratio gathers from one block.
struct PairSum {
    double first, second;
};

// What a watched step has gathered of a block so far: sums of squares of the gradient, of the parameters after the step
// and of what it added to them; and elements of the gradient.
struct alignas(64) WatchedLanes {
    double grad[kLanes], param[kLanes], update[kLanes];
    std::uint32_t zeros[kLanes];
    std::uint32_t nonfinite;
};

// The same of a whole block, and of a whole tensor. Zeros where there was no gradient.
struct WatchedSums {
    double grad, param, update;
    std::uint64_t zeros, nonfinite;
};

// Two arrays whose elements, of these widths, are needed next.
struct Ahead {
    const void* data[2];
    std::size_t width[2];
};

// How a rule's weight decay enters: times the parameter into the gradient (L2), and what the parameter is multiplied
// by.
struct Decay {
    double l2, shrink;
};

// How a second moment in factors is advanced: the weights of the old one and of the new mean of squares, what is added
// to that mean, and the least mean that rows are divided by. Without means of columns, rows are multiplied by `unbias`
// before their roots are taken, and `eps` is added to these.
struct FactorWeights {
    double keep, take, inside, least, unbias, eps;
};
// Which states a second moment in factors is: the means of rows and those of columns, and the one in whose place the
// rule finds the inverse roots of its elements: a root and a division for every row and every column, and none for the
// elements. Where there are no means of columns, -1, every element of a row is the row's mean.
struct FactorStates {
    int rows = -1, columns = -1, elements = -1;
};
// Bit of the variant of a rule with columns: for matrices, whose second moment is in factors.
constexpr unsigned kFactored = 1;

using UpdateFn = void (*)(const void* constants, double multiplier, const Run& run);
using DirectionFn = PairSum (*)(const void* constants, double multiplier, const Run& run);

// Where the noise of stochastic rounding stands: the tensor's key of this step, and the run's first element.
struct Noise {
    std::uint64_t key;
    std::uint64_t first;
};

// Where one array lies. `extra` holds the scales (8-bit), the remainders (split) or the masters.
struct Stream {
    void* data = nullptr;
    void* extra = nullptr;
    Format format = Format::float32;
};

// A run of whole blocks of 256 elements as they are stored, and what is done with them beside the rule's update.
struct NarrowRun {
    Stream param, grad;
    Stream states[kMaxStates];  // moments all in 8 bits, bfloat16 or float32, those that are kExact in float32
    float* ema;                 // may be null
    double ema_decay, clip_value;
    bool zero_grads;
    // Of a second moment of rows alone: what the elements of every row are multiplied by, from the run's first row on,
    // how many elements a row has, and how many are left of the first.
    const float* row_factors;
    std::size_t row_size, left_in_row;
    // Not null: a dry run of a float16 parameter, which writes only this, the bits of the largest magnitude among the
    // new parameters (those of an infinity or NaN are larger than any number's).
    std::uint32_t* largest;
    Noise noise;
    std::size_t n;
};
// Returns the number of 8-bit blocks that held an infinity or NaN.
using NarrowFn = std::size_t (*)(const void* constants, double multiplier, const NarrowRun& run);

struct RuleEntry {
    const char* name;
    const char* const* hypers;  // keys of a parameter group, in the order of the array h below ("betas.0")
    int n_hypers;
    const State* states;
    int n_states;
    const char* const* scalars;  // per-tensor values that derive() advances, or trust()
    int n_scalars;
    bool norms;            // the update needs norms of the whole tensor first
    bool norm_param;       // whether these are made of the parameter too
    unsigned norm_states;  // bit mask over the states that they are made of
    bool whole;    // these are plain sums over all tensors of the rule, whose scalars are one: see Engine::agree
    bool product;  // the caller changes every tensor's direction before the update: see Engine::start
    unsigned (*variant)(const double* h, std::uint64_t step);
    unsigned (*used_states)(unsigned variant);  // bit mask over states
    void (*derive[kComputes])(const double* h, std::uint64_t step, double* scalars, void* constants);
    void (*trust[kComputes])(void* constants, const double* h, std::uint64_t step, double* scalars, double count,
                             double first, double second);
    // Null: the rule's steps cannot be cautious.
    Decay (*decay[kComputes])(const void* constants, unsigned variant);
    // Null for rules without factors.
    FactorWeights (*factors[kComputes])(const double* h, std::uint64_t step);
    FactorStates factor_states;
    const UpdateFn* update[kComputes];        // by variant
    const DirectionFn* direction[kComputes];  // by variant; null without norms
    const UpdateFn* aim[kComputes];           // by variant; null without a product: writes the run's direction alone
    // A step over narrow states in one pass, by the format of its moments (q8_signed: the 8-bit format of each), or
    // null. `param`: bfloat16, bfloat16_stochastic or split where the gradient is bfloat16 and nothing else is to be
    // done, and the moments may be float32 too; float32 for all else.
    NarrowFn (*narrow)(unsigned variant, Format moments, Format param);
};

// decode: storage to compute type; `extra` is the scales of an 8-bit stream or the remainders of a split one.
// encode: back again; returns how many blocks (8-bit) or elements (float16) could not hold a finite value.
using DecodeFn = void (*)(const void* data, const void* extra, void* out, std::size_t n);
using EncodeFn = std::size_t (*)(const void* in, void* data, void* extra, std::size_t n, Noise noise);

struct KernelTable {
    const char* isa;
    const RuleEntry* rules;
    int n_rules;
    DecodeFn decode[kFormats][kComputes];
    EncodeFn encode[kFormats][kComputes];
    BlockSum (*sum_squares[kComputes])(const void* x, std::size_t n, std::size_t ahead);  // n <= kBlock
    void (*prepare[kComputes])(const void* grad, double multiplier, double clip, void* out, std::size_t n);
    void (*average[kComputes])(double decay, const void* param, void* ema, std::size_t n);
    // Cautious steps (Engine::caution()): grad += l2 * param; how many steps go against their gradient; and
    // param = shrink * param + scale * step for these, without the step for all others.
    void (*add_decay[kComputes])(double l2, const void* param, void* grad, std::size_t n);
    std::size_t (*count_descents[kComputes])(const void* step, const void* grad, std::size_t n);
    void (*descend[kComputes])(Decay decay, double scale, const void* step, const void* grad, void* param,
                               std::size_t n);
    // Second moments in factors (Engine::sum_factors()): of `count` rows of n elements, `stride` elements apart, adds
    // the squares to `columns` and their sums to `rows`, each as sum_squares has it; and out = factor * x.
    void (*add_squares[kComputes])(const void* x, std::size_t stride, std::size_t count, double* columns, double* rows,
                                   std::size_t n, std::size_t ahead);
    void (*multiply[kComputes])(double factor, const void* x, void* out, std::size_t n);
    // The bits of the largest magnitude; those of an infinity or NaN are larger than any number's.
    std::uint32_t (*largest)(const float* x, std::size_t n);
    // Of a watched step: elements from a multiple of kLanes in a block on.
    void (*add_gradient[kComputes])(const void* grad, std::size_t n, const Ahead& ahead, WatchedLanes& lanes);
    void (*add_update[kComputes])(const void* before, const void* after, std::size_t n, const Ahead& ahead,
                                  WatchedLanes& lanes);
    WatchedSums (*combine)(WatchedLanes& lanes);
    void (*count_exponents[kComputes])(const void* x, std::size_t n, std::uint32_t* counts);  // kExponents counts
    // The memory traffic of a step without its arithmetic: the yardstick of the benchmarks.
    void (*add_one)(float* x, std::size_t n);
    float (*sum)(const float* x, std::size_t n);
};

}  // namespace fusedstep
