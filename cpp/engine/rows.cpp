#include "rows.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "../dispatch.hpp"
#include "../threads/count.hpp"
#include "../threads/float_environment.hpp"
#include "../threads/parallel.hpp"

namespace fusedstep {
namespace {

constexpr std::size_t kPerThread = std::size_t{1} << 16;  // elements that are worth another thread
constexpr std::size_t kPerChunk = std::size_t{1} << 13;
constexpr std::size_t kPiece = 1024;  // elements decoded at a time

}  // namespace

struct RowSums::Job {
    const Given* given;
    const std::size_t* first;
    std::size_t rows, width, rows_per_chunk;
    const char* values;
    std::size_t stride;  // bytes from one given row to the next
    DecodeFn decode;     // null: they are of the compute type
    std::size_t item;    // bytes of a given element
    void* sums;

    const char* at(std::size_t k) const { return values + given[k].place * stride; }
};

template <class Int>
bool RowSums::read(const Int* numbers, std::size_t count, std::size_t limit) {
    rows_.resize(count);
    sums_ = nullptr;
    ascending_ = true;
    largest_ = 0;
    std::int64_t before = -1;
    for (std::size_t k = 0; k < count; ++k) {
        const std::int64_t row = numbers[k];
        if (row < 0 || static_cast<std::uint64_t>(row) >= limit) return false;
        ascending_ = ascending_ && row > before;
        largest_ = std::max(largest_, row);
        before = rows_[k] = row;
    }
    return true;
}
template bool RowSums::read(const std::int32_t*, std::size_t, std::size_t);
template bool RowSums::read(const std::int64_t*, std::size_t, std::size_t);

// By one byte after the other, from the lowest: stable, and in time proportional to the number of rows.
void RowSums::sort() {
    given_.resize(rows_.size());
    scratch_.resize(rows_.size());
    for (std::size_t k = 0; k < rows_.size(); ++k) given_[k] = {rows_[k], k};
    for (unsigned shift = 0; shift < 64 && largest_ >> shift != 0; shift += 8) {
        const auto byte = [shift](const Given& g) { return static_cast<std::size_t>(g.row >> shift & 255); };
        std::size_t place[256] = {};
        for (const Given& g : given_) ++place[byte(g)];
        std::size_t sum = 0;
        for (std::size_t& p : place) sum += std::exchange(p, sum);
        for (const Given& g : given_) scratch_[place[byte(g)]++] = g;
        given_.swap(scratch_);
    }
}

template <class T>
void RowSums::add_rows(const Job& job, std::size_t begin, std::size_t end) {
    for (std::size_t r = begin; r < end; ++r) {
        T* sum = static_cast<T*>(job.sums) + r * job.width;
        if (job.decode == nullptr) {
            std::memcpy(sum, job.at(job.first[r]), job.stride);
        } else {
            job.decode(job.at(job.first[r]), nullptr, sum, job.width);
        }
        for (std::size_t k = job.first[r] + 1; k < job.first[r + 1]; ++k) {
            T piece[kPiece];
            for (std::size_t i = 0; i < job.width; i += kPiece) {
                const std::size_t n = std::min(kPiece, job.width - i);
                const T* values = reinterpret_cast<const T*>(job.at(k)) + i;
                if (job.decode != nullptr) {
                    job.decode(job.at(k) + i * job.item, nullptr, piece, n);
                    values = piece;
                }
                for (std::size_t j = 0; j < n; ++j) sum[i + j] += values[j];
            }
        }
    }
}

void RowSums::add(const void* values, Format format, std::size_t width, Compute compute) {
    const bool plain = format == (compute == kDouble ? Format::float64 : Format::float32);
    if (ascending_ && plain) {
        sums_ = values;
        return;
    }
    const DefaultFloats guard;
    sort();
    rows_.clear();
    first_.clear();
    for (std::size_t k = 0; k < given_.size(); ++k) {
        if (k != 0 && given_[k].row == given_[k - 1].row) continue;
        rows_.push_back(given_[k].row);
        first_.push_back(k);
    }
    first_.push_back(given_.size());

    const std::size_t elements = rows_.size() * width;
    const std::size_t needed = compute == kDouble ? elements : (elements + 1) / 2;
    if (needed > capacity_) {
        buffer_.reset();
        capacity_ = 0;
        buffer_.reset(new double[needed]);
        capacity_ = needed;
    }
    sums_ = buffer_.get();
    if (elements == 0) return;

    Job job;
    job.given = given_.data();
    job.first = first_.data();
    job.rows = rows_.size();
    job.width = width;
    job.rows_per_chunk = std::max<std::size_t>(1, kPerChunk / width);
    job.values = static_cast<const char*>(values);
    job.item = kFormatSizes[static_cast<int>(format)].item;
    job.stride = width * job.item;
    job.decode = plain ? nullptr : active_kernels().decode[static_cast<int>(format)][compute];
    job.sums = buffer_.get();
    const std::size_t worth = given_.size() * width / kPerThread;
    const int threads = team_size(worth);
    const auto body = compute == kDouble ? &add_rows<double> : &add_rows<float>;
    if (threads < 2) return body(job, 0, job.rows);
    struct Pass {
        const Job& job;
        void (*body)(const Job&, std::size_t, std::size_t);
    };
    Pass pass{job, body};
    parallel_for((job.rows + job.rows_per_chunk - 1) / job.rows_per_chunk, threads,
                 [](void* context, std::size_t chunk) {
                     const Pass& shared = *static_cast<const Pass*>(context);
                     const std::size_t begin = chunk * shared.job.rows_per_chunk;
                     shared.body(shared.job, begin, std::min(shared.job.rows, begin + shared.job.rows_per_chunk));
                 },
                 &pass);
}

}  // namespace fusedstep
