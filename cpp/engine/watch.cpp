// Watched steps: what a step does to every tensor, summed up block by block while the block is in the L1 cache.
#include <algorithm>
#include <cstring>

#include "../dispatch.hpp"
#include "engine.hpp"
#include "scratch.hpp"
#include "streams.hpp"

namespace fusedstep {
namespace {

// Exponents are counted of every element of small tensors, and in larger ones of a sixteenth: of each block 128
// neighbours, in one block after the other the next ones. Counting is scalar work, which nothing hides.
constexpr std::size_t kSamples = 128;
constexpr std::size_t kSampledFrom = kBlock / kSamples;  // blocks

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
        return stream.format == native(x_.compute) ? at(stream, element) : copy(stream, element, n, room);
    }
    // Those of a step, always in `room`.
    const void* gather(const Stream& stream, std::size_t begin, std::size_t end, void* room) const {
        for_each_piece(x_, begin, end, [&](std::size_t element, std::size_t offset, std::size_t n) {
            copy(stream, element, n, advanced(room, offset * width(native(x_.compute))));
        });
        return room;
    }

private:
    const void* copy(const Stream& stream, std::size_t element, std::size_t n, void* room) const {
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
    Scratch scratch(Scratch::kWatch);
    constexpr std::size_t kRoom = kBlock * sizeof(double);
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
    for (std::size_t i = begin; i < end; i += kBlock) {
        const std::size_t n = std::min(kBlock, end - i), block = (x.before + i) / kBlock;
        BlockSums& sums = block_sums_[first_block_[t] + block];
        sums.grad =
            kernels_->sum_gradient[x.compute](reader.read(x.grad, i, n, others), n, ahead(x.param, x.grad, i + kBlock));
        reader.gather(x.param, i, i + n, before);
        if (steps) nonfinite += update(t, i, i + n, options);
        const void* const now =
            x.rows == nullptr ? reader.read(x.param, i, n, after) : reader.gather(x.param, i, i + n, after);
        sums.param = kernels_->sum_update[x.compute](before, now, n, ahead(x.states[0], x.states[1], i + kBlock));
        if (counted == nullptr) continue;
        const bool all = x.blocks() <= kSampledFrom;
        const std::size_t first = all ? 0 : block % kSampledFrom * kSamples;
        if (first >= n) continue;
        const std::size_t last = all ? n : std::min(n, first + kSamples);
        const void* const values = x.rows == nullptr ? reader.read(*counted, i + first, last - first, others)
                                                     : reader.gather(*counted, i + first, i + last, others);
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
        TensorSums& sums = sums_[t] = {};
        if (x.grad.data == nullptr) continue;
        for (std::size_t b = 0; b < x.blocks(); ++b) {
            const BlockSums& block = block_sums_[first_block_[t] + b];
            sums.grad += block.grad.squares;
            sums.zeros += block.grad.zeros;
            sums.nonfinite += block.grad.nonfinite;
            sums.param += block.param.first;
            sums.update += block.param.second;
        }
    }
}

}  // namespace fusedstep
