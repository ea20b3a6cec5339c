#include "streaming.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

#include "../dispatch.hpp"
#include "../threads/count.hpp"
#include "../threads/parallel.hpp"
#include "arrays.hpp"
#include "gil.hpp"

namespace fusedstep {
namespace {

struct Pass {
    const KernelTable* kernels;
    std::vector<Array> write, read;
    std::vector<py::object> held;
    std::size_t pieces, chunks;
    std::atomic<float> sink{0};
};

// Arrays of different lengths are walked at the same relative pace: piece k of each at a time.
void walk(void* context, std::size_t chunk) {
    Pass& pass = *static_cast<Pass*>(context);
    const std::size_t first = pass.pieces * chunk / pass.chunks, last = pass.pieces * (chunk + 1) / pass.chunks;
    const auto part = [&](const Array& a, std::size_t k) { return a.size * k / pass.pieces / 16 * 16; };
    float total = 0;
    for (std::size_t k = first; k < last; ++k) {
        for (const Array& a : pass.read)
            total += pass.kernels->sum(static_cast<const float*>(a.data) + part(a, k), part(a, k + 1) - part(a, k));
        for (const Array& a : pass.write)
            pass.kernels->add_one(static_cast<float*>(a.data) + part(a, k), part(a, k + 1) - part(a, k));
    }
    pass.sink = total;  // so that the reads are not removed
}

}  // namespace

void stream(py::list read_write, py::list read) {
    Pass pass{&active_kernels(), {}, {}, {}, 1, 1, {}};
    const auto take = [&pass](py::list arrays, bool writeable, const char* name, std::vector<Array>& out) {
        for (std::size_t i = 0; i < arrays.size(); ++i) {
            const std::string where = std::string(name) + "[" + std::to_string(i) + "]";
            pass.held.push_back(arrays[i]);
            out.push_back(as_array(pass.held.back().ptr(), writeable, where));
            if (out.back().format != Format::float32)
                throw py::type_error(where + ": got dtype " + dtype_name(out.back().format) + ", needs float32");
        }
    };
    take(read_write, true, "read_write", pass.write);
    take(read, false, "read", pass.read);
    std::size_t longest = 0;
    for (const std::vector<Array>* arrays : {&pass.write, &pass.read})
        for (const Array& a : *arrays) longest = std::max(longest, a.size);
    pass.pieces = std::max<std::size_t>(1, longest / 1024);
    const int threads = team_size(pass.pieces);
    pass.chunks = std::min<std::size_t>(pass.pieces, static_cast<std::size_t>(threads) * 64);
    without_gil([&] { parallel_for(pass.chunks, threads, walk, &pass); });
}

}  // namespace fusedstep
