// Row gradients: checked here. Unusual ones are checked by Python, which has the messages.
#include <algorithm>
#include <cstring>

#include "model.hpp"

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

void Model::take_rows(py::object check, py::object type, py::object without) {
    const Claim::Guard claimed(*claim_, "params", false);
    check_rows_ = std::move(check);
    rows_type_ = std::move(type);
    rows_without_.clear();
    rows_possible_ = !without.is_none();
    if (!rows_possible_) return;
    const RuleEntry& rule = active_rules()[rule_];
    for (const py::handle name : without)
        for (int h = 0; h < rule.n_hypers; ++h)
            if (name.cast<std::string>() == rule.hypers[h]) rows_without_.push_back(static_cast<std::size_t>(h));
}

// Whether a parameter, as it is stored and with its group's options, may be stepped by rows.
bool Model::has_rows(std::size_t i) const {
    const Tensor& x = engine_.tensors[i];
    const auto group = static_cast<std::size_t>(x.group);
    if (!rows_possible_ || x.ema != nullptr || groups_[group].averaged) return false;
    if (is_stochastic(x.param.format)) return false;
    const py::object rounding = dict_item(groups_[group].dict.ptr(), py::str("rounding").ptr());
    if (!rounding || !PyUnicode_Check(rounding.ptr()) ||
        PyUnicode_CompareWithASCIIString(rounding.ptr(), "nearest") != 0)
        return false;
    for (const std::size_t h : rows_without_)
        if (engine_.groups[group].hypers[h] != 0) return false;
    return std::none_of(x.states.begin(), x.states.end(), [](const Stream& state) {
        return state.format == Format::q8_signed || state.format == Format::q8_unsigned;
    });
}

// Takes the parts of a gradient, if they are arrays that fit the parameter.
bool Model::take_parts(std::size_t i, RowGradient& taken, py::object indices, py::object values) const {
    PyObject* param = params_[i].ptr();
    const Tensor& x = engine_.tensors[i];
    taken.index_size = index_size(indices.ptr());
    if (taken.index_size == 0 || !is_array(param) || !is_array(values.ptr()) || !has_layout(values.ptr())) return false;
    if (now_.zero_grads && !py::reinterpret_borrow<py::array>(values).writeable()) return false;
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

// What a step writes of the memory in which a gradient lies; null: nothing.
const Extent* Model::written_within(const RowGradient& taken) const {
    const auto within = [&](const void* data, std::size_t bytes) {
        const char* begin = static_cast<const char*>(data);
        const auto after = std::upper_bound(extents_.begin(), extents_.end(), begin,
                                            [](const char* value, const Extent& e) { return value < e.end; });
        return after != extents_.end() && after->begin < begin + bytes ? &*after : nullptr;
    };
    const Extent* found = within(taken.given.data, taken.given.size * item_size(taken.given.format));
    return found != nullptr ? found : within(taken.numbers, taken.count * taken.index_size);
}

// A gradient of rows, if it is one. Repeated rows are added up after all gradients were checked: sum_rows().
bool Model::set_rows(std::size_t i, PyObject* grad) {
    if (check_rows_.is_none() || py::isinstance<py::array>(py::handle(grad)) ||
        py::isinstance<Memory>(py::handle(grad)))
        return false;
    if (rows_used_ == rows_.size()) rows_.emplace_back();
    RowGradient& taken = rows_[rows_used_];
    const py::handle rows(grad);
    const bool plain = reinterpret_cast<PyObject*>(Py_TYPE(grad)) == rows_type_.ptr() && has_rows(i) &&
                       take_parts(i, taken, rows.attr("indices"), rows.attr("values")) &&
                       written_within(taken) == nullptr;
    if (!plain) {
        const py::object checked = check_rows_(i, rows);
        if (checked.is_none()) return false;
        const auto parts = py::reinterpret_borrow<py::tuple>(checked);
        if (!take_parts(i, taken, parts[0], parts[1]))
            throw py::value_error(grad_name(i) + ": its arrays were changed while they were looked at");
        if (const Extent* written = written_within(taken))
            throw py::value_error(grad_name(i) + " and " + written->name +
                                  " overlap in memory; a gradient needs memory of its own");
    }
    Tensor& x = engine_.tensors[i];
    x.row_size = taken.row_size;
    x.rows = taken.sums.rows();
    x.grad = {const_cast<void*>(taken.sums.sums()), nullptr, x.compute == kDouble ? Format::float64 : Format::float32};
    ++rows_used_;
    return true;
}

// Adds up what belongs to the same row; the engine steps those that occur.
void Model::sum_rows() {
    for (std::size_t k = 0; k < rows_used_; ++k) {
        RowGradient& taken = rows_[k];
        Tensor& x = engine_.tensors[taken.tensor];
        taken.sums.add(taken.given.data, taken.given.format, taken.row_size, x.compute);
        x.rows = taken.sums.rows();
        x.row_count = taken.sums.count();
        // The engine reads them, and with zero_grads sets them to zero, as the given ones are then.
        x.grad.data = const_cast<void*>(taken.sums.sums());
    }
}

void Model::zero_rows() {
    for (std::size_t k = 0; k < rows_used_; ++k) {
        const Array& given = rows_[k].given;
        if (given.size != 0) std::memset(given.data, 0, given.size * item_size(given.format));
    }
}

}  // namespace fusedstep
