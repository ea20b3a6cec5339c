#include "records.hpp"

#include <iterator>
#include <new>
#include <utility>

namespace fusedstep {

void StepRecords::start(std::uint64_t every, std::uint64_t until, py::list records, std::size_t keep) {
    every_ = every;
    until_ = until;
    list_ = std::move(records);
    keep_ = keep;
}

// All is kept as it is, so that no code of others runs here; where there is no memory for it, the record is left out,
// as the step is taken already.
void StepRecords::record(const Engine& engine, const StepOptions& options, const StepResult& result,
                         std::ptrdiff_t only) {
    try {
        std::vector<double> sums, hypers;
        std::vector<std::uint32_t> counts;
        for (std::size_t i = 0; i < engine.tensors.size(); ++i) {
            const Tensor& x = engine.tensors[i];
            if (x.grad.data == nullptr) continue;
            const WatchedSums& its = engine.sums()[i];
            const double step = static_cast<double>(x.step) + (result.taken ? 0 : 1);
            const double values[] = {static_cast<double>(i),
                                     static_cast<double>(x.group),
                                     step,
                                     static_cast<double>(x.steps_over()),
                                     its.grad,
                                     its.param,
                                     its.update,
                                     static_cast<double>(its.zeros),
                                     static_cast<double>(its.nonfinite)};
            sums.insert(sums.end(), std::begin(values), std::end(values));
            for (std::size_t e = 0; e < kExponents; ++e)
                if (const std::uint32_t count = engine.exponents()[i * kExponents + e]; count != 0)
                    counts.insert(counts.end(), {static_cast<std::uint32_t>(i), static_cast<std::uint32_t>(e), count});
        }
        for (const Group& group : engine.groups) hypers.insert(hypers.end(), group.hypers.begin(), group.hypers.end());
        const auto bytes = [](const auto& values) {
            return py::bytes(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
        };
        auto list = py::reinterpret_borrow<py::list>(list_);
        list.append(
            py::make_tuple(result.taken, only >= 0, options.grad_scale, bytes(sums), bytes(counts), bytes(hypers)));
        const std::size_t each = only < 0 ? 1 : engine.tensors.size();
        if (const std::size_t held = list.size(); held != 0 && (held - 1) / each >= keep_)  // held > keep_ * each
            PyList_SetSlice(list.ptr(), 0, static_cast<Py_ssize_t>(held - keep_ * each), nullptr);
    } catch (const std::bad_alloc&) {
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_MemoryError)) throw;
    }
}

}  // namespace fusedstep
