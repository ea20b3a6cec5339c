// The gradients of a step: a structure or list of arrays, bound or passed, checked and given to the engine.
#pragma once
#include <string>
#include <vector>

#include "row_gradients.hpp"
#include "tree.hpp"

namespace fusedstep {

class Gradients {
public:
    Gradients(Engine& engine, const GroupReader& groups, const WrittenMemory& memory, const Names& names)
        : rows(engine, groups, memory, names), engine_(engine), groups_(groups), memory_(memory), names_(names) {}

    RowGradients rows;

    // What ends the error for a gradient of another form, but with numbers: how it can be taken all the same.
    void advise(std::string advice) { advice_ = std::move(advice); }

    // A further parameter, as given.
    void add(py::object param) { params_.push_back(std::move(param)); }
    // After the last add().
    void finish() { checked_.assign(engine_.tensors.size(), {}); }

    // Begins a step, or bind(). With `zero` the step writes gradients.
    void begin(bool zero);

    // Gradients of all steps until bind() is called again.
    void bind(const Tree& tree, PyObject* grads);
    void check_bound() const;
    void use_bound();

    // Gradients of one step, held until release(), as other threads may run.
    void pass(const Tree& tree, PyObject* grads);
    void pass(PyObject* list);
    void use_passed();
    void release();

    // Those that the engine has are of other objects, and their owner checks them.
    void use_others() { bound_current_ = false; }

    // ValueError when one lies in memory that the step writes. Those that passed before are not checked again.
    void check_overlap();
    // ValueError when Python code that ran since has changed the arrays.
    void check_still_there() const { check_still_there(bound_current_ ? bound_ : passed_); }

    // For Python's garbage collector.
    int traverse(visitproc visit, void* arg) const;

private:
    struct Range {
        const char *begin = nullptr, *end = nullptr;
    };
    void set(std::size_t i, PyObject* grad);
    std::string advice(PyObject* grad) const;
    void check_count() const;
    void note_bound();
    bool is_dense(const Tensor& x) const { return x.grad.data != nullptr && x.rows == nullptr && x.size != 0; }
    bool lies_there(const Tensor& x, PyObject* grad) const;
    void check_still_there(const std::vector<py::object>& grads) const;

    Engine& engine_;
    const GroupReader& groups_;
    const WrittenMemory& memory_;
    const Names& names_;
    bool zero_ = false;
    std::string advice_;
    std::vector<py::object> params_, passed_, bound_;
    std::vector<Seen> bound_seen_;
    bool bound_current_ = false;  // the engine's gradients are the bound ones
    std::vector<Range> checked_;  // where gradients were found free of overlap before
};

}  // namespace fusedstep
