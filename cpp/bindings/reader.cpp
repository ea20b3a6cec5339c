#include "reader.hpp"

#include <algorithm>

#include "items.hpp"

namespace fusedstep {
namespace {

py::object call(PyObject* object, PyObject* method) {
    const auto result = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(object, method));
    if (!result) throw py::error_already_set();
    return result;
}

std::uintptr_t number(PyObject* object, PyObject* method) { return call(object, method).cast<std::uintptr_t>(); }

bool is_flag_set(PyObject* tensor, PyObject* method) { return call(tensor, method).ptr() == Py_True; }

// The dtype of the real numbers that a tensor holds; null for what no parameter, gradient or state has.
const char* real_dtype(dlpack::DataType dtype) {
    Format format;
    if (to_format(dtype, format)) return dtype_name(format);
    if (dtype.lanes != 1) return nullptr;
    if (dtype.code == dlpack::kUnsigned && dtype.bits == 8) return "uint8";
    if (dtype.code == dlpack::kInt && dtype.bits == 16) return "int16";
    return nullptr;
}

std::size_t real_size(dlpack::DataType dtype) { return dtype.bits / 8u / (is_complex(dtype) ? 2u : 1u); }

// Whether the elements fill one piece of memory in some order of the dimensions.
bool is_dense(const dlpack::Tensor& tensor) {
    std::vector<std::pair<std::int64_t, std::int64_t>> dims;
    for (std::int32_t d = 0; d < tensor.ndim; ++d)
        if (tensor.shape[d] != 1) dims.emplace_back(tensor.strides[d], tensor.shape[d]);
    std::sort(dims.begin(), dims.end());
    std::int64_t expected = 1;
    for (const auto& [stride, size] : dims) {
        if (stride != expected) return false;
        expected *= size;
    }
    return true;
}

}  // namespace

bool is_complex(dlpack::DataType dtype) { return dtype.code == dlpack::kComplex; }

bool to_format(dlpack::DataType dtype, Format& out) {
    if (dtype.lanes != 1) return false;
    const int bits = is_complex(dtype) ? dtype.bits / 2 : dtype.bits;
    if (dtype.code == dlpack::kBfloat && bits == 16) return out = Format::bfloat16, true;
    if (dtype.code != dlpack::kFloat && !is_complex(dtype)) return false;
    if (bits == 32) return out = Format::float32, true;
    if (bits == 64) return out = Format::float64, true;
    if (bits == 16 && !is_complex(dtype)) return out = Format::float16, true;
    return false;
}

void* address(const dlpack::Tensor& tensor) {
    return tensor.data == nullptr ? nullptr : static_cast<char*>(tensor.data) + tensor.byte_offset;
}

bool in_storage(PyObject* tensor, const void* data, std::size_t bytes) {
    static PyObject* const storage_of = interned("untyped_storage").release().ptr();
    static PyObject* const size_of = interned("nbytes").release().ptr();
    static PyObject* const address_of = interned("data_ptr").release().ptr();
    try {
        const py::object storage = call(tensor, storage_of);
        const std::uintptr_t size = number(storage.ptr(), size_of), begin = number(storage.ptr(), address_of);
        const auto from = reinterpret_cast<std::uintptr_t>(data);
        return begin != 0 && from >= begin && from - begin <= size && bytes <= size - (from - begin);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_RuntimeError)) throw;
        return false;  // its elements are in tensors that it wraps
    }
}

bool holds_others(PyObject* tensor) {
    static PyObject* const method = interned("is_conj").release().ptr();
    return is_flag_set(tensor, method) || is_negative(tensor);
}

bool is_negative(PyObject* tensor) {
    static PyObject* const method = interned("is_neg").release().ptr();
    return is_flag_set(tensor, method);
}

TensorReader::TensorReader(py::object exchange, py::object to_dlpack, py::object type, py::object has_mode,
                           py::object quiet)
    : to_dlpack_(std::move(to_dlpack)),
      type_(std::move(type)),
      has_mode_(std::move(has_mode)),
      quiet_(std::move(quiet)) {
    if (exchange.is_none()) return;
    const auto* api =
        static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw py::error_already_set();
    while (api != nullptr && api->header.major != 1) api = api->header.previous;
    if (api != nullptr) from_object_ = api->tensor_from_object;
}

bool TensorReader::read(PyObject* tensor, dlpack::Tensor& out) {
    if (from_object_ != nullptr) {
        if (from_object_(tensor, &out) == 0) return out.strides != nullptr || out.ndim == 0;
        PyErr_Clear();
        return false;
    }
    capsule_ = py::reinterpret_steal<py::object>(PyObject_CallOneArg(to_dlpack_.ptr(), tensor));
    void* managed = capsule_ ? PyCapsule_GetPointer(capsule_.ptr(), "dltensor") : nullptr;
    if (managed == nullptr) {
        PyErr_Clear();
        return false;
    }
    out = static_cast<dlpack::ManagedTensor*>(managed)->tensor;
    return out.strides != nullptr || out.ndim == 0;
}

bool TensorReader::view(PyObject* tensor, View& out) {
    dlpack::Tensor seen;
    if (!read(tensor, seen)) return false;
    const std::uint64_t device = static_cast<std::uint32_t>(seen.device.type);
    out = {
        address(seen), seen.ndim, seen.shape, seen.strides,
        device << 32 | std::uint64_t{seen.dtype.lanes} << 16 | std::uint64_t{seen.dtype.bits} << 8 | seen.dtype.code};
    return true;
}

Memory TensorReader::memory(py::object tensor, const std::string& name) {
    dlpack::Tensor seen;
    if (!read(tensor.ptr(), seen) || seen.device.type != dlpack::kCpu)
        throw py::type_error(name + ": got " + kind_text(tensor.ptr()) + ", needs a dense tensor on the CPU");
    const char* dtype = real_dtype(seen.dtype);
    if (dtype == nullptr)
        throw py::type_error(name + ": got a tensor of " + py::str(tensor.attr("dtype")).cast<std::string>() +
                             ", which no parameter, gradient or state has");
    std::size_t elements = is_complex(seen.dtype) ? 2 : 1;
    for (std::int32_t d = 0; d < seen.ndim; ++d) elements *= static_cast<std::size_t>(seen.shape[d]);
    void* data = address(seen);
    const std::size_t width = real_size(seen.dtype);
    if (elements == 0) return {nullptr, 0, dtype, std::move(tensor)};
    if (!is_dense(seen)) throw py::value_error(name + ": has gaps between its elements, needs a dense tensor");
    if (reinterpret_cast<std::uintptr_t>(data) % width != 0)
        throw py::value_error(name + ": is not aligned to its dtype, needs an aligned tensor; tensor.clone() is");
    if (is_complex(seen.dtype) ? holds_others(tensor.ptr()) : is_negative(tensor.ptr()))
        throw py::value_error(name +
                              ": holds the conjugates or negatives of what is in its memory, needs a tensor of "
                              "its own; tensor.resolve_conj().resolve_neg() is");
    if (!in_storage(tensor.ptr(), data, elements * width))
        throw py::value_error(name + ": got memory that was freed or resized, needs the bytes of all its elements");
    return {data, elements, dtype, std::move(tensor)};
}

}  // namespace fusedstep
