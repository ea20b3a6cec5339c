#include "gradients.hpp"

#include <cstring>
#include <stdexcept>
#include <utility>

namespace fusedstep {

void Gradients::begin(bool zero) {
    rows.begin();
    // Gradients that are written must not overlap each other: check all of them again.
    if (zero && !zero_) checked_.assign(checked_.size(), {});
    zero_ = zero;
}

// Nothing for what no conversion would mend.
std::string Gradients::advice(PyObject* grad) const {
    if (advice_.empty()) return "";
    if (is_array(grad)) {
        const auto array = py::reinterpret_borrow<py::array>(grad);
        const bool numbers = std::strchr("fiu", array.dtype().kind()) != nullptr || known_format(grad);
        const bool form = (py::detail::array_proxy(grad)->flags & kLayout) != kLayout || !known_format(grad);
        return numbers && form ? advice_ : "";
    }
    if (py::isinstance<py::array>(grad)) return "";  // with a mask
    for (const char* protocol : {"__dlpack__", "__array__", "__array_interface__", "__array_struct__"})
        if (PyObject_HasAttrString(grad, protocol)) return advice_;
    return "";
}

void Gradients::set(std::size_t i, PyObject* grad) {
    Tensor& x = engine_.tensors[i];
    x.rows = nullptr;
    if (grad == Py_None) {
        x.grad.data = nullptr;
        return;
    }
    PyObject* param = params_[i].ptr();
    if (rows.set(i, grad, param, zero_)) return;
    const auto name = [&] { return names_.grad(i); };
    Array array;
    const bool usable = is_array(grad) && (py::detail::array_proxy(grad)->flags & kLayout) == kLayout &&
                        (!zero_ || py::reinterpret_borrow<py::array>(grad).writeable());
    // The common case without building a name for messages nobody reads.
    try {
        if (usable) {
            const auto* fields = py::detail::array_proxy(grad);
            array = {fields->data, x.size, format_of(grad, name)};
        } else {
            array = as_array(grad, zero_, name());
        }
    } catch (const py::type_error& error) {
        throw py::type_error(error.what() + advice(grad));
    } catch (const py::value_error& error) {
        throw py::value_error(error.what() + advice(grad));
    }
    if (array.format == Format::float64 && x.compute == kFloat)
        throw py::type_error(name() + ": got dtype float64, needs float32, float16 or bfloat16, no wider than " +
                             names_.param(i) + " is computed in; .astype(numpy.float32) converts it" + advice_);
    const bool fits =
        usable && py::isinstance<py::array>(py::handle(param)) ? same_shape(grad, param) : array.size == x.size;
    if (!fits)
        throw py::value_error(name() + ": got shape " + (usable ? shape_text(grad) : std::to_string(array.size)) +
                              ", needs " + (usable ? shape_text(param) : std::to_string(x.size)) + ", the shape of " +
                              names_.param(i));
    x.grad = {array.size == 0 ? grad : array.data, nullptr, array.format};
}

void Gradients::check_overlap() {
    bool moved = false;
    for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (!is_dense(x)) continue;
        const char* begin = static_cast<const char*>(x.grad.data);
        const std::size_t bytes = x.size * item_size(x.grad.format);
        if (begin == checked_[i].begin && begin + bytes <= checked_[i].end) continue;
        moved = true;
        if (const Extent* written = memory_.overlapping(begin, bytes)) refuse_overlap(names_.grad(i), written->name);
        checked_[i] = {begin, begin + bytes};
    }
    if (!moved || !zero_) return;
    std::vector<Extent> grads;
    for (std::size_t i = 0; i < engine_.tensors.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (!is_dense(x)) continue;
        const char* begin = static_cast<const char*>(x.grad.data);
        grads.push_back({begin, begin + x.size * item_size(x.grad.format), names_.grad(i)});
    }
    fusedstep::check_overlap(std::move(grads));
}

bool Gradients::lies_there(const Tensor& x, PyObject* grad) const {
    return Seen(grad).is(x.grad.data, x.size) && known_format(grad) == x.grad.format &&
           (!zero_ || py::reinterpret_borrow<py::array>(grad).writeable());
}

void Gradients::check_still_there(const std::vector<py::object>& grads) const {
    for (std::size_t i = 0; i < grads.size(); ++i) {
        const Tensor& x = engine_.tensors[i];
        if (is_dense(x) && py::isinstance<py::array>(grads[i]) && !lies_there(x, grads[i].ptr()))
            throw py::value_error(changed_text(names_.grad(i)));
    }
    rows.check_still_there();
}

void Gradients::bind(const Tree& tree, PyObject* grads) {
    tree.flatten(grads, "grads", passed_);
    check_count();
    bound_current_ = false;
    for (std::size_t i = 0; i < passed_.size(); ++i) {
        set(i, passed_[i].ptr());
        if (engine_.tensors[i].rows != nullptr)
            throw py::value_error(names_.grad(i) + ": SparseRows cannot be bound, they are others in every step; " +
                                  "pass the gradients to step()");
    }
    check_overlap();
    bound_ = std::move(passed_);
    passed_.clear();
    note_bound();
}

void Gradients::check_bound() const {
    if (bound_.size() != engine_.tensors.size() || bound_.empty())
        throw py::value_error(
            "grads: got None, needs the gradients; only an optimizer that was made with grads= can "
            "step without them");
}

// The engine's gradients are the bound ones: notes what they look like now.
void Gradients::note_bound() {
    check_still_there(bound_);
    bound_seen_.clear();
    for (const py::object& grad : bound_)
        bound_seen_.emplace_back(py::isinstance<py::array>(grad) ? Seen(grad.ptr()) : Seen());
    bound_current_ = true;
}

void Gradients::use_bound() {
    if (!bound_current_) {
        for (std::size_t i = 0; i < bound_.size(); ++i) set(i, bound_[i].ptr());
        note_bound();
    }
    for (std::size_t i = 0; i < bound_.size(); ++i) {
        PyObject* grad = bound_[i].ptr();
        if (py::isinstance<py::array>(bound_[i]) && engine_.tensors[i].size != 0 && !bound_seen_[i].holds(grad, zero_))
            throw py::value_error(
                names_.grad(i) +
                ": its memory, size or dtype was changed in place, or it was made read-only, since it was bound");
    }
}

void Gradients::check_count() const {
    if (!groups_.needs_states) throw std::runtime_error("grads: this model is stepped by its TorchModel");
    if (passed_.size() != engine_.tensors.size())
        throw py::value_error("grads: got " + std::to_string(passed_.size()) + " gradients, needs " +
                              std::to_string(engine_.tensors.size()));
}

void Gradients::pass(const Tree& tree, PyObject* grads) { tree.flatten(grads, "grads", passed_); }

void Gradients::pass(PyObject* list) {
    let_go(passed_);
    while (py::object grad = sequence_item(list, passed_.size())) passed_.push_back(std::move(grad));
}

void Gradients::use_passed() {
    check_count();
    bound_current_ = false;
    bool plain = true;
    for (std::size_t i = 0; i < passed_.size(); ++i) {
        plain = plain && (passed_[i].is_none() || is_plain_array(passed_[i].ptr()));
        set(i, passed_[i].ptr());
    }
    if (!plain) check_still_there(passed_);
}

void Gradients::release() {
    let_go(passed_);
    rows.release();
}

int Gradients::traverse(visitproc visit, void* arg) const {
    for (const std::vector<py::object>* objects : {&params_, &passed_, &bound_})
        for (const py::object& object : *objects) Py_VISIT(object.ptr());
    return rows.traverse(visit, arg);
}

}  // namespace fusedstep
