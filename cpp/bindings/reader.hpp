// Where another library's tensors lie, what they hold, and whether they still do.
#pragma once
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../types.hpp"
#include "arrays.hpp"
#include "dlpack.hpp"

namespace fusedstep {

namespace py = pybind11;

// What must stay as it is while a tensor is taken for the one it was. `kind` is alike for tensors of one dtype and
// device.
struct View {
    void* data = nullptr;
    std::int64_t ndim = 0;
    const std::int64_t* shape = nullptr;
    const std::int64_t* strides = nullptr;
    std::uint64_t kind = 0;
};

// Reads tensors through the DLPack exchange table of their type, or where the library has none, through capsules made
// by a function such as torch.utils.dlpack.to_dlpack.
class TensorReader {
public:
    // `exchange`: the type's __dlpack_c_exchange_api__ or None. ValueError where it is no such table. `has_mode` says
    // whether Python code runs in methods of all tensors, and `quiet` makes a context in which it runs in none.
    TensorReader(py::object exchange, py::object to_dlpack, py::object type, py::object has_mode, py::object quiet);

    // Whether Python code runs in methods of all tensors, as that of a TorchFunctionMode does.
    bool has_mode() const { return has_mode_().ptr() != Py_False; }

    // While this lives, methods of tensors run no Python code of others.
    class Quiet {
    public:
        explicit Quiet(const TensorReader& reader) : context_(reader.quiet_()) { context_.attr("__enter__")(); }
        ~Quiet() {
            try {
                const py::error_scope kept;
                context_.attr("__exit__")(py::none(), py::none(), py::none());
            } catch (...) {
            }
        }
        Quiet(const Quiet&) = delete;
        Quiet& operator=(const Quiet&) = delete;

    private:
        py::object context_;
    };

    // Whether it is a tensor of this type and of no subclass: its methods are the library's, and run no Python code
    // without a mode.
    bool is_plain(PyObject* tensor) const { return reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == type_.ptr(); }

    // False, without an error set, for what cannot be described so (a sparse tensor). `out` is valid until the next
    // call.
    bool read(PyObject* tensor, dlpack::Tensor& out);
    bool view(PyObject* tensor, View& out);

    // A tensor's memory in an array's place: of a dtype that parameters, gradients or states have, on the CPU, without
    // gaps between its elements, all of them in its storage. TypeError or ValueError that begins with `name`.
    Memory memory(py::object tensor, const std::string& name);

private:
    int (*from_object_)(void*, dlpack::Tensor*) = nullptr;
    py::object to_dlpack_, type_, has_mode_, quiet_;
    py::object capsule_;  // of the tensor read last
};

// Where a tensor lay, to see whether it still does.
struct Place {
    void* data = nullptr;
    std::uint64_t kind = 0;
    std::size_t dims = 0, ndim = 0;  // its shape and then its strides, in Places
};

class Places {
public:
    explicit Places(TensorReader reader_) : reader(std::move(reader_)) {}

    TensorReader reader;

    Place add(const View& view) {
        const Place place{view.data, view.kind, dims_.size(), static_cast<std::size_t>(view.ndim)};
        dims_.insert(dims_.end(), view.shape, view.shape + view.ndim);
        dims_.insert(dims_.end(), view.strides, view.strides + view.ndim);
        return place;
    }

    // Whether a tensor has the same shape and strides. The stride of a dimension with one index means nothing.
    bool same_layout(const Place& place, const View& view) const {
        if (static_cast<std::size_t>(view.ndim) != place.ndim) return false;
        const std::int64_t* shape = dims_.data() + place.dims;
        const std::int64_t* strides = shape + place.ndim;
        bool empty = false, same = true;
        for (std::size_t d = 0; d < place.ndim; ++d) {
            if (view.shape[d] != shape[d]) return false;
            empty = empty || shape[d] == 0;
            same = same && (shape[d] == 1 || view.strides[d] == strides[d]);
        }
        return same || empty;
    }

    // Whether a tensor lies there.
    bool holds(const Place& place, PyObject* tensor) {
        View view;
        return reader.view(tensor, view) && view.data == place.data && view.kind == place.kind &&
               same_layout(place, view);
    }

private:
    std::vector<std::int64_t> dims_;
};

void* address(const dlpack::Tensor& tensor);

bool is_complex(dlpack::DataType dtype);

// The format of the elements, pairs of them for complex numbers; false for what the engine has none for.
bool to_format(dlpack::DataType dtype, Format& out);

// Whether a tensor's storage, which may have been resized or freed under it, has all of these bytes.
bool in_storage(PyObject* tensor, const void* data, std::size_t bytes);

// Whether a tensor's numbers are the negatives, or the conjugates or negatives, of what its memory holds.
bool is_negative(PyObject* tensor);
bool holds_others(PyObject* tensor);

}  // namespace fusedstep
