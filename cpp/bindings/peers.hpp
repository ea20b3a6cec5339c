// The other processes of a model, as the Python code that reaches them.
#pragma once
#include <pybind11/pybind11.h>

#include <exception>
#include <utility>
#include <vector>

#include "../engine/engine.hpp"

namespace fusedstep {

namespace py = pybind11;

class PythonPeers : public Peers {
public:
    // `begin()` before anything happens, once nothing is left that could fail in this process alone; if it raises,
    // nothing has changed. `receive(bucket)`, `sum(values, flags)` with a memoryview of doubles, `send(bucket)`: see
    // Peers. None instead of receive or send: nothing travels in buckets.
    PythonPeers(py::object begin, py::object receive, py::object sum, py::object send)
        : begin_(std::move(begin)), receive_(std::move(receive)), sum_(std::move(sum)), send_(std::move(send)) {}

    void begin() { begin_(); }
    bool receive(std::size_t bucket) noexcept override {
        return receive_.is_none() || call([&] { receive_(bucket); });
    }
    bool sum(double* values, std::size_t n, std::size_t flags) noexcept override {
        return call([&] {
            sum_(py::memoryview::from_buffer(values, {static_cast<py::ssize_t>(n)},
                                             {static_cast<py::ssize_t>(sizeof(double))}),
                 flags);
        });
    }
    bool send(std::size_t bucket) noexcept override {
        return send_.is_none() || call([&] { send_(bucket); });
    }

    // What ended the step. Needs the GIL.
    [[noreturn]] void raise() { std::rethrow_exception(std::exchange(error_, nullptr)); }

    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(begin_.ptr());
        Py_VISIT(receive_.ptr());
        Py_VISIT(sum_.ptr());
        Py_VISIT(send_.ptr());
        return 0;
    }

private:
    template <class Code>
    bool call(Code code) noexcept {
        const py::gil_scoped_acquire locked;
        try {
            code();
            return true;
        } catch (...) {
            error_ = std::current_exception();
            return false;
        }
    }

    py::object begin_, receive_, sum_, send_;
    std::exception_ptr error_;
};

// Has the engine step pieces of tensors. `pieces` says of each tensor how many elements of it lie before and after the
// piece that is here, `buckets` where each bucket ends: (tensor, element). ValueError for what it cannot step so.
void set_pieces(Engine& engine, const std::vector<std::pair<std::size_t, std::size_t>>& pieces,
                const std::vector<std::pair<std::size_t, std::size_t>>& buckets);

}  // namespace fusedstep
