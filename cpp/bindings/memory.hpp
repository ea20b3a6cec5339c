// The memory that steps write: it is kept alive, must not overlap, and must still be there at every step.
#pragma once
#include <string>
#include <vector>

#include "arrays.hpp"

namespace fusedstep {

class WrittenMemory {
public:
    // `array` is what `object` was when it was checked. ValueError if it has changed since.
    // Where the rule goes by its `shape`, that must stay too.
    void add(const py::object& object, const Array& array, const std::string& name, bool shape = false);

    // Memory that somebody else holds.
    void add(const void* data, std::size_t bytes, const std::string& name);

    // After the last add(): ValueError when two arrays overlap.
    void finish();

    // ValueError when an array no longer is what it was.
    void check_still_there() const;

    // An array that shares bytes with this memory; null if none does.
    const Extent* overlapping(const void* data, std::size_t bytes) const;

    int traverse(visitproc visit, void* arg) const;

private:
    struct Checked {
        PyObject* object;
        Seen seen;
    };
    struct Shaped {
        PyObject* object;
        std::vector<Py_intptr_t> shape;
        std::string name;
    };
    std::vector<py::object> owned_;
    std::vector<Checked> checked_;
    std::vector<Shaped> shaped_;
    std::vector<Extent> extents_;  // sorted by finish()
};

}  // namespace fusedstep
