#include "tensor_gradient.hpp"

#include "items.hpp"

namespace fusedstep {
namespace {

// The C function behind an attribute of a type, null when the attribute is anything else.
PyGetSetDef* getter(PyObject* object, PyObject* name) {
    const auto found =
        py::reinterpret_steal<py::object>(PyObject_GetAttr(reinterpret_cast<PyObject*>(Py_TYPE(object)), name));
    if (!found) throw py::error_already_set();
    if (!Py_IS_TYPE(found.ptr(), &PyGetSetDescr_Type)) return nullptr;
    return reinterpret_cast<PyGetSetDescrObject*>(found.ptr())->d_getset;
}

PyObject* grad_name() {
    static PyObject* const name = interned("grad").release().ptr();
    return name;
}

}  // namespace

TensorGradient::TensorGradient(const py::object& param) : getter_(getter(param.ptr(), grad_name())) {}

py::object TensorGradient::attribute(PyObject* param) const {
    if (getter_ == nullptr) return attribute_of(param, grad_name());
    PyObject* found = getter_->get(param, getter_->closure);
    if (found == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(found);
}

TensorGradient::Found TensorGradient::take(const TensorParam& param, PyObject* substitute, bool& ran) {
    ran = ran || getter_ == nullptr;
    grad_ = substitute != nullptr ? py::reinterpret_borrow<py::object>(substitute) : attribute(param.param.ptr());
    if (grad_.is_none()) return Found::none;
    if (!param.inner.is_none() && substitute == nullptr) {
        // A partial sum has the shape of the whole: how a distributed gradient is laid out must agree as well.
        static const py::str* placements = new py::str(interned("placements"));
        if (!py::hasattr(grad_, *placements) ||
            !attribute_of(grad_.ptr(), placements->ptr()).equal(attribute_of(param.param.ptr(), placements->ptr())))
            return Found::other;
        PyObject* inner = PyObject_GetAttr(grad_.ptr(), param.inner.ptr());
        if (inner == nullptr) {
            PyErr_Clear();
            return Found::other;
        }
        grad_ = py::reinterpret_steal<py::object>(inner);
    }
    if (param.complex && holds_others(grad_.ptr())) return Found::other;
    return Found::usable;
}

// Whether a gradient of another dtype than its parameter's can be taken, and in which format it is.
bool TensorGradient::fits(const TensorParam& param, Places& places, Format& format) const {
    dlpack::Tensor seen;
    return places.reader.read(grad_.ptr(), seen) && seen.device.type == dlpack::kCpu && to_format(seen.dtype, format) &&
           is_complex(seen.dtype) == param.complex && (format != Format::float64 || param.format == Format::float64);
}

TensorGradient::Found TensorGradient::place(const TensorParam& param, Places& places, Tensor& x, bool mode, bool& ran) {
    View view;
    if (!places.reader.view(grad_.ptr(), view) || !places.same_layout(param.place, view)) return Found::other;
    Format format = param.format;
    if (view.kind != param.place.kind && !fits(param, places, format)) return Found::other;
    // A call into the library costs as much as all the rest: only for another gradient, or one that lies elsewhere, as
    // storage that is resized does.
    if (!refers_to(asked_, grad_.ptr()) || asked_at_ != view.data) {
        ran = ran || mode || !places.reader.is_plain(grad_.ptr());
        asked_ = py::object();
        if (is_negative(grad_.ptr())) return Found::other;
        if (x.size != 0 && !in_storage(grad_.ptr(), view.data, x.size * item_size(format))) return Found::other;
        asked_ = reference_to(grad_.ptr());
        asked_at_ = view.data;
    }
    x.grad = {x.size == 0 ? static_cast<void*>(grad_.ptr()) : view.data, nullptr, format};
    return Found::usable;
}

}  // namespace fusedstep
