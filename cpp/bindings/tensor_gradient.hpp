// The gradient of one of torch's parameters: its attribute `grad`, and whether a step can take it as it is.
#pragma once
#include "../engine/engine.hpp"
#include "reader.hpp"

namespace fusedstep {

// A parameter as torch has it.
struct TensorParam {
    py::object param;  // the entry of group["params"]
    py::object local;  // the tensor whose elements are stepped
    py::object inner;  // the attribute that leads from `param` and from its gradient to theirs, or None
    Place place;
    Format format = Format::float32;
    bool complex = false;
};

class TensorGradient {
public:
    // What a gradient is: not there; one that the engine can take; one that needs a copy, or is wrong.
    enum class Found { none, usable, other };

    explicit TensorGradient(const py::object& param);

    // Reads the attribute, or takes the substitute; held until release(). Sets `ran` where Python code may have run.
    Found take(const TensorParam& param, PyObject* substitute, bool& ran);

    // Gives it to the engine, if it lies as its parameter does. `mode`: TensorReader::has_mode().
    Found place(const TensorParam& param, Places& places, Tensor& x, bool mode, bool& ran);

    // Whether it still lies where the engine reads it.
    bool lies_at(Places& places, const void* data) const {
        View view;
        return places.reader.view(grad_.ptr(), view) && view.data == data;
    }

    // The tensor, between take() and release().
    const py::object& tensor() const { return grad_; }

    void release() { grad_ = py::object(); }

    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(grad_.ptr());
        return 0;
    }

private:
    py::object attribute(PyObject* param) const;
    bool fits(const TensorParam& param, Places& places, Format& format) const;

    PyGetSetDef* getter_;  // what the attribute `grad` of the parameter's type calls, if it is C
    py::object grad_;
    // A weak reference to the last gradient of which more was asked than where it lies: another tensor may have its
    // address once it is gone.
    py::object asked_;
    const void* asked_at_ = nullptr;
};

}  // namespace fusedstep
