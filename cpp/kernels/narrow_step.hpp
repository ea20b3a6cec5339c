// Steps over narrow storage in one pass: a rule's update on one vector of elements after another, the states
// decoded before it and encoded after it in registers. All rules have them.
//
// A conversion in a pass of its own waits for the vector units, the update for the divider. Together they take less:
// with 8-bit states Adam's step 0.59 ns an element in place of 0.85 (Zen 4, AVX-512, data in the cache). Everything
// else that a step may do (parameters and gradients of other formats, clipping, averaging, zeroing) is done block by
// block, between the loops: the same in the loop would be a branch for every vector, which costs more (0.1 ns an
// element).
#pragma once

#if defined(FUSEDSTEP_VEC)

// A state as the step sees it: `begin` of every block of 256 elements, load and store within it, `end`. `encode_late`
// is called as often as `store`, for the block before.

struct UnusedState {
    VEC_INLINE void start(const NarrowRun&, int, float (*)[kQuantBlock]) {}
    VEC_INLINE void begin(std::size_t) {}
    VEC_INLINE Vec load(std::size_t) const { return Vec{}; }
    VEC_INLINE void store(std::size_t, const Vec&) {}
    VEC_INLINE void encode_late(std::size_t) const {}
    VEC_INLINE std::size_t end() { return 0; }
};

// Numbers of type T, stored where they were or, in a dry run, in memory that nobody reads.
template <class T>
struct PlainState : UnusedState {
    T* all;
    T* at;
    T* to;
    T* spare;  // null: it is not a dry run
    VEC_INLINE void start(const NarrowRun& run, int state, float (*room)[kQuantBlock]) {
        all = static_cast<T*>(run.states[state].data);
        spare = run.largest != nullptr ? reinterpret_cast<T*>(room[0]) : nullptr;
    }
    VEC_INLINE void begin(std::size_t first) {
        at = all + first;
        to = spare != nullptr ? spare : at;
    }
};
struct ExactState : PlainState<float> {
    VEC_INLINE Vec load(std::size_t i) const { return get(at + i, Vec{}); }
    VEC_INLINE void store(std::size_t i, const Vec& x) { put(to + i, flushed(x)); }
};
template <bool>
struct FloatState : ExactState {};
template <bool>
struct HalfState : PlainState<std::uint16_t> {
    VEC_INLINE Vec load(std::size_t i) const { return Bfloat16::decode(get_bits(at + i, Vec{})); }
    VEC_INLINE void store(std::size_t i, const Vec& x) { put_bits(to + i, Bfloat16::encode(flushed(x))); }
};

// Values are kept until the block's largest is known; their codes are written while the next block is stepped, in the
// shadow of its divisions. They need no flushing: what is below the smallest normal number has the code of zero.
template <bool kSignedCode>
struct QuantState {
    using Code = Q8<kSignedCode>;
    std::uint8_t* all;
    std::uint8_t* codes;
    float* scales;
    float* scale;
    float decoding;
    VecU top;
    float* values;  // not a member array: the other members would then stay in memory with it
    // The block before: its elements, where its codes go, and what they are multiplied by.
    float* late_values;
    std::uint8_t* late_codes;
    float late_inverse;
    std::uint8_t* spare;  // for the codes of no block
    bool dry;

    // room: for two blocks of elements, and for those codes.
    VEC_INLINE void start(const NarrowRun& run, int state, float (*room)[kQuantBlock]) {
        dry = run.largest != nullptr;
        std::memset(room[1], 0, sizeof room[1]);
        all = static_cast<std::uint8_t*>(run.states[state].data);
        scales = static_cast<float*>(run.states[state].extra);
        values = room[0];
        late_values = room[1];
        late_codes = spare = reinterpret_cast<std::uint8_t*>(room[2]);
        late_inverse = 0;
    }
    VEC_INLINE void begin(std::size_t first) {
        codes = all + first;
        scale = scales + first / kQuantBlock;
        decoding = *scale;
        top = VecU{};
    }
    VEC_INLINE Vec load(std::size_t i) const { return Code::decode(get_bits(codes + i, Vec{}), decoding); }
    VEC_INLINE void store(std::size_t i, const Vec& x) {
        put(values + i, x);
        top = larger_bits(top, Code::size(x));
    }
    VEC_INLINE void encode_late(std::size_t i) const {
        put_bits(late_codes + i, Code::encode(get(late_values + i, Vec{}), late_inverse));
    }
    VEC_INLINE std::size_t end() {
        if (dry) return 0;
        const std::uint32_t largest = largest_lane(top);
        *scale = Code::scale(largest);
        late_inverse = Code::inverse(largest);
        float* const before = late_values;
        late_values = values;
        values = before;
        late_codes = codes;
        if (late_inverse != 0.0f) return 0;
        std::memset(codes, 0, kQuantBlock);
        late_codes = spare;
        return Code::nonfinite(largest);
    }
};

