// How a second moment in factors is advanced. Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear
// memory cost", ICML 2018, algorithm 4: the means of the squared gradient over rows and over columns are averaged over
// the steps, and an element is the product of both by the mean of all rows.
//
// The order of every sum depends on the shape alone. A row is summed as a tensor is: blocks of kBlock elements, lanes
// within a block. A column is summed in chunks of rows, row after row, and then chunk after chunk.
//
// A rule without means of columns has one second moment for each row: Zhang et al., "Adam-mini", 2024.
//
// Rules divide by the root of an element, which is the product of the roots of its row and its column: 1 / sqrt(r c) =
// 1 / sqrt(r) * 1 / sqrt(c). So the roots and the divisions are those of rows and columns.
#include "factors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "../dispatch.hpp"
#include "staging.hpp"

namespace fusedstep {
namespace {

// Rows whose columns are summed together: chunks of 4096 elements at least, so that sums of chunks are few, and of as
// many rows as their sums fit in scratch memory.
constexpr std::size_t kLeastRows = 64, kMostRows = 4096;

std::size_t rows_of_chunk(const Factors& f) { return std::clamp(kMostRows / f.columns, kLeastRows, kMostRows); }
std::size_t chunks_of(const Factors& f) { return (f.rows + rows_of_chunk(f) - 1) / rows_of_chunk(f); }
std::size_t blocks_of_row(const Factors& f) { return (f.columns + kBlock - 1) / kBlock; }
bool rows_alone(const Factors& f) { return f.states.columns < 0; }

// The gradient of a run as the rule takes it.
template <std::size_t kLength>
const void* scaled_gradient(Staging<kLength>& staging, const KernelTable& kernels, const Tensor& x, const Group& group,
                            double scale, std::size_t element, std::size_t n) {
    Run run{nullptr, nullptr, {}, n};
    const double multiplier = load_gradient(staging, kernels, x, group, scale, element, n, run);
    if (multiplier == 1 || multiplier == -1) return run.grad;  // its squares are the same
    void* const scaled = staging.scratch(1);
    kernels.prepare[x.compute](run.grad, multiplier, std::numeric_limits<double>::infinity(), scaled, n);
    return scaled;
}

// work(T{}) with the tensor's compute type.
template <class Work>
void in_type(const Tensor& x, Work work) {
    if (x.compute == kDouble)
        work(double{});
    else
        work(float{});
}

// The next values of a state, from `element` on: averages of the old ones and of sums over `count` squares.
void advance(const Tensor& x, const FactorWeights& w, const Stream& state, const double* sums, std::size_t count,
             std::size_t element, std::size_t n, void* next) {
    in_type(x, [&](auto zero) {
        using T = decltype(zero);
        const T* const old = static_cast<const T*>(state.data) + element;
        T* const out = static_cast<T*>(next) + element;
        for (std::size_t i = 0; i < n; ++i) {
            const double mean = sums[i] / static_cast<double>(count);
            const T value = static_cast<T>(w.keep * static_cast<double>(old[i]) + w.take * (mean + w.inside));
            out[i] = std::abs(value) < std::numeric_limits<T>::min() ? T{} : value;  // as states of elements
        }
    });
}

// Of advanced rows or columns: 1 / (sqrt(mean * by) + eps).
template <class T>
void invert(const T* means, T* inverse, std::size_t n, double by, double eps) {
    for (std::size_t i = 0; i < n; ++i)
        inverse[i] = static_cast<T>(1.0 / (std::sqrt(static_cast<double>(means[i]) * by) + eps));
}

// The inverse roots of the rows and columns of matrices that are advanced. The rows of a matrix are divided by their
// mean.
void invert_matrices(const Tensor& x, const FactorWeights& w, std::size_t first, std::size_t count) {
    const Factors& f = x.factors;
    in_type(x, [&](auto zero) {
        using T = decltype(zero);
        const std::size_t column = first * f.columns;
        invert(static_cast<const T*>(f.next_columns) + column, static_cast<T*>(f.inverse_columns) + column,
               count * f.columns, 1.0, 0.0);
        for (std::size_t batch = first; batch < first + count; ++batch) {
            const T* const rows = static_cast<const T*>(f.next_rows) + batch * f.rows;
            double sum = 0;
            for (std::size_t i = 0; i < f.rows; ++i) sum += static_cast<double>(rows[i]);
            const double mean = sum / static_cast<double>(f.rows);
            const double by = 1.0 / (mean < w.least ? w.least : mean);  // NaN stays NaN
            invert(rows, static_cast<T*>(f.inverse_rows) + batch * f.rows, f.rows, by, w.eps);
        }
    });
}

// The next rows where there are no columns, and their inverse roots.
void advance_rows(const Tensor& x, const FactorWeights& w, const double* sums, std::size_t row, std::size_t n) {
    const Factors& f = x.factors;
    advance(x, w, x.state(f.states.rows), sums, f.columns, row, n, f.next_rows);
    in_type(x, [&](auto zero) {
        using T = decltype(zero);
        invert(static_cast<const T*>(f.next_rows) + row, static_cast<T*>(f.inverse_rows) + row, n, w.unbias, w.eps);
    });
}

// Adds the squares of a row of at most kLanes elements to those by columns, and returns their sum, in the order of
// sum_squares: the lanes that it lacks are zeros.
template <class T>
double add_short_row(const T* values, double* columns, std::size_t n) {
    double lane[kLanes];
    for (std::size_t j = 0; j < n; ++j) {
        const double value = static_cast<double>(values[j]);
        lane[j] = value * value;
        columns[j] += lane[j];
    }
    for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
        for (std::size_t j = half; j < n; ++j) lane[j - half] += lane[j];
        n = std::min(n, half);
    }
    return lane[0];
}

}  // namespace

