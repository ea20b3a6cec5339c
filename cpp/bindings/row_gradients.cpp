#include "row_gradients.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace fusedstep {
namespace {

struct Shape {
    const Py_ssize_t* dimensions;
    int axes;
};

Shape shape_of(PyObject* array) {
    const auto* fields = py::detail::array_proxy(array);
    return {fields->dimensions, fields->nd};
}

bool has_layout(PyObject* array) { return (py::detail::array_proxy(array)->flags & kLayout) == kLayout; }

// Bytes of one element of an array of row numbers: 4 or 8, or 0 when it is none.
std::size_t index_size(PyObject* object) {
    if (!is_array(object) || shape_of(object).axes != 1 || !has_layout(object)) return 0;
    const auto dtype = py::reinterpret_borrow<py::array>(object).dtype();
    const char order = dtype.byteorder();
    const bool native = order == '=' || order == (PY_BIG_ENDIAN ? '>' : '<');
    const bool fits = dtype.itemsize() == sizeof(std::int32_t) || dtype.itemsize() == sizeof(std::int64_t);
    return native && fits && dtype.kind() == 'i' ? static_cast<std::size_t>(dtype.itemsize()) : 0;
}

void* data_of(PyObject* array) { return py::detail::array_proxy(array)->data; }

bool is_stochastic(Format format) {
    return format == Format::float16_stochastic || format == Format::bfloat16_stochastic;
}

}  // namespace

void RowGradients::set_check(py::object check, py::object type, py::object without) {
    check_ = std::move(check);
    type_ = std::move(type);
    without_.clear();
    possible_ = !without.is_none();
    if (!possible_) return;
    const RuleEntry& rule = groups_.rule();
    for (const py::handle name : without)
        for (int h = 0; h < rule.n_hypers; ++h)
            if (name.cast<std::string>() == rule.hypers[h]) without_.push_back(static_cast<std::size_t>(h));
}

// Whether a parameter, as it is stored and with its group's options, may be stepped by rows.
bool RowGradients::has_rows(std::size_t i) const {
    const Tensor& x = engine_.tensors[i];
    const auto group = static_cast<std::size_t>(x.group);
    if (!possible_ || x.ema != nullptr || groups_.averaged(group)) return false;
    if (is_stochastic(x.param.format)) return false;
    const py::object rounding = dict_item(groups_.dict(group), py::str("rounding").ptr());
    if (!rounding || !PyUnicode_Check(rounding.ptr()) ||
        PyUnicode_CompareWithASCIIString(rounding.ptr(), "nearest") != 0)
        return false;
    for (const std::size_t h : without_)
        if (engine_.groups[group].hypers[h] != 0) return false;
    return std::none_of(x.states.begin(), x.states.end(), [](const Stream& state) {
        return state.format == Format::q8_signed || state.format == Format::q8_unsigned;
    });
}

// Reads the parts of a gradient, if they are arrays that fit the parameter.
bool RowGradients::read_parts(std::size_t i, Row& taken, PyObject* param, bool zero, py::object indices,
                              py::object values) const {
    const Tensor& x = engine_.tensors[i];
    taken.index_size = index_size(indices.ptr());
    if (taken.index_size == 0 || !is_array(param) || !is_array(values.ptr()) || !has_layout(values.ptr())) return false;
    if (zero && !py::reinterpret_borrow<py::array>(values).writeable()) return false;
    const Shape whole = shape_of(param), given = shape_of(values.ptr());
    const Py_ssize_t count = shape_of(indices.ptr()).dimensions[0];
    if (whole.axes == 0 || given.axes != whole.axes || given.dimensions[0] != count ||
        !std::equal(whole.dimensions + 1, whole.dimensions + whole.axes, given.dimensions + 1))
        return false;
    const std::optional<Format> format = known_format(values.ptr());
    if (!format || (*format == Format::float64 && x.compute == kFloat)) return false;

    taken.tensor = i;
    taken.count = static_cast<std::size_t>(count);
    taken.numbers = data_of(indices.ptr());
    taken.row_size = 1;
    for (int k = 1; k < whole.axes; ++k) taken.row_size *= static_cast<std::size_t>(whole.dimensions[k]);
    if (static_cast<std::size_t>(whole.dimensions[0]) * taken.row_size != x.size) return false;  // changed in place
    taken.given = {data_of(values.ptr()), taken.count * taken.row_size, *format};
    taken.indices = std::move(indices);
    taken.values = std::move(values);
    const auto limit = static_cast<std::size_t>(whole.dimensions[0]);
    return taken.index_size == sizeof(std::int32_t)
               ? taken.sums.read(static_cast<const std::int32_t*>(taken.numbers), taken.count, limit)
               : taken.sums.read(static_cast<const std::int64_t*>(taken.numbers), taken.count, limit);
}

