// Sums over blocks put together with those of the other processes that step a model.
#include <algorithm>

#include "engine.hpp"

namespace fusedstep {

// body(place in the exchange, block) for the blocks whose sums this process has made.
template <class Body>
void Engine::for_each_own_block(Body body) const {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const Tensor& x = tensors[t];
        const std::size_t first = first_block_[t] + x.before / kBlock;
        for (std::size_t b = first; x.grad.data != nullptr && b < first + (x.size + kBlock - 1) / kBlock; ++b)
            body(exchanged_at(t, b), b);
    }
}

// body(place in the exchange, block, whether that block is to hold the sum of this place) for all blocks.
template <class Body>
void Engine::for_each_joined_block(Body body) const {
    for (std::size_t t = 0; t < tensors.size(); ++t) {
        const std::size_t end = t + 1 < tensors.size() ? first_block_[t + 1] : grad_sums_.size();
        for (std::size_t b = first_block_[t]; b < end; ++b)
            body(exchanged_at(t, b), b, !sums_of_tensors || b == first_block_[t]);
    }
}

// Puts the sums over this process's blocks together with the others'; whether all of these were finite.
bool Engine::join_gradient_sums(bool& finite) {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    const std::size_t n = exchanged_sums();
    for_each_own_block([&](std::size_t at, std::size_t b) {
        exchanged_[at] += grad_sums_[b].sum;
        exchanged_[n] += grad_sums_[b].finite ? 0 : 1;
    });
    if (!sum_over_peers(n + 1, 1)) return false;
    finite = exchanged_[n] == 0;
    for_each_joined_block(
        [&](std::size_t at, std::size_t b, bool first) { grad_sums_[b] = {first ? exchanged_[at] : 0, finite}; });
    return true;
}

bool Engine::join_pair_sums() {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    for_each_own_block([&](std::size_t at, std::size_t b) {
        exchanged_[2 * at] += pair_sums_[b].first;
        exchanged_[2 * at + 1] += pair_sums_[b].second;
    });
    if (!sum_over_peers(2 * exchanged_sums(), 0)) return false;
    for_each_joined_block([&](std::size_t at, std::size_t b, bool first) {
        pair_sums_[b] = first ? PairSum{exchanged_[2 * at], exchanged_[2 * at + 1]} : PairSum{0, 0};
    });
    return true;
}

// The first parameter that overflows in any process.
bool Engine::join_overflows(std::size_t& overflowed) {
    std::fill(exchanged_.begin(), exchanged_.end(), 0.0);
    if (overflowed != kNone) exchanged_[overflowed] = 1;
    if (!sum_over_peers(tensors.size(), tensors.size())) return false;
    overflowed = kNone;
    for (std::size_t t = tensors.size(); t-- > 0;)
        if (exchanged_[t] != 0) overflowed = t;
    return true;
}

}  // namespace fusedstep