void multiply_factors(const KernelTable& kernels, const Tensor& x, std::size_t element, std::size_t n, void* out) {
    const Factors& f = x.factors;
    in_type(x, [&](auto zero) {
        using T = decltype(zero);
        T* to = static_cast<T*>(out);
        std::size_t row = element / f.columns, column = element % f.columns, left = f.rows - row % f.rows;
        const T* columns = static_cast<const T*>(f.inverse_columns) + row / f.rows * f.columns;
        for (std::size_t end = n; end != 0; column = 0, ++row) {
            const std::size_t count = std::min(end, f.columns - column);
            const T of_row = static_cast<const T*>(f.inverse_rows)[row];
            if (rows_alone(f))
                std::fill_n(to, count, of_row);
            else if (count >= kLanes)
                kernels.multiply[x.compute](static_cast<double>(of_row), columns + column, to, count);
            else
                for (std::size_t j = 0; j < count; ++j) to[j] = of_row * columns[column + j];
            to += count;
            end -= count;
            if (--left == 0) left = f.rows, columns += f.columns;
        }
    });
}

RowOfFactors row_of_factors(const Tensor& x, std::size_t element) {
    const Factors& f = x.factors;
    const std::size_t row = element / f.columns, column = element % f.columns;
    RowOfFactors found{1, nullptr, f.columns - column};
    in_type(x, [&](auto zero) {
        using T = decltype(zero);
        found.factor = static_cast<double>(static_cast<const T*>(f.inverse_rows)[row]);
        found.columns = static_cast<T*>(f.inverse_columns) + (row / f.rows * f.columns + column);
    });
    return found;
}

// After sum_factors(): what it leaves of matrices of several chunks and, without columns, of rows of several blocks.
void Engine::advance_factors() {
    for (const Tensor& x : tensors) {
        const Factors& f = x.factors;
        if (!f.any() || f.sums == nullptr || x.grad.data == nullptr) continue;
        const Group& group = groups[static_cast<std::size_t>(x.group)];
        const FactorWeights w = kernels_->rules[group.rule].factors[x.compute](group.hypers.data(), x.step);
        const std::size_t chunks = chunks_of(f), blocks = blocks_of_row(f);
        for (std::size_t row = 0; rows_alone(f) && row < f.rows; ++row) {
            double sum = 0;
            for (std::size_t i = 0; i < blocks; ++i) sum += f.sums[row * blocks + i];
            advance_rows(x, w, &sum, row, 1);
        }
        for (std::size_t batch = 0; !rows_alone(f) && batch < f.batches; ++batch) {
            double* const sums = f.sums + batch * chunks * f.columns;
            for (std::size_t chunk = 1; chunk < chunks; ++chunk)
                for (std::size_t i = 0; i < f.columns; ++i) sums[i] += sums[chunk * f.columns + i];
            advance(x, w, x.state(f.states.columns), sums, f.rows, batch * f.columns, f.columns, f.next_columns);
            invert_matrices(x, w, batch, 1);
        }
    }
}

