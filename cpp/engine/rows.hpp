// Gradients of rows on their way into the engine: ascending numbers of rows, each once, and the sums of their values.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "../types.hpp"

namespace fusedstep {

class RowSums {
public:
    // Takes a copy of the numbers. Returns whether all are from 0 to `limit` - 1.
    template <class Int>
    bool read(const Int* numbers, std::size_t count, std::size_t limit);

    // Adds up the values of rows of `width` elements in the compute type: the first of a row begins its sum, the others
    // follow in the order in which they stand. `values` must stay where it is; the sums may lie there.
    void add(const void* values, Format format, std::size_t width, Compute compute);

    // Never null.
    const std::int64_t* rows() const { return rows_.empty() ? &kNone : rows_.data(); }
    const void* sums() const { return sums_ == nullptr ? &kNone : sums_; }
    std::size_t count() const { return rows_.size(); }

private:
    struct Given {
        std::int64_t row;
        std::size_t place;
    };
    struct Job;
    void sort();
    template <class T>
    static void add_rows(const Job& job, std::size_t begin, std::size_t end);

    static constexpr std::int64_t kNone = 0;
    bool ascending_ = true;
    std::int64_t largest_ = 0;
    std::vector<std::int64_t> rows_;
    std::vector<Given> given_, scratch_;  // by row, equal ones in the order in which they stand
    std::vector<std::size_t> first_;      // of each row, and the end
    std::unique_ptr<double[]> buffer_;
    std::size_t capacity_ = 0;
    const void* sums_ = nullptr;
};

}  // namespace fusedstep
