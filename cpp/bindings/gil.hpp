// Work without Python's global lock.
#pragma once
#include <pybind11/pybind11.h>

#include <chrono>
#include <exception>
#include <thread>

namespace fusedstep {

// Takes Python's lock again. At exit, Python before 3.14 ends a daemon thread that asks for it by unwinding its stack
// (pthread_exit), whose destructors would let go of Python objects without the lock, while the main thread takes the
// interpreter apart. Such a thread waits for the end of the process here, as Python 3.14 has it do.
inline void acquire_gil(PyThreadState* thread) {
    try {
        PyEval_RestoreThread(thread);
    } catch (...) {  // no exception, which Python's C code has none of: the unwinding must not go on
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

// Lets other Python threads run meanwhile. Not py::gil_scoped_release, whose destructor lets no unwinding through.
template <class Work>
void without_gil(Work work) {
    PyThreadState* thread = PyEval_SaveThread();
    std::exception_ptr error;
    try {
        work();
    } catch (const std::exception&) {
        error = std::current_exception();
    }
    acquire_gil(thread);
    if (error) std::rethrow_exception(error);
}

}  // namespace fusedstep
