#include "parameter.hpp"

#include <algorithm>

#include "items.hpp"

namespace fusedstep {
namespace {

bool is_pair(PyObject* object) { return PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 2; }

Format compute_format(const Tensor& x) { return x.compute == kDouble ? Format::float64 : Format::float32; }

// The arrays that go with one parameter.
struct Beside {
    PyObject* param;
    const Tensor& x;
    WrittenMemory& memory;

    // They have its shape.
    void add(PyObject* object, const Array& array, const std::string& name) const {
        if (array.size != x.size)
            throw py::value_error(name + ": got " + std::to_string(array.size) + " elements, needs " +
                                  std::to_string(x.size) + " as its parameter has");
        check_shape(object, name);
        memory.add(py::reinterpret_borrow<py::object>(object), array, name);
    }

    void check_shape(PyObject* object, const std::string& name) const {
        if (!py::isinstance<py::array>(py::handle(object)) || !py::isinstance<py::array>(py::handle(param)) ||
            same_shape(object, param))
            return;
        throw py::value_error(name + ": got shape " + shape_text(object) + ", needs " + shape_text(param) +
                              ", the shape of its parameter");
    }

    Stream state(PyObject* object, const State& state, const std::string& name) const {
        if (is_pair(object)) {
            if (state.kind == kExact)
                throw py::value_error(name + ": got 8-bit codes, needs an array of the parameter's compute type");
            const auto codes = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, 0));
            const auto scales = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(object, 1));
            Array values = as_plain(codes.ptr(), "uint8", x.size, name);
            const Array factors =
                as_plain(scales.ptr(), "float32", (x.size + kQuantBlock - 1) / kQuantBlock, name + " scales");
            if (is_array(scales.ptr()) && py::reinterpret_borrow<py::array>(scales).ndim() != 1)
                throw py::value_error(name + " scales: got shape " + shape_text(scales.ptr()) + ", needs (" +
                                      std::to_string(factors.size) + ",)");
            values.format = state.kind == kSigned ? Format::q8_signed : Format::q8_unsigned;
            add(codes.ptr(), values, name);
            memory.add(scales, factors, name + " scales");
            return {values.data, factors.data, values.format};
        }
        const Array array = as_array(object, true, name);
        const Format native = compute_format(x);
        const bool fits = array.format == native || (array.format == Format::bfloat16 && state.kind != kExact);
        if (!fits)
            throw py::type_error(name + ": got dtype " + dtype_name(array.format) + ", needs " + dtype_name(native) +
                                 (state.kind == kExact ? "" : " or bfloat16"));
        add(object, array, name);
        return {array.data, nullptr, array.format};
    }

    // One of the vectors of a second moment in factors, and its size.
    Stream factor(PyObject* object, const std::string& name, std::size_t& size) const {
        const Array array = as_array(object, true, name);
        if (array.format != compute_format(x))
            throw py::type_error(name + ": got dtype " + dtype_name(array.format) + ", needs " +
                                 dtype_name(compute_format(x)));
        memory.add(py::reinterpret_borrow<py::object>(object), array, name);
        size = array.size;
        return {array.data, nullptr, array.format};
    }

    // The parameter with its master.
    Stream with_master(PyObject* object, const std::string& name) const {
        const Format narrow = x.param.format;
        if (has_dtype(object, "int16") && narrow == Format::bfloat16) {
            const Array low = as_plain(object, "int16", x.size, name);
            add(object, {low.data, low.size, Format::bfloat16}, name);
            return {x.param.data, low.data, Format::split};
        }
        const Array array = as_array(object, true, name);
        if (array.format != Format::float32 || item_size(narrow) != 2 || array.size != x.size)
            throw py::type_error(name + ": got " + std::to_string(array.size) + " elements of " +
                                 dtype_name(array.format) + " for " + std::to_string(x.size) + " of " +
                                 dtype_name(narrow) + ", needs as many float32 for float16 or bfloat16");
        add(object, array, name);
        return {x.param.data, array.data, narrow == Format::float16 ? Format::float16_master : Format::bfloat16_master};
    }

    void* average(PyObject* object, const std::string& name) const {
        const Array array = as_array(object, true, name);
        if (array.format != compute_format(x))
            throw py::type_error(name + ": got dtype " + dtype_name(array.format) + ", needs " +
                                 dtype_name(compute_format(x)));
        add(object, array, name);
        return array.data;
    }
};

