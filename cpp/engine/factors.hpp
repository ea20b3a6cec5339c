// Second moments in factors: a vector of row means and one of column means for every matrix.
#pragma once
#include "engine.hpp"

namespace fusedstep {

// Writes the inverse roots of `n` elements of the second moment that advance_factors() has made, from `element` on, in
// the compute type.
void multiply_factors(const KernelTable& kernels, const Tensor& x, std::size_t element, std::size_t n, void* out);

// The rest of an element's row: what its elements of the inverse roots are made of.
struct RowOfFactors {
    double factor;  // that of the row,
    void* columns;  // times these
    std::size_t left;
};
RowOfFactors row_of_factors(const Tensor& x, std::size_t element);

// Whether rows are long enough to be stepped one by one, where their columns lie.
inline bool has_long_rows(const Tensor& x) {
    constexpr std::size_t kLongRow = 256;
    return x.factors.any() && x.factors.states.columns >= 0 && x.factors.columns >= kLongRow;
}

}  // namespace fusedstep
