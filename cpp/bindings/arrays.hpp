// What a NumPy array looks like to the engine, and the checks it must pass first.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../types.hpp"

namespace fusedstep {

namespace py = pybind11;

struct Array {
    void* data = nullptr;
    std::size_t size = 0;  // elements
    Format format = Format::float32;
};

// Memory of another library's tensor, read when this was made: it takes the place of an array. Python code may
// hand it on, but only TensorReader makes one.
struct Memory {
    void* data;
    std::size_t size;   // elements, two for each complex number
    const char* dtype;  // of those: "float32"
    py::object tensor;

    // For Python's garbage collector. The models that use it let go of it: it keeps what it describes.
    int traverse(visitproc visit, void* arg) const {
        Py_VISIT(tensor.ptr());
        return 0;
    }
    void clear() {}
};

// C-contiguous and aligned.
constexpr int kLayout = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

// Whether an object is a NumPy array; a masked one is not, as it would be read and updated behind its mask. A subclass
// is asked for a mask, and may answer with Python code that changes arrays that were read before.
bool is_array(PyObject* object);

// Whether it is an array and of no subclass: no Python code runs.
bool is_plain_array(PyObject* object);

// Whether it is an array, or a tensor's memory, of this dtype.
bool has_dtype(PyObject* object, const char* dtype);

// Bytes of one element.
std::size_t item_size(Format format);

// "float32", "bfloat16" ...: the dtype that stores a format.
const char* dtype_name(Format format);

// The format of an array's dtype; none for anything but the four float dtypes in native byte order.
std::optional<Format> known_format(PyObject* array);

// The same, or a TypeError that begins with what `name` returns.
Format format_of(PyObject* array, const std::function<std::string()>& name);

// A C-contiguous, aligned array of one of the four float dtypes (`writeable` too if asked), or a tensor's memory of
// one of them. TypeError or ValueError that begins with `name`.
Array as_array(PyObject* object, bool writeable, const std::string& name);

// The same for the arrays that belong to a format: codes (uint8), remainders (int16), scales (float32).
Array as_plain(PyObject* object, const char* dtype, std::size_t size, const std::string& name);

// An array as it was when it was checked. One that is changed in place keeps its address.
class Seen {
public:
    Seen() = default;
    explicit Seen(PyObject* array);

    // True, without an error set, while it still is so. Cheap: for every step.
    bool holds(PyObject* array, bool writeable) const;

    bool is(const void* data, std::size_t size) const { return data_ == data && size_ == size; }

private:
    const void* data_ = nullptr;
    std::size_t size_ = 0;
    int dtype_ = 0;  // NumPy's number
    char order_ = 0;
};

// "(3, 4)"
std::string shape_text(PyObject* array);

// What an object is, for messages: "ndarray of float32, shape (3, 4)" or "list".
std::string kind_text(PyObject* object);

// The message for an array, or a sequence of them, that Python code changed in the middle of a check.
std::string changed_text(const std::string& name, const char* what = "an array");

// A range of bytes that belongs to an array, to find arrays that overlap.
struct Extent {
    const char* begin;
    const char* end;
    std::string name;
};

// The ValueError about an array that shares memory with another, where one of them is written.
[[noreturn]] void refuse_overlap(const std::string& name, const std::string& other);

// ValueError when a byte belongs to two of them.
void check_overlap(std::vector<Extent> extents);

}  // namespace fusedstep