// The matrices that a tensor of this size is, by the numbers of all their rows and columns; the caller has checked
// shapes. Without columns, one matrix.
Factors factors_of(const FactorStates& states, std::size_t size, const std::size_t (&sizes)[2],
                   const std::string& name) {
    Factors f{states};
    if (states.columns < 0 && size != 0) {
        f.batches = 1;
        f.rows = sizes[0];
        f.columns = f.rows == 0 ? 0 : size / f.rows;
        if (f.rows * f.columns != size)
            throw py::value_error(name + ": got second moments of " + std::to_string(f.rows) +
                                  " blocks, needs a divisor of its " + std::to_string(size) + " elements");
        return f;
    }
    if (size == 0 || sizes[0] == 0 || sizes[1] == 0) return f;
    f.columns = size / sizes[0];
    f.rows = size / sizes[1];
    f.batches = f.rows == 0 ? 0 : sizes[0] / f.rows;
    if (f.batches * f.rows != sizes[0] || f.batches * f.columns != sizes[1] || f.batches * f.rows * f.columns != size)
        throw py::value_error(name + ": got " + std::to_string(sizes[0]) + " row and " + std::to_string(sizes[1]) +
                              " column means, needs those of matrices of " + std::to_string(size) + " elements");
    return f;
}

}  // namespace

bool same_shape(PyObject* a, PyObject* b) {
    const auto* x = py::detail::array_proxy(a);
    const auto* y = py::detail::array_proxy(b);
    return x->nd == y->nd && std::equal(x->dimensions, x->dimensions + x->nd, y->dimensions);
}

Tensor tensor_of(const Parameter& given, const RuleEntry& rule, const Names& names, WrittenMemory& memory) {
    const std::string name = names.param(given.path);
    const auto beside = [&](const char* what) { return names.beside(given.path, what); };
    const Array array = as_array(given.param.ptr(), true, name);
    Tensor x;
    x.size = array.size;
    x.compute = array.format == Format::float64 ? kDouble : kFloat;
    x.param = {array.data, nullptr, array.format};
    memory.add(given.param, array, name, rule.product || rule.factor_states.rows >= 0);
    const Beside arrays{given.param.ptr(), x, memory};
    std::size_t sizes[2] = {};  // of a second moment in factors
    if (!given.master.is_none()) x.param = arrays.with_master(given.master.ptr(), beside("master"));
    if (given.stochastic) {
        if (x.param.format == Format::bfloat16) x.param.format = Format::bfloat16_stochastic;
        if (x.param.format == Format::float16) x.param.format = Format::float16_stochastic;
    }
    const FactorStates& factors = rule.factor_states;
    for (int s = 0; s < rule.n_states; ++s) {
        const py::object state = sequence_item(given.states.ptr(), static_cast<std::size_t>(s));
        if (!state) throw py::value_error(changed_text("states", "a sequence"));
        if (state.is_none()) continue;
        x.states[static_cast<std::size_t>(s)] =
            s == factors.rows || s == factors.columns
                ? arrays.factor(state.ptr(), beside(rule.states[s].name), sizes[s == factors.rows ? 0 : 1])
                : arrays.state(state.ptr(), rule.states[s], beside(rule.states[s].name));
    }
    if (factors.rows >= 0 && x.state(factors.rows).data != nullptr)
        x.factors = factors_of(factors, x.size, sizes, name);
    if (rule.product)
        x.direction = arrays.state(given.direction.ptr(), State{"direction", kSigned}, beside("direction"));
    if (!given.ema.is_none()) x.ema = arrays.average(given.ema.ptr(), beside("ema"));
    return x;
}

}  // namespace fusedstep
