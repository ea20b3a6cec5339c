// Row gradients: gradients of some rows of a parameter. Usual ones are checked here, unusual ones by Python, which has
// the messages.
#pragma once
#include <vector>

#include "../engine/rows.hpp"
#include "groups.hpp"
#include "parameter.hpp"

namespace fusedstep {

class RowGradients {
public:
    RowGradients(Engine& engine, const GroupReader& groups, const WrittenMemory& memory, const Names& names)
        : engine_(engine), groups_(groups), memory_(memory), names_(names) {}

    // An object of `type` has `indices` and `values`. `check(index, gradient)` checks everything about it and returns
    // these two, or None when it is no such gradient; it is only asked where something is not plain. `without`:
    // hyper-parameters that must be 0, or None where the rule has no such form.
    void set_check(py::object check, py::object type, py::object without);

    // Begins a step.
    void begin() { used_ = 0; }

    // Gives the engine the gradient of a parameter, if it is one of rows. With `zero` it is written later. Repeated
    // rows are added up after all gradients were checked: add_up().
    bool set(std::size_t i, PyObject* grad, PyObject* param, bool zero);

    // ValueError if one is not what it was when it was set.
    void check_still_there() const;

    // Adds up what belongs to the same row; the engine steps those that occur.
    void add_up();
    // Sets the given arrays to zero.
    void zero();
    // The arrays are the caller's alone again.
    void release();

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;

private:
    struct Row {
        std::size_t tensor = 0, count = 0, row_size = 0, index_size = 0;
        py::object indices, values;
        const void* numbers = nullptr;
        Array given;  // the values
        RowSums sums;
    };
    bool has_rows(std::size_t i) const;
    bool read_parts(std::size_t i, Row& taken, PyObject* param, bool zero, py::object indices, py::object values) const;
    const Extent* overlapping(const Row& taken) const;

    Engine& engine_;
    const GroupReader& groups_;
    const WrittenMemory& memory_;
    const Names& names_;
    py::object check_, type_;
    bool possible_ = false;
    std::vector<std::size_t> without_;  // numbers of hyper-parameters
    std::vector<Row> rows_;             // the first of them are the current step's, the others' memory is kept
    std::size_t used_ = 0;
};

}  // namespace fusedstep
