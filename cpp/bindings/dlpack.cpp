#include "dlpack.hpp"

namespace fusedstep {

TensorReader::TensorReader(py::object exchange, py::object to_dlpack) : to_dlpack_(std::move(to_dlpack)) {
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

}  // namespace fusedstep
