#include "arrays.hpp"

#include <algorithm>

namespace fusedstep {
namespace {

const py::detail::PyArray_Proxy* fields(PyObject* array) { return py::detail::array_proxy(array); }

std::string text(py::handle object) { return py::str(object).cast<std::string>(); }

// NumPy gives the dtypes of other packages their numbers at run time: remember bfloat16's once it was seen.
int bfloat16_number = -1;

bool is_bfloat16(py::handle dtype, int number) {
    if (number == bfloat16_number) return true;
    if (number < 256 || text(dtype.attr("name")) != "bfloat16") return false;
    bfloat16_number = number;
    return true;
}

void check_layout(PyObject* object, bool writeable, const std::string& name) {
    const int flags = fields(object)->flags;
    if ((flags & py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_) == 0)
        throw py::value_error(name + ": got an array of shape " + shape_text(object) + " with strides " +
                              text(py::handle(object).attr("strides")) +
                              ", needs a C-contiguous one; numpy.ascontiguousarray makes a copy that is");
    if ((flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) == 0)
        throw py::value_error(name +
                              ": got an array that is not aligned to its dtype, needs an aligned one; "
                              "array.copy() is");
    if (writeable && (flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0)
        throw py::value_error(name + ": got a read-only array, needs a writeable one, since it is updated in place");
}

// What the torch side hands over instead of an array: (address, elements, dtype name). It has checked them itself.
bool from_tuple(PyObject* object, Array& out) {
    if (!PyTuple_Check(object) || PyTuple_GET_SIZE(object) != 3) return false;
    out.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(object, 0));
    out.size = PyLong_AsSize_t(PyTuple_GET_ITEM(object, 1));
    if (PyErr_Occurred()) throw py::error_already_set();
    const std::string dtype = text(PyTuple_GET_ITEM(object, 2));
    for (const Format format : {Format::float32, Format::float64, Format::float16, Format::bfloat16})
        if (dtype == dtype_name(format)) {
            out.format = format;
            return true;
        }
    throw py::type_error("dtype: got '" + dtype + "', needs float32, float64, float16 or bfloat16");
}

}  // namespace

bool is_array(PyObject* object) {
    const bool plain = Py_TYPE(object) == py::detail::npy_api::get().PyArray_Type_;
    return plain || (py::isinstance<py::array>(py::handle(object)) && !PyObject_HasAttrString(object, "mask"));
}

std::size_t item_size(Format format) {
    switch (format) {
        case Format::float64:
            return 8;
        case Format::float32:
            return 4;
        case Format::q8_signed:
        case Format::q8_unsigned:
            return 1;
        default:
            return 2;
    }
}

const char* dtype_name(Format format) {
    switch (format) {
        case Format::float64:
            return "float64";
        case Format::float32:
            return "float32";
        case Format::float16:
        case Format::float16_stochastic:
            return "float16";
        case Format::bfloat16:
        case Format::bfloat16_stochastic:
        case Format::split:
            return "bfloat16";
        default:
            return "uint8";
    }
}

std::string shape_text(PyObject* array) { return text(py::handle(array).attr("shape")); }

std::string kind_text(PyObject* object) {
    if (is_array(object))
        return "an array of " + text(py::handle(object).attr("dtype")) + " and shape " + shape_text(object);
    return text(py::handle(reinterpret_cast<PyObject*>(Py_TYPE(object))).attr("__name__"));
}

std::optional<Format> known_format(PyObject* object) {
    PyObject* descr = fields(object)->descr;
    const auto* dtype = py::detail::array_descriptor1_proxy(descr);
    const char order = dtype->byteorder;
    const bool native = order == '=' || order == '|' || order == (PY_BIG_ENDIAN ? '>' : '<');
    if (native) {
        switch (dtype->type_num) {
            case py::detail::npy_api::NPY_FLOAT_:
                return Format::float32;
            case py::detail::npy_api::NPY_DOUBLE_:
                return Format::float64;
            case 23:
                return Format::float16;  // NPY_HALF
            default:
                break;
        }
        if (is_bfloat16(descr, dtype->type_num)) return Format::bfloat16;
    }
    return std::nullopt;
}

Format format_of(PyObject* object, const std::function<std::string()>& name) {
    if (const std::optional<Format> format = known_format(object)) return *format;
    throw py::type_error(name() + ": got dtype " + text(fields(object)->descr) +
                         ", needs float32, float64, float16 or bfloat16 (ml_dtypes) in this machine's byte order; "
                         "array.astype(numpy.float32) converts");
}

Array as_array(PyObject* object, bool writeable, const std::string& name) {
    Array out;
    if (is_array(object)) {
        out.format = format_of(object, [&name] { return name; });
        check_layout(object, writeable, name);
        out.data = fields(object)->data;
        out.size = static_cast<std::size_t>(py::reinterpret_borrow<py::array>(object).size());
        return out;
    }
    if (from_tuple(object, out)) return out;
    throw py::type_error(name + ": got " + kind_text(object) + ", needs a NumPy array");
}

Array as_plain(PyObject* object, const char* dtype, std::size_t size, const std::string& name) {
    Array out;
    if (PyTuple_Check(object) && PyTuple_GET_SIZE(object) == 3) {
        out.data = PyLong_AsVoidPtr(PyTuple_GET_ITEM(object, 0));
        out.size = PyLong_AsSize_t(PyTuple_GET_ITEM(object, 1));
        if (PyErr_Occurred()) throw py::error_already_set();
    } else {
        if (!is_array(object) || text(py::handle(object).attr("dtype")) != dtype)
            throw py::type_error(name + ": got " + kind_text(object) + ", needs a NumPy array of " + dtype);
        check_layout(object, true, name);
        out.data = fields(object)->data;
        out.size = static_cast<std::size_t>(py::reinterpret_borrow<py::array>(object).size());
    }
    if (out.size != size)
        throw py::value_error(name + ": got " + std::to_string(out.size) + " elements, needs " + std::to_string(size));
    return out;
}

bool unchanged(PyObject* object, const void* data, bool writeable) {
    const auto* array = fields(object);
    const int needed =
        py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | (writeable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
    return array->data == data && (array->flags & needed) == needed;
}

void check_overlap(std::vector<Extent> extents) {
    extents.erase(std::remove_if(extents.begin(), extents.end(), [](const Extent& e) { return e.begin == e.end; }),
                  extents.end());
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < extents.size(); ++i)
        if (extents[i].begin < extents[i - 1].end)
            throw py::value_error(extents[i - 1].name + " and " + extents[i].name +
                                  " overlap in memory; each needs memory of its own, since a step writes in place");
}

}  // namespace fusedstep
