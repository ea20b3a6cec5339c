#include "reader.hpp"

#include <tuple>

namespace fusedstep {
namespace {

constexpr std::uint64_t kByFields = std::uint64_t{1} << 63;

template <class Function>
void take(Function& function, py::handle address) {
    function = reinterpret_cast<Function>(address.cast<std::uintptr_t>());
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

TensorReader::TensorReader(py::object exchange, py::object to_dlpack, py::object fields)
    : to_dlpack_(std::move(to_dlpack)) {
    if (!fields.is_none()) {
        const auto [types, offset, functions] = fields.cast<std::tuple<py::tuple, std::size_t, py::tuple>>();
        types_ = types;
        offset_ = offset;
        take(data_ptr_, functions[0]);
        take(dim_, functions[1]);
        take(sizes_, functions[2]);
        take(strides_, functions[3]);
        take(dtype_, functions[4]);
        take(device_type_, functions[5]);
        take(layout_, functions[6]);
        std::int32_t (*number)() = nullptr;
        take(number, functions[7]);
        cpu_ = number();
        take(number, functions[8]);
        strided_ = number();
    }
    if (exchange.is_none()) return;
    const auto* api =
        static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(exchange.ptr(), "dlpack_exchange_api"));
    if (api == nullptr) throw py::error_already_set();
    while (api != nullptr && api->header.major != 1) api = api->header.previous;
    if (api != nullptr) from_object_ = api->tensor_from_object;
}

bool TensorReader::read(PyObject* tensor, dlpack::Tensor& out) {
    if (from_object_ != nullptr) {
        if (from_object_(tensor, &out) == 0) return true;
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
    return true;
}

bool TensorReader::view(PyObject* tensor, View& out) {
    if (const std::optional<bool> known = fields(tensor, out)) return *known;
    dlpack::Tensor seen;
    if (!read(tensor, seen)) return false;
    const std::uint64_t device = static_cast<std::uint32_t>(seen.device.type);
    out = {
        address(seen), seen.ndim, seen.shape, seen.strides,
        device << 32 | std::uint64_t{seen.dtype.lanes} << 16 | std::uint64_t{seen.dtype.bits} << 8 | seen.dtype.code};
    return true;
}

// Only of torch's own types: what is derived from them may hold its elements elsewhere. None for what has to be looked
// at in the other way; a sparse tensor cannot be viewed in either, and the other takes long to say so.
std::optional<bool> TensorReader::fields(PyObject* tensor, View& out) const {
    bool known = false;
    for (const py::handle type : types_)
        known = known || Py_IS_TYPE(tensor, reinterpret_cast<PyTypeObject*>(type.ptr()));
    if (!known) return std::nullopt;
    void* handle = reinterpret_cast<char*>(tensor) + offset_;
    std::int64_t *shape = nullptr, *strides = nullptr;
    std::int32_t dtype = 0, device = 0, layout = 0;
    // Device and layout first: for tensors without memory here the others print what is wrong.
    if (device_type_(handle, &device) != 0 || device != cpu_ || layout_(handle, &layout) != 0) return std::nullopt;
    if (layout != strided_) return false;
    if (data_ptr_(handle, &out.data) != 0 || dim_(handle, &out.ndim) != 0 || sizes_(handle, &shape) != 0 ||
        strides_(handle, &strides) != 0 || dtype_(handle, &dtype) != 0)
        return std::nullopt;
    out.shape = shape;
    out.strides = strides;
    out.kind = kByFields | static_cast<std::uint32_t>(dtype);
    return true;
}

}  // namespace fusedstep
