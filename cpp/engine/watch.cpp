// Watched steps: what a step does to every tensor, summed up piece by piece while the piece is in the L1 cache.
#include <algorithm>
#include <cstring>
#include <optional>

#include "../dispatch.hpp"
#include "engine.hpp"
#include "scratch.hpp"
#include "streams.hpp"

namespace fusedstep {
namespace {

// Elements stepped and summed up at a time. While one piece is summed up, the next one comes from memory: with 256
// elements both are in the L1 cache, and a watched step of Adam over 5e7 takes 1.0 to 1.1 times as long as another;
// with a whole block 1.3 to 1.4 times.
constexpr std::size_t kWatched = 256;
// What is decoded takes longer to begin with than 256 elements to sum up: 8-bit states in the L2 cache 2.3 times as
// long as not watched, and with 1,024 elements 1.9 times.
constexpr std::size_t kWatchedDecoded = 1024;

// Exponents are counted of every element of small tensors, and in larger ones of a sixteenth: of each block 128
// neighbours, in one block after the other the next ones. Counting is scalar work, which nothing hides.
constexpr std::size_t kSamples = 128;
constexpr std::size_t kSampledFrom = kBlock / kSamples;  // blocks
static_assert(kBlock % kWatchedDecoded == 0 && kWatchedDecoded % kWatched == 0 && kWatched % kQuantBlock == 0);
static_assert(kWatched % kSamples == 0 && kWatched % kLanes == 0);

// Calls body(element, offset, n) for the pieces in which elements `begin` to `end` of a step lie in the parameter.
template <class Body>
void for_each_piece(const Tensor& x, std::size_t begin, std::size_t end, Body body) {
    if (x.rows == nullptr) return body(begin, std::size_t{0}, end - begin);
    for (std::size_t i = begin; i < end;) {
        const std::size_t row = i / x.row_size, n = std::min(end, (row + 1) * x.row_size) - i;
        body(static_cast<std::size_t>(x.rows[row]) * x.row_size + i % x.row_size, i - begin, n);
        i += n;
    }
}

Ahead ahead(const Stream& a, const Stream& b, std::size_t element) {
    return {{at(a, element), at(b, element)}, {width(a.format), width(b.format)}};
}

// A tensor's elements in the compute type.
class Reader {
public:
    Reader(const KernelTable& kernels, const Tensor& x) : kernels_(kernels), x_(x) {}

    // Those from `element` on, where they are or in `room`.
    const void* read(const Stream& stream, std::size_t element, std::size_t n, void* room) const {
        return stream.format == native(x_.compute) ? at(stream, element) : decoded(stream, element, n, room);
    }
    // Those of a step, always in `room`.
    const void* copy(const Stream& stream, std::size_t begin, std::size_t end, void* room) const {
        for_each_piece(x_, begin, end, [&](std::size_t element, std::size_t offset, std::size_t n) {
            decoded(stream, element, n, advanced(room, offset * width(native(x_.compute))));
        });
        return room;
    }

private:
    const void* decoded(const Stream& stream, std::size_t element, std::size_t n, void* room) const {
        const DecodeFn decode = kernels_.decode[static_cast<int>(stream.format)][x_.compute];
        if (stream.format == native(x_.compute))
            std::memcpy(room, at(stream, element), n * width(stream.format));
        else
            decode(at(stream, element), extra_at(stream, element), room, n);
        return room;
    }

    const KernelTable& kernels_;
    const Tensor& x_;
};

}  // namespace

void Engine::watch(bool watches) {
    watches_ = watches;
    block_sums_.assign(watches ? grad_sums_.size() : 0, {});
    sums_.assign(watches ? tensors.size() : 0, {});
    exponents_ = std::vector<std::atomic<std::uint32_t>>(watches ? tensors.size() * kExponents : 0);
}

// Steps the elements of a run, if `steps`, and sums up what becomes of them. Decoding reads what is stored: so an
// update that rounding swallows counts as none.
std::uint64_t Engine::update_watched(std::size_t t, std::size_t begin, std::size_t end, const StepOptions& options,
                                     bool steps) {
    const Tensor& x = tensors[t];
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const Reader reader(*kernels_, x);
    std::optional<Written> to;
    if (steps) to.emplace(written(t, options));
    Scratch scratch(Scratch::kWatch);
    constexpr std::size_t kRoom = kWatchedDecoded * sizeof(double);
    static_assert(3 * kRoom <= Scratch::kBytes);
    unsigned char* const memory = scratch.data();
    void *const before = memory, *const after = memory + kRoom, *const others = memory + 2 * kRoom;
    const Stream* counted = nullptr;
    if (steps && group.counted_state >= 0) {
        const auto state = static_cast<std::size_t>(group.counted_state);
        const RuleEntry& rule = kernels_->rules[group.rule];
        if (rule.used_states(constants_[constants_of_[t]].variant) >> state & 1u) counted = &x.states[state];
    }
    std::array<std::uint32_t, kExponents> exponents{};
    std::uint64_t nonfinite = 0;
    const bool counts_all = x.blocks() <= kSampledFrom;
    const std::size_t piece = to && to->plain ? kWatched : kWatchedDecoded;
    WatchedLanes lanes{};
    for (std::size_t i = begin, n; i < end; i += n) {
        n = std::min(piece, end - i);
        const std::size_t within = (x.before + i) % kBlock, block = (x.before + i) / kBlock;
        kernels_->add_gradient[x.compute](reader.read(x.grad, i, n, others), n, ahead(x.param, x.grad, i + n), lanes);
        reader.copy(x.param, i, i + n, before);
        if (to) nonfinite += update(*to, i, i + n, options);
        const void* const now =
            x.rows == nullptr ? reader.read(x.param, i, n, after) : reader.copy(x.param, i, i + n, after);
        kernels_->add_update[x.compute](before, now, n, ahead(x.states[0], x.states[1], i + n), lanes);
        if (within + n == kBlock || i + n == end) {
            block_sums_[first_block_[t] + block] = kernels_->combine(lanes);
            lanes = {};
        }
        if (counted == nullptr) continue;
        const std::size_t sampled = block % kSampledFrom * kSamples;  // of the block
        if (!counts_all && (sampled < within || sampled >= within + n)) continue;
        const std::size_t first = counts_all ? 0 : sampled - within;
        const std::size_t last = counts_all ? n : std::min(n, first + kSamples);
        const void* const values = x.rows == nullptr ? reader.read(*counted, i + first, last - first, others)
                                                     : reader.copy(*counted, i + first, i + last, others);
        kernels_->count_exponents[x.compute](values, last - first, exponents.data());
    }
    if (counted != nullptr)
        for (std::size_t e = 0; e < kExponents; ++e)
            if (exponents[e] != 0) exponents_[t * kExponents + e] += exponents[e];
    return nonfinite;
}

void Engine::begin_watched() {
    for (std::atomic<std::uint32_t>& count : exponents_) count = 0;
}

void Engine::add_up() {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Tensor& x = tensors[t];
        WatchedSums& sums = sums_[t] = {};
        if (x.grad.data == nullptr) continue;
        for (std::size_t b = 0; b < x.blocks(); ++b) {
            const WatchedSums& block = block_sums_[first_block_[t] + b];
            sums.grad += block.grad;
            sums.param += block.param;
            sums.update += block.update;
            sums.zeros += block.zeros;
            sums.nonfinite += block.nonfinite;
        }
    }
}

}  // namespace fusedstep