// The step is taken: the next factors are the states.
void Engine::store_factors() {
    for (const Tensor& x : tensors) {
        const Factors& f = x.factors;
        if (!f.any() || x.grad.data == nullptr) continue;
        const std::size_t item = width(native(x.compute));
        std::memcpy(x.state(f.states.rows).data, f.next_rows, f.batches * f.rows * item);
        if (!rows_alone(f)) std::memcpy(x.state(f.states.columns).data, f.next_columns, f.batches * f.columns * item);
    }
}

// Memory for the next factors: until the step is taken, the states are as they were.
void Engine::place_factors() {
    factors_ = false;
    std::size_t size = 0;
    const auto doubles = [](std::size_t n, std::size_t item) {
        return (n * item + sizeof(double) - 1) / sizeof(double);
    };
    for (int pass = 0; pass < 2; ++pass) {  // the first adds up, the second hands out
        double* at = nullptr;
        if (pass == 1) {
            factor_memory_.assign(size, 0.0);
            at = factor_memory_.data();
        }
        const auto take = [&](std::size_t n) {
            size += n;
            double* const place = at;
            if (at != nullptr) at += n;
            return place;
        };
        for (Tensor& x : tensors) {
            Factors& f = x.factors;
            if (!f.any()) continue;
            factors_ = true;
            const std::size_t item = width(native(x.compute)), chunks = chunks_of(f);
            f.next_rows = take(doubles(f.batches * f.rows, item));
            f.inverse_rows = take(doubles(f.batches * f.rows, item));
            f.sums = nullptr;
            if (rows_alone(f)) {
                if (blocks_of_row(f) > 1) f.sums = take(f.rows * blocks_of_row(f));
                continue;
            }
            f.next_columns = take(doubles(f.batches * f.columns, item));
            f.inverse_columns = take(doubles(f.batches * f.columns, item));
            if (chunks > 1) f.sums = take(f.batches * chunks * f.columns);
        }
    }
}

// Without columns: the new rows of one block that begin in a run of elements, and the sums of the blocks of others.
void Engine::sum_rows(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    const Factors& f = x.factors;
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const double scale = constants_[constants_of_[t]].multiplier;
    Staging<kBlock> staging(*kernels_, x.compute);
    const std::size_t blocks = blocks_of_row(f);
    if (blocks == 1) {
        const FactorWeights w = kernels_->rules[group.rule].factors[x.compute](group.hypers.data(), x.step);
        double* const sums = static_cast<double*>(staging.scratch(2));
        const std::size_t together = kBlock / f.columns, last = (end + f.columns - 1) / f.columns;
        for (std::size_t row = (begin + f.columns - 1) / f.columns; row < last; row += together) {
            const std::size_t several = std::min(together, last - row);
            const void* values =
                scaled_gradient(staging, *kernels_, x, group, scale, row * f.columns, several * f.columns);
            for (std::size_t k = 0; k < several; ++k) {
                sums[k] = kernels_->sum_squares[x.compute](values, f.columns, bytes_ahead).sum;
                values = advanced(values, f.columns * width(native(x.compute)));
            }
            advance_rows(x, w, sums, row, several);
        }
        return;
    }
    for (std::size_t row = begin / f.columns, block = (begin % f.columns + kBlock - 1) / kBlock;; ++block) {
        if (block == blocks) ++row, block = 0;
        const std::size_t at = row * f.columns + block * kBlock;
        if (at >= end) break;
        const std::size_t n = std::min(kBlock, f.columns - block * kBlock);
        const void* const values = scaled_gradient(staging, *kernels_, x, group, scale, at, n);
        f.sums[row * blocks + block] = kernels_->sum_squares[x.compute](values, n, bytes_ahead).sum;
    }
}

