// Records of watched steps: what the engine sums up in them, as bytes that Python reads later.
#pragma once
#include <pybind11/pybind11.h>

#include <vector>

#include "../engine/engine.hpp"

namespace fusedstep {

namespace py = pybind11;

class StepRecords {
public:
    // Watches the next step but `until`, and every `every`th after it (0: none). Puts a tuple at the end of `records`,
    // which holds those of `keep` steps at most: whether it was taken; whether it was of one tensor alone; the scale of
    // the gradients; bytes of nine doubles for every tensor with a gradient (its number, its group's, the step's,
    // elements, and WatchedSums), of three uint32 for every exponent that occurs (number of the tensor, exponent,
    // count), and of kMaxHypers doubles for every group.
    void start(std::uint64_t every, std::uint64_t until, py::list records, std::size_t keep);
    std::uint64_t until() const { return until_; }

    // Whether a step of all tensors, or of the one with the number `only`, is to be watched.
    bool wants(const Engine& engine, std::ptrdiff_t only) const {
        // Parameters that are stepped one by one go by their own counts.
        return every_ != 0 &&
               (only < 0 ? until_ == 0 : engine.tensors[static_cast<std::size_t>(only)].step % every_ == 0);
    }

    // After each step.
    void add(const Engine& engine, const StepOptions& options, const StepResult& result, std::ptrdiff_t only) {
        if (every_ == 0) return;
        if (options.watch) record(engine, options, result, only);
        if (result.taken && only < 0) until_ = options.watch ? every_ - 1 : until_ - 1;
    }

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(list_.ptr());
        return 0;
    }

private:
    void record(const Engine& engine, const StepOptions& options, const StepResult& result, std::ptrdiff_t only);

    std::uint64_t every_ = 0, until_ = 0;
    py::object list_;
    std::size_t keep_ = 0;
};

}  // namespace fusedstep
