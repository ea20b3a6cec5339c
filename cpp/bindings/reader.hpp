// Where another library's tensors lie and what they hold.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>

#include "../types.hpp"
#include "dlpack.hpp"

namespace fusedstep {

namespace py = pybind11;

// What must stay as it is while a tensor is taken for the one it was. `kind` is alike for tensors of one dtype, device
// and layout that were looked at in the same way.
struct View {
    void* data = nullptr;
    std::int64_t ndim = 0;
    const std::int64_t* shape = nullptr;
    const std::int64_t* strides = nullptr;
    std::uint64_t kind = 0;
};

// Reads tensors through the DLPack exchange table of their type, or where the library has none, through capsules made
// by a function such as torch.utils.dlpack.to_dlpack.
//
// Both take a reference of the library's own on a tensor, which costs more than all the rest when it is the first. The
// C functions of torch's stable interface borrow: where they are there, views are made by them.
class TensorReader {
public:
    // `exchange`: the type's __dlpack_c_exchange_api__ or None. ValueError for a table of another major version.
    // `fields`: None or (types, offset, functions): where in an object of exactly one of these types torch's handle of
    // the tensor is, and the addresses of aoti_torch_get_data_ptr, dim, sizes, strides, dtype, device_type, layout, and
    // of aoti_torch_device_type_cpu and layout_strided.
    TensorReader(py::object exchange, py::object to_dlpack, py::object fields);

    // False, without an error set, for what cannot be described so (a sparse tensor). `out` is valid until the next
    // call.
    bool read(PyObject* tensor, dlpack::Tensor& out);
    bool view(PyObject* tensor, View& out);

private:
    std::optional<bool> fields(PyObject* tensor, View& out) const;

    int (*from_object_)(void*, dlpack::Tensor*) = nullptr;
    py::object to_dlpack_;
    py::object capsule_;  // of the tensor read last
    py::tuple types_;
    std::size_t offset_ = 0;
    template <class T>
    using Field = int (*)(void* handle, T* out);
    Field<void*> data_ptr_ = nullptr;
    Field<std::int64_t> dim_ = nullptr;
    Field<std::int64_t*> sizes_ = nullptr, strides_ = nullptr;
    Field<std::int32_t> dtype_ = nullptr, device_type_ = nullptr, layout_ = nullptr;
    std::int32_t cpu_ = 0, strided_ = 0;
};

void* address(const dlpack::Tensor& tensor);

bool is_complex(dlpack::DataType dtype);

// The format of the elements, pairs of them for complex numbers; false for what the engine has none for.
bool to_format(dlpack::DataType dtype, Format& out);

}  // namespace fusedstep