// Of the matrices that begin in a run of elements, and of the chunks of those of several: the new rows and, where the
// matrix is one chunk, all else.
void Engine::sum_factors(std::size_t t, std::size_t begin, std::size_t end) {
    const Tensor& x = tensors[t];
    const Factors& f = x.factors;
    if (!f.any()) return;
    if (rows_alone(f)) return sum_rows(t, begin, end);
    const Group& group = groups[static_cast<std::size_t>(x.group)];
    const double scale = constants_[constants_of_[t]].multiplier;
    const FactorWeights w = kernels_->rules[group.rule].factors[x.compute](group.hypers.data(), x.step);
    const std::size_t chunk_rows = rows_of_chunk(f), chunks = chunks_of(f), size = f.rows * f.columns;
    const std::size_t item = width(native(x.compute));
    Staging<kBlock> staging(*kernels_, x.compute);
    const bool in_place = !staging.staged(x.grad) && !std::isfinite(group.clip_value) && std::abs(scale) == 1;
    double* const columns = static_cast<double*>(staging.scratch(2));  // of one block of columns
    double* const rows = static_cast<double*>(staging.scratch(3));
    static_assert(kMostRows * sizeof(double) + 3 * kBlock * sizeof(double) <= Scratch::kBytes);
    // Of rows of n elements, `stride` elements apart: their sums, and those by columns.
    const auto add_rows = [&](const void* values, std::size_t stride, std::size_t count, double* by_column,
                              double* by_row, std::size_t n) {
        if (n > kLanes)
            return kernels_->add_squares[x.compute](values, stride, count, by_column, by_row, n, bytes_ahead);
        in_type(x, [&](auto zero) {
            const auto* const from = static_cast<const decltype(zero)*>(values);
            for (std::size_t r = 0; r < count; ++r) by_row[r] += add_short_row(from + r * stride, by_column, n);
        });
    };

    // Matrices that a block holds several of.
    const auto sum_matrices = [&](std::size_t first, std::size_t count) {
        const void* values = scaled_gradient(staging, *kernels_, x, group, scale, first * size, count * size);
        std::fill_n(columns, count * f.columns, 0.0);
        std::fill_n(rows, count * f.rows, 0.0);
        for (std::size_t k = 0; k < count; ++k, values = advanced(values, size * item))
            add_rows(values, f.columns, f.rows, columns + k * f.columns, rows + k * f.rows, f.columns);
        advance(x, w, x.state(f.states.rows), rows, f.columns, first * f.rows, count * f.rows, f.next_rows);
        advance(x, w, x.state(f.states.columns), columns, f.rows, first * f.columns, count * f.columns, f.next_columns);
        invert_matrices(x, w, first, count);
    };
    const auto sum_chunk = [&](std::size_t batch, std::size_t chunk) {
        const std::size_t first = chunk * chunk_rows, count = std::min(chunk_rows, f.rows - first);
        const std::size_t begin_of = batch * size + first * f.columns;
        std::fill_n(rows, count, 0.0);
        for (std::size_t column = 0; column < f.columns; column += kBlock) {
            const std::size_t n = std::min(kBlock, f.columns - column);
            std::fill_n(columns, n, 0.0);
            if (in_place) {
                add_rows(at(x.grad, begin_of + column), f.columns, count, columns, rows, n);
            } else {
                // Short rows are decoded several at a time.
                const std::size_t together = n == f.columns ? std::max<std::size_t>(1, kBlock / n) : 1;
                for (std::size_t row = 0; row < count; row += together) {
                    const std::size_t several = std::min(together, count - row), from = row * f.columns + column;
                    const void* const values =
                        scaled_gradient(staging, *kernels_, x, group, scale, begin_of + from, several * n);
                    add_rows(values, n, several, columns, rows + row, n);
                }
            }
            if (chunks > 1)
                std::copy_n(columns, n, f.sums + (batch * chunks + chunk) * f.columns + column);
            else
                advance(x, w, x.state(f.states.columns), columns, f.rows, batch * f.columns + column, n,
                        f.next_columns);
        }
        advance(x, w, x.state(f.states.rows), rows, f.columns, batch * f.rows + first, count, f.next_rows);
        if (chunks == 1) invert_matrices(x, w, batch, 1);
    };
    if (size <= kBlock) {
        const std::size_t together = kBlock / size, last = (end + size - 1) / size;
        for (std::size_t first = (begin + size - 1) / size; first < last; first += together)
            sum_matrices(first, std::min(together, last - first));
        return;
    }
    // Chunks have one size, but for the last of every matrix.
    for (std::size_t batch = begin / size; batch < f.batches && batch * size < end; ++batch)
        for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
            const std::size_t at = batch * size + chunk * chunk_rows * f.columns;
            if (begin <= at && at < end) sum_chunk(batch, chunk);
        }
}

}  // namespace fusedstep
