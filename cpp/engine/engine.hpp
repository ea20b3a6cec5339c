// One optimizer step over a whole model: a list of tensors as one index space, cut into blocks, shared by threads.
//
// The engine knows nothing of Python and nothing of arithmetic: the active kernel table does the sums.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <vector>

#include "../types.hpp"
#include "visible.hpp"

namespace fusedstep {

// Hyper-parameters shared by some tensors.
struct Group {
    int rule = 0;
    std::array<double, kMaxHypers> hypers{};
    bool maximize = false;
    bool cautious = false;  // only of a rule that has a decay()
    double clip_value = std::numeric_limits<double>::infinity();
    double ema_decay = 0;    // used by tensors that have an average
    int counted_state = -1;  // of which a watched step counts the exponents
};

// Of a tensor whose second moment is in factors: `batches` matrices, one after the other, and memory for what comes
// next (Engine::place_factors()).
struct Factors {
    FactorStates states;
    std::size_t batches = 0, rows = 0, columns = 0;
    void *next_rows = nullptr, *next_columns = nullptr;        // in the compute type, as the states
    void *inverse_rows = nullptr, *inverse_columns = nullptr;  // whose product is the inverse root of an element
    double* sums = nullptr;  // where there are several chunks or blocks: by columns, without columns by rows

    bool any() const { return batches != 0; }
};

struct Tensor {
    std::size_t size = 0;  // elements
    int group = 0;
    std::uint64_t index = 0;      // its number in the model: a part of the key of the noise
    Visible<std::uint64_t> step;  // steps taken
    Compute compute = kFloat;
    Stream param;
    Stream grad;  // data == nullptr: no gradient this time, leave the tensor alone
    // Only some rows have a gradient, and `grad` holds those alone: `row_count` ascending numbers of rows of
    // `row_size` elements. Null: all of them.
    const std::int64_t* rows = nullptr;
    std::size_t row_count = 0, row_size = 0;
    std::array<Stream, kMaxStates> states{};
    Factors factors;
    void* ema = nullptr;  // average of the parameters, in the compute type
    // Of a rule with a product: where start() writes the direction and finish() reads what has become of it, in any
    // format; and the norm that the direction had.
    Stream direction;
    double direction_norm = 0;
    Visible<std::uint64_t> descents;  // elements whose step goes against their gradient, if steps are cautious
    std::array<Visible<double>, kMaxScalars> scalars{};
    // Elements of the tensor before and after this one, where it is one process's piece of a tensor; whole blocks lie
    // before it.
    std::size_t before = 0, after = 0;

    // Whether a state that a step uses is missing; one in factors is made of others.
    bool lacks_state(int s) const {
        return state(s).data == nullptr && !(factors.any() && s == factors.states.elements);
    }
    const Stream& state(int s) const { return states[static_cast<std::size_t>(s)]; }
    // Elements that a step goes over.
    std::size_t steps_over() const { return rows == nullptr ? size : row_count * row_size; }
    // Blocks of the tensor that this is a piece of.
    std::size_t blocks() const { return (before + steps_over() + after + kBlock - 1) / kBlock; }
};

// What holds for every tensor of one step.
struct StepOptions {
    double grad_scale = 1;          // gradients are divided by it
    Visible<double> max_grad_norm;  // 0: no clipping by norm
    Visible<bool>
        clip_exactly;  // divide by the norm itself, and let an infinite one make everything NaN, as Keras does
    Visible<bool> skip_nonfinite;
    Visible<bool> zero_grads;
    Visible<std::uint64_t> seed;  // of the noise of stochastic rounding
    bool watch = false;           // sum up what the step does; after Engine::watch(true)
};

// The other processes that step one model together, each a piece of every tensor. Called on the thread that called
// step(); false ends the step.
class Peers {
public:
    virtual ~Peers() = default;
    // Waits for the gradients of one of the buckets.
    virtual bool receive(std::size_t bucket) noexcept = 0;
    // Adds up what all processes have. The last `flags` of the values are not sums: above 0 in one process, they become
    // so in all. Sums of blocks: of each value all but one process have a zero, so the order does not matter.
    virtual bool sum(double* values, std::size_t n, std::size_t flags) noexcept = 0;
    // One bucket's parameters are stepped.
    virtual bool send(std::size_t bucket) noexcept = 0;
};

// The end of a bucket: the elements before this one, in the order of the tensors. Between blocks of a tensor.
struct BucketEnd {
    std::size_t tensor, element;
};

constexpr std::size_t kNone = static_cast<std::size_t>(-1);

struct StepResult {
    bool taken = true;    // false: nothing was changed, as a scaled gradient was not finite or a parameter overflowed
    bool failed = false;  // a peer did not answer: parameters may be stepped in part
    std::size_t overflowed = kNone;      // the float16 parameter that the step would have made infinite
    double grad_norm = -1;               // of the unscaled gradients; only known with max_grad_norm or skip_nonfinite
    std::uint64_t nonfinite_blocks = 0;  // 8-bit blocks that held an infinity or NaN
};

class Engine {
public:
    std::vector<Group> groups;
    std::vector<Tensor> tensors;
    // Of a model that several processes step; null and empty otherwise.
    Peers* peers = nullptr;
    std::vector<BucketEnd> buckets;
    // What peers add up: one value of each tensor, of which every process has a part cut anywhere; otherwise one of
    // each block, so that the sum over the blocks is that of one process.
    bool sums_of_tensors = false;

    // Call after tensors were added and before the next step.
    void prepare();

    // Takes one step in place. Everything must have been checked: this neither throws nor allocates.
    StepResult step(const StepOptions& options) noexcept;

