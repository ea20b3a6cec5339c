// The yardstick of the benchmarks: the memory traffic of a step without its arithmetic.
#pragma once
#include <pybind11/pybind11.h>

namespace fusedstep {

namespace py = pybind11;

// One pass over float32 arrays that reads them all and writes the first list's back, piece by piece as a step does and
// with its threads.
void stream(py::list read_write, py::list read);

}  // namespace fusedstep
