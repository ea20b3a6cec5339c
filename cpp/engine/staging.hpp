// One piece of a tensor as the kernels take it: parameter, gradient and states in the compute type.
#pragma once
#include <cmath>
#include <cstring>

#include "engine.hpp"
#include "factors.hpp"
#include "scratch.hpp"
#include "streams.hpp"

namespace fusedstep {

// Elements decoded at a time: parameter, gradient and states of a piece stay in the L1 cache. Passes that sum take
// whole blocks.
inline constexpr std::size_t kPiece = 1024;

// The streams of one piece in the compute type: where they lie when they are stored so, else decoded into scratch.
template <std::size_t kLength>
class Staging {
public:
    Staging(const KernelTable& kernels, Compute compute)
        : kernels_(kernels), compute_(compute), native_(native(compute)) {}

    bool staged(const Stream& stream) const { return stream.format != native_; }

    void* load(const Stream& stream, std::size_t element, std::size_t n, int slot) {
        if (!staged(stream)) return at(stream, element);
        void* out = scratch(slot);
        decode(stream.format)(at(stream, element), extra_at(stream, element), out, n);
        return out;
    }

    std::size_t store(const Stream& stream, std::size_t element, std::size_t n, const void* values, Noise noise) const {
        noise.first += element;
        return kernels_.encode[static_cast<int>(stream.format)][compute_](values, at(stream, element),
                                                                          extra_at(stream, element), n, noise);
    }

    // The same, but always a copy that may be written.
    void* load_copy(const Stream& stream, std::size_t element, std::size_t n, int slot) {
        void* loaded = load(stream, element, n, slot);
        if (!staged(stream)) loaded = std::memcpy(scratch(slot), loaded, n * width(native_));
        return loaded;
    }

    void* scratch(int slot) { return scratch_.data() + static_cast<std::size_t>(slot) * kLength * sizeof(double); }

private:
    DecodeFn decode(Format format) const { return kernels_.decode[static_cast<int>(format)][compute_]; }

    const KernelTable& kernels_;
    Compute compute_;
    Format native_;
    static_assert((2 + kMaxStates) * kLength * sizeof(double) <= Scratch::kBytes);
    Scratch scratch_;
};

// The states of a run of elements; where one is in factors, its elements in its place. `copies`: those may be written.
template <std::size_t kLength>
void load_states(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, unsigned used,
                 std::size_t element, Run& run, bool copies = false) {
    for (int s = 0; s < kMaxStates; ++s) {
        if (!(used >> s & 1u)) continue;
        const Stream& state = x.state(s);
        if (x.factors.any() && s == x.factors.states.elements)
            multiply_factors(kernels, x, element, run.n, run.states[s] = staging.scratch(2 + s));
        else if (copies)
            run.states[s] = staging.load_copy(state, element, run.n, 2 + s);
        else
            run.states[s] = staging.load(state, element, run.n, 2 + s);
    }
}

// Puts the gradient of a run in place; returns the multiplier that is left for the rule to apply.
template <std::size_t kLength>
double load_gradient(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, const Group& group,
                     double multiplier, std::size_t element, std::size_t n, Run& run) {
    run.grad = staging.load(x.grad, element, n, 1);
    if (!std::isfinite(group.clip_value)) return multiplier;
    void* clipped = staging.scratch(1);
    kernels.prepare[x.compute](run.grad, multiplier, group.clip_value, clipped, n);
    run.grad = clipped;
    return 1;
}

}  // namespace fusedstep