// In the place of a state that has one number for every row: what the row's elements are multiplied by.
struct RowState : UnusedState {
    const float* factor;
    std::size_t size, left;  // elements of a row, and what is left of this one
    float* values;
    VEC_INLINE void start(const NarrowRun& run, int, float (*room)[kQuantBlock]) {
        factor = run.row_factors;
        size = run.row_size;
        left = run.left_in_row;
        values = room[0];
    }
    VEC_NOINLINE void begin(std::size_t) {
        for (std::size_t i = 0; i < kQuantBlock;) {
            const std::size_t n = left < kQuantBlock - i ? left : kQuantBlock - i;
            for (std::size_t j = i; j < i + n; ++j) values[j] = *factor;
            i += n;
            left -= n;
            if (left == 0) ++factor, left = size;
        }
    }
    VEC_INLINE Vec load(std::size_t i) const { return get(values + i, Vec{}); }
};

// What keeps a state of a rule's variant. Moments are kept in the format of the step, and exact states in float32.
template <class Rule, int s>
constexpr bool kOfRows = Rule::kFactors.rows >= 0 && Rule::kFactors.columns < 0 && Rule::kFactors.elements == s;
template <bool kUsed, bool kMade, StateKind kKind, template <bool> class Moment>
struct KeptIn {
    using type = Moment<kKind == kSigned>;
};
template <bool kMade, StateKind kKind, template <bool> class Moment>
struct KeptIn<false, kMade, kKind, Moment> {
    using type = UnusedState;
};
template <StateKind kKind, template <bool> class Moment>
struct KeptIn<true, true, kKind, Moment> {
    using type = RowState;
};
template <template <bool> class Moment>
struct KeptIn<true, false, kExact, Moment> {
    using type = ExactState;
};
template <class Rule, unsigned V, int s>
constexpr bool kUses = s < kStatesOf<Rule> && (used_states<Rule>(V) >> s & 1u) != 0;
template <class Rule, unsigned V, template <bool> class Moment, int s>
using KeptState =
    typename KeptIn<kUses<Rule, V, s>, kOfRows<Rule, s>, Rule::kStates[kUses<Rule, V, s> ? s : 0].kind, Moment>::type;

// The arrays of a run, to ask for elements of the next block while the step is in this one. The processor's own
// prefetching goes by the misses that it sees, and with this much to do for each element it sees them late.
class NextBlock {
public:
    static constexpr std::size_t kElements = 64;  // asked for at a time

    VEC_NOINLINE explicit NextBlock(const NarrowRun& run) {
        add(run.param);
        add(run.grad);
        for (const Stream& state : run.states) add(state);
        if (run.ema != nullptr) add({run.ema, nullptr, Format::float32});
    }
    VEC_INLINE void fetch(std::size_t element) const {
        for (int k = 0; k < count_; ++k) {
            const char* const from = arrays_[k].data + (element + kQuantBlock) * arrays_[k].width;
            for (std::size_t line = 0; line < arrays_[k].width; ++line) __builtin_prefetch(from + line * kElements);
        }
    }

private:
    void add(const Stream& stream) {
        const FormatSizes sizes = kFormatSizes[static_cast<int>(stream.format)];
        if (stream.data != nullptr) arrays_[count_++] = {static_cast<const char*>(stream.data), sizes.item};
        if (sizes.extra != 0) arrays_[count_++] = {static_cast<const char*>(stream.extra), sizes.extra};
    }

    struct {
        const char* data;
        std::size_t width;
    } arrays_[5 + kMaxStates];
    int count_ = 0;
};

// The parameters and gradients of one block after the other as the loops take them: in float32, clipped.
class Blocks {
public:
    Blocks(const NarrowRun& run, double multiplier) : run_(run), multiplier_(multiplier) {}

    // Whether there is nothing to do between the loops.
    bool bare() const {
        return native(run_.param) && native(run_.grad) && !clips() && run_.ema == nullptr && !run_.zero_grads &&
               run_.largest == nullptr;
    }
    // The gradients are multiplied already.
    bool clips() const { return run_.clip_value < static_cast<double>(from_bits(kInfinity32)); }

    VEC_NOINLINE float* param(std::size_t first) {
        if (native(run_.param)) return static_cast<float*>(run_.param.data) + first;
        return decoded(run_.param, first, param_);
    }
    VEC_NOINLINE const float* grad(std::size_t first) {
        const float* const grad =
            native(run_.grad) ? static_cast<const float*>(run_.grad.data) + first : decoded(run_.grad, first, grad_);
        if (!clips()) return grad;
        table.prepare[kFloat](grad, multiplier_, run_.clip_value, grad_, kQuantBlock);
        return grad_;
    }
    VEC_NOINLINE void finish(std::size_t first, const float* param) const {
        if (run_.largest != nullptr) {
            *run_.largest = larger_bits(*run_.largest, table.largest(param, kQuantBlock));
            return;
        }
        if (!native(run_.param)) {
            const Noise noise{run_.noise.key, run_.noise.first + first};
            table.encode[static_cast<int>(run_.param.format)][kFloat](param, at(run_.param, first),
                                                                      extra_at(run_.param, first), kQuantBlock, noise);
        }
        if (run_.ema != nullptr) table.average[kFloat](run_.ema_decay, param, run_.ema + first, kQuantBlock);
        if (run_.zero_grads)
            std::memset(at(run_.grad, first), 0, kQuantBlock * kFormatSizes[static_cast<int>(run_.grad.format)].item);
    }

private:
    static bool native(const Stream& stream) { return stream.format == Format::float32; }
    static void* at(const Stream& stream, std::size_t i) {
        return static_cast<char*>(stream.data) + i * kFormatSizes[static_cast<int>(stream.format)].item;
    }
    static void* extra_at(const Stream& stream, std::size_t i) {
        if (stream.extra == nullptr) return nullptr;
        return static_cast<char*>(stream.extra) + i * kFormatSizes[static_cast<int>(stream.format)].extra;
    }
    static float* decoded(const Stream& stream, std::size_t i, float* to) {
        table.decode[static_cast<int>(stream.format)][kFloat](at(stream, i), extra_at(stream, i), to, kQuantBlock);
        return to;
    }