    // The same in two parts. Where has_products(), the caller changes the directions of the tensors in between, and
    // calls finish() or, as long as nothing is written, take_back(); none of it if start() has not taken the step.
    StepResult start(const StepOptions& options) noexcept;
    void finish(const StepOptions& options, StepResult& result) noexcept;
    void take_back();
    bool has_products() const { return products_; }

    // Makes or frees memory for what watched steps sum up.
    void watch(bool watches);
    // Of the last watched step: of each tensor, and its counts of exponents (kExponents).
    const std::vector<WatchedSums>& sums() const { return sums_; }
    const std::vector<std::atomic<std::uint32_t>>& exponents() const { return exponents_; }

    // Whether some tensor is computed in float32.
    bool single() const { return single_; }

    // Elements in all tensors: what a caller weighs the cost of a step by.
    std::size_t elements() const { return elements_; }

private:
    struct alignas(64) Constants {
        unsigned char bytes[kConstantsBytes];
        double multiplier;
        Decay decay;   // only of a cautious step, as what follows
        double scale;  // of the elements that are stepped
        unsigned variant;
    };
    struct Place {
        std::size_t tensor, element;
    };
    void partition();
    Place place(std::uint64_t cost) const;
    template <class Body>
    void for_each_run(std::uint64_t from, std::uint64_t to, Body& body) const;
    template <class Body>
    void share(Body body) const;
    template <class Body>
    void share(std::uint64_t from, std::uint64_t to, Body body) const;
    std::uint64_t cost_before(const BucketEnd& end) const;
    // Whether gradients are read more than once, so that all are waited for first.
    bool receives_first(const StepOptions& options) const {
        return peers != nullptr &&
               (options.max_grad_norm > 0 || options.skip_nonfinite || norms_ || cautious_ || half_);
    }
    // Where the sum over a block is exchanged, and how many such places there are.
    std::size_t exchanged_at(std::size_t t, std::size_t block) const { return sums_of_tensors ? t : block; }
    std::size_t exchanged_sums() const { return sums_of_tensors ? tensors.size() : grad_sums_.size(); }
    template <class Body>
    void for_each_own_block(Body body) const;
    template <class Body>
    void for_each_joined_block(Body body) const;
    bool sum_over_peers(std::size_t n, std::size_t flags) { return peers->sum(exchanged_.data(), n, flags); }
    bool join_gradient_sums(bool& finite);
    bool join_pair_sums();
    bool join_overflows(std::size_t& overflowed);
    template <class Body>
    bool step_buckets(bool received, Body body);
    void sum_gradients(std::size_t t, std::size_t begin, std::size_t end);
    void decide(const StepOptions& options, StepResult& result);
    bool stays_finite(double multiplier, double norm, StepResult& result);
    void derive(const StepOptions& options, double coefficient);
    void agree(bool stepped);
    bool overflows(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options);
    void place_factors();
    void sum_factors(std::size_t t, std::size_t begin, std::size_t end);
    void sum_rows(std::size_t t, std::size_t begin, std::size_t end);
    void advance_factors();
    void store_factors();
    void sum_directions(std::size_t t, std::size_t begin, std::size_t end);
    bool trust();
    void count_descents(std::size_t t, std::size_t begin, std::size_t end);
    bool caution();
    void aim(std::size_t t, std::size_t begin, std::size_t end);
    struct Written {
        const Tensor& x;
        const Group& group;
        const RuleEntry& rule;
        const Constants& c;
        unsigned used;  // of the states
        UpdateFn kernel;
        bool plain;
        NarrowFn narrow;
        Noise noise;
    };
    Written written(std::size_t t, const StepOptions& options) const;
    std::uint64_t update(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options) const;
    std::uint64_t update(const Written& to, std::size_t begin, std::size_t end, const StepOptions& options) const;
    std::uint64_t update_span(const Written& to, std::size_t element, std::size_t grad_element, std::size_t size,
                              const StepOptions& options) const;
    std::uint64_t update_watched(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options,
                                 bool steps);
    void begin_watched();
    void add_up();

    const KernelTable* kernels_ = nullptr;
    std::size_t elements_ = 0;
    bool from_memory_ = false;  // a step's data are more than caches hold, and memory is asked for ahead
    bool single_ = false;       // some tensor is computed in float32
    bool norms_ = false;        // some rule has a trust ratio
    bool factors_ = false;      // some second moment is in factors
    bool whole_ = false;        // some rule has sums over the whole model
    bool products_ = false;     // some rule has a product
    bool cautious_ = false;     // some group's steps are cautious
    bool half_ = false;         // some parameter is stored in float16, which ends at 65504
    std::vector<std::array<Visible<double>, kMaxScalars>>
        scalars_before_;                       // of every tensor, only where a step may be taken back
    std::vector<std::uint64_t> cost_;          // cumulative, per tensor; size tensors + 1
    std::vector<std::uint64_t> active_;        // one bit per tensor with a gradient: what cost_ was made for
    bool rows_ = false;                        // some gradient was of rows: cost_ holds for that step alone
    std::vector<std::size_t> first_block_;     // of each tensor in the arrays of partial sums
    std::vector<BlockSum> grad_sums_;          // per block
    std::vector<PairSum> pair_sums_;           // per block, only with norms_
    std::vector<double> counted_;              // per tensor, of cautious steps: descents and elements
    std::vector<double> exchanged_;            // what peers add up
    std::vector<Constants> constants_;         // those in use come first
    std::vector<std::uint32_t> constants_of_;  // per tensor
    std::vector<double> factor_memory_;        // of what comes next in factors
    bool watches_ = false;
    std::vector<WatchedSums> block_sums_;  // per block, only while steps are watched, as the next two
    std::vector<WatchedSums> sums_;
    std::vector<std::atomic<std::uint32_t>> exponents_;
};

}  // namespace fusedstep
