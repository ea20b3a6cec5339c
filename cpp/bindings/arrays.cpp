#include "arrays.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <string_view>

namespace fusedstep {
namespace {

const py::detail::PyArray_Proxy* fields(PyObject* array) { return py::detail::array_proxy(array); }

std::string text(py::handle object) { return py::str(object).cast<std::string>(); }

// NumPy gives the dtypes of other packages their numbers at run time: remember bfloat16's once it was seen. The name is
// that of the type of its elements, as dtype.name runs Python code.
std::atomic<int> bfloat16_number{-1};

bool is_bfloat16(const py::detail::PyArrayDescr1_Proxy* dtype) {
    if (dtype->type_num == bfloat16_number) return true;
    if (dtype->type_num < 256 || !PyType_Check(dtype->typeobj)) return false;
    const std::string_view name = reinterpret_cast<PyTypeObject*>(dtype->typeobj)->tp_name;
    if (name.substr(name.rfind('.') + 1) != "bfloat16") return false;
    bfloat16_number = dtype->type_num;
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

std::size_t count(PyObject* array) {
    const auto* a = fields(array);
    std::size_t size = 1;
    for (int k = 0; k < a->nd; ++k) size *= static_cast<std::size_t>(a->dimensions[k]);
    return size;
}

// Null for an object that is none.
const Memory* as_memory(PyObject* object) {
    return py::isinstance<Memory>(py::handle(object)) ? py::handle(object).cast<const Memory*>() : nullptr;
}

}  // namespace

bool is_plain_array(PyObject* object) { return Py_TYPE(object) == py::detail::npy_api::get().PyArray_Type_; }

bool is_array(PyObject* object) {
    return is_plain_array(object) ||
           (py::isinstance<py::array>(py::handle(object)) && !PyObject_HasAttrString(object, "mask"));
}

bool has_dtype(PyObject* object, const char* dtype) {
    if (const Memory* memory = as_memory(object)) return std::strcmp(memory->dtype, dtype) == 0;
    return is_array(object) && text(py::handle(object).attr("dtype")) == dtype;
}

std::size_t item_size(Format format) { return kFormatSizes[static_cast<int>(format)].item; }

const char* dtype_name(Format format) {
    switch (format) {
        case Format::float64:
            return "float64";
        case Format::float32:
            return "float32";
        case Format::float16:
        case Format::float16_stochastic:
        case Format::float16_master:
            return "float16";
        case Format::bfloat16:
        case Format::bfloat16_stochastic:
        case Format::split:
        case Format::bfloat16_master:
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

std::string changed_text(const std::string& name, const char* what) {
    return name + ": got " + what + " that was changed in place while it was checked, needs one that stays the same";
}

std::optional<Format> known_format(PyObject* object) {
    const auto* dtype = py::detail::array_descriptor1_proxy(fields(object)->descr);
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
        if (is_bfloat16(dtype)) return Format::bfloat16;
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
        out.size = count(object);
        return out;
    }
    if (const Memory* memory = as_memory(object)) {
        out.data = memory->data;
        out.size = memory->size;
        for (const Format format : {Format::float32, Format::float64, Format::float16, Format::bfloat16}) {
            out.format = format;
            if (std::strcmp(memory->dtype, dtype_name(format)) == 0) return out;
        }
        throw py::type_error(name + ": got a tensor of " + memory->dtype +
                             ", needs float32, float64, float16 or bfloat16");
    }
    throw py::type_error(name + ": got " + kind_text(object) + ", needs a NumPy array");
}

Array as_plain(PyObject* object, const char* dtype, std::size_t size, const std::string& name) {
    Array out;
    if (const Memory* memory = as_memory(object)) {
        if (std::strcmp(memory->dtype, dtype) != 0)
            throw py::type_error(name + ": got a tensor of " + memory->dtype + ", needs " + dtype);
        out.data = memory->data;
        out.size = memory->size;
    } else {
        if (!has_dtype(object, dtype))
            throw py::type_error(name + ": got " + kind_text(object) + ", needs a NumPy array of " + dtype);
        check_layout(object, true, name);
        out.data = fields(object)->data;
        out.size = count(object);
    }
    if (out.size != size)
        throw py::value_error(name + ": got " + std::to_string(out.size) + " elements, needs " + std::to_string(size));
    return out;
}

Seen::Seen(PyObject* array)
    : data_(fields(array)->data),
      size_(count(array)),
      dtype_(py::detail::array_descriptor1_proxy(fields(array)->descr)->type_num),
      order_(py::detail::array_descriptor1_proxy(fields(array)->descr)->byteorder) {}

bool Seen::holds(PyObject* object, bool writeable) const {
    const auto* array = fields(object);
    const auto* dtype = py::detail::array_descriptor1_proxy(array->descr);
    const int needed =
        py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | (writeable ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
    return array->data == data_ && (array->flags & needed) == needed && dtype->type_num == dtype_ &&
           dtype->byteorder == order_ && count(object) == size_;
}

void refuse_overlap(const std::string& name, const std::string& other) {
    throw py::value_error(name + ": got memory that overlaps " + other + ", needs memory of its own");
}

void check_overlap(std::vector<Extent> extents) {
    extents.erase(std::remove_if(extents.begin(), extents.end(), [](const Extent& e) { return e.begin == e.end; }),
                  extents.end());
    std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < extents.size(); ++i)
        if (extents[i].begin < extents[i - 1].end) refuse_overlap(extents[i - 1].name, extents[i].name);
}

}  // namespace fusedstep