    const NarrowRun& run_;
    double multiplier_;
    alignas(64) float param_[kQuantBlock];
    alignas(64) float grad_[kQuantBlock];
};

// The constants of a rule, each in every lane.
template <class Rule, class V = Vec>
VEC_INLINE typename Rule::template Constants<V> broadcast_constants(const void* constants) {
    using Scalar = typename Rule::template Constants<float>;
    using Wide = typename Rule::template Constants<V>;
    static_assert(sizeof(Wide) == sizeof(Scalar) * kVecLanes, "constants must be of the compute type alone");
    float scalar[sizeof(Scalar) / sizeof(float)];
    std::memcpy(scalar, constants, sizeof scalar);
    Wide wide;
    for (std::size_t k = 0; k < sizeof(Scalar) / sizeof(float); ++k) {
        const Vec lanes = broadcast(scalar[k]);
        std::memcpy(reinterpret_cast<char*>(&wide) + k * sizeof lanes, &lanes, sizeof lanes);
    }
    return wide;
}

template <class Rule, unsigned V, template <bool> class Moment>
std::size_t step_narrow(const void* constants, double multiplier, const NarrowRun& run) {
    const auto c = broadcast_constants<Rule>(constants);
    Blocks blocks(run, multiplier);
    const bool bare = blocks.bare();
    const Vec scale = broadcast(blocks.clips() ? 1.0f : static_cast<float>(multiplier));
    const NextBlock next(run);
    constexpr int n_states = kStatesOf<Rule>;
    alignas(64) float room[n_states][3][kQuantBlock];
    KeptState<Rule, V, Moment, 0> s0;
    KeptState<Rule, V, Moment, 1> s1;
    KeptState<Rule, V, Moment, 2> s2;
    KeptState<Rule, V, Moment, 3> s3;
    s0.start(run, 0, room[0]);
    s1.start(run, 1, room[1 % n_states]);
    s2.start(run, 2, room[2 % n_states]);
    s3.start(run, 3, room[3 % n_states]);
    std::size_t nonfinite = 0;
    for (std::size_t first = 0; first < run.n; first += kQuantBlock) {
        float* const param = bare ? static_cast<float*>(run.param.data) + first : blocks.param(first);
        const float* const grad = bare ? static_cast<const float*>(run.grad.data) + first : blocks.grad(first);
        s0.begin(first);
        s1.begin(first);
        s2.begin(first);
        s3.begin(first);
        for (std::size_t i = 0; i < kQuantBlock; i += kVecLanes) {
            if (i % NextBlock::kElements == 0) next.fetch(first + i);
            Vec p = load<Vec>(param + i);
            const Vec g = scale * load<Vec>(grad + i);
            Vec a = s0.load(i), b = s1.load(i), d = s2.load(i), e = s3.load(i);
            apply<Rule, Vec, V>(c, p, g, a, b, d, e);
            store(param + i, p);
            s0.store(i, a);
            s1.store(i, b);
            s2.store(i, d);
            s3.store(i, e);
            s0.encode_late(i);
            s1.encode_late(i);
            s2.encode_late(i);
            s3.encode_late(i);
        }
        nonfinite += s0.end() + s1.end() + s2.end() + s3.end();
        if (!bare) blocks.finish(first, param);
    }
#pragma GCC unroll 1  // GCC 12 would write it out, in every one of these functions
    for (std::size_t i = 0; i < kQuantBlock; i += kVecLanes) {
        s0.encode_late(i);
        s1.encode_late(i);
        s2.encode_late(i);
        s3.encode_late(i);
    }
    return nonfinite;
}

// The step for a variant and the format of its moments, or null where there is none.
template <class Rule, unsigned V>
NarrowFn choose_narrow(Format moments) {
    bool any = false;
    for (int s = 0; s < kStatesOf<Rule>; ++s)
        any = any || ((used_states<Rule>(V) >> s & 1u) != 0 && Rule::kStates[s].kind != kExact);
    if (any && moments == Format::q8_signed) return step_narrow<Rule, V, QuantState>;
    if constexpr (kVecHalves) {
        if (moments == Format::float32 || !any) return step_narrow<Rule, V, FloatState>;
        if (moments == Format::bfloat16) return step_narrow<Rule, V, HalfState>;
    }
    return nullptr;
}
#endif