const Extent* RowGradients::overlapping(const Row& taken) const {
    const Extent* found = memory_.overlapping(taken.given.data, taken.given.size * item_size(taken.given.format));
    return found != nullptr ? found : memory_.overlapping(taken.numbers, taken.count * taken.index_size);
}

bool RowGradients::set(std::size_t i, PyObject* grad, PyObject* param, bool zero) {
    if (!check_ || py::isinstance<py::array>(py::handle(grad)) || py::isinstance<Memory>(py::handle(grad)))
        return false;
    if (used_ == rows_.size()) rows_.emplace_back();
    Row& taken = rows_[used_];
    const py::handle rows(grad);
    const bool plain = reinterpret_cast<PyObject*>(Py_TYPE(grad)) == type_.ptr() && has_rows(i) &&
                       read_parts(i, taken, param, zero, rows.attr("indices"), rows.attr("values")) &&
                       overlapping(taken) == nullptr;
    if (!plain) {
        const py::object checked = check_(i, rows);
        if (checked.is_none()) return false;
        const auto parts = py::reinterpret_borrow<py::tuple>(checked);
        if (!read_parts(i, taken, param, zero, parts[0], parts[1]))
            throw py::value_error(changed_text(names_.grad(i), "arrays"));
        if (const Extent* written = overlapping(taken)) refuse_overlap(names_.grad(i), written->name);
    }
    Tensor& x = engine_.tensors[i];
    x.row_size = taken.row_size;
    x.rows = taken.sums.rows();
    x.grad = {const_cast<void*>(taken.sums.sums()), nullptr, x.compute == kDouble ? Format::float64 : Format::float32};
    ++used_;
    return true;
}

void RowGradients::check_still_there() const {
    for (std::size_t k = 0; k < used_; ++k) {
        const Row& taken = rows_[k];
        if (!Seen(taken.indices.ptr()).is(taken.numbers, taken.count) ||
            !Seen(taken.values.ptr()).is(taken.given.data, taken.given.size))
            throw py::value_error(changed_text(names_.grad(taken.tensor)));
    }
}

void RowGradients::add_up() {
    for (std::size_t k = 0; k < used_; ++k) {
        Row& taken = rows_[k];
        Tensor& x = engine_.tensors[taken.tensor];
        taken.sums.add(taken.given.data, taken.given.format, taken.row_size, x.compute);
        x.rows = taken.sums.rows();
        x.row_count = taken.sums.count();
        // The engine reads them, and with zero_grads sets them to zero, as the given ones are then.
        x.grad.data = const_cast<void*>(taken.sums.sums());
    }
}

void RowGradients::zero() {
    for (std::size_t k = 0; k < used_; ++k) {
        const Array& given = rows_[k].given;
        if (given.size != 0) std::memset(given.data, 0, given.size * item_size(given.format));
    }
}

void RowGradients::release() {
    for (Row& taken : rows_) taken.indices = taken.values = py::object();
}

int RowGradients::traverse(visitproc visit, void* arg) const {
    Py_VISIT(check_.ptr());
    Py_VISIT(type_.ptr());
    for (const Row& taken : rows_) {
        Py_VISIT(taken.indices.ptr());
        Py_VISIT(taken.values.ptr());
    }
    return 0;
}

}  // namespace fusedstep
