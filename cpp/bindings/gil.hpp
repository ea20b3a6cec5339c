// Work without Python's global lock.
#pragma once
#include <pybind11/pybind11.h>

#include <exception>

namespace fusedstep {

// Lets other Python threads run meanwhile. Not py::gil_scoped_release: at exit, Python ends a daemon thread that asks
// for the GIL by unwinding its stack, which a destructor does not let through.
template <class Work>
void without_gil(Work work) {
    PyThreadState* thread = PyEval_SaveThread();
    std::exception_ptr error;
    try {
        work();
    } catch (const std::exception&) {
        error = std::current_exception();
    }
    PyEval_RestoreThread(thread);
    if (error) std::rethrow_exception(error);
}

}  // namespace fusedstep
