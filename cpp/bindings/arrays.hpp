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

// C-contiguous and aligned.
constexpr int kLayout = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;

// Whether an object is a NumPy array; a masked one is not, as it would be read and updated behind its mask.
bool is_array(PyObject* object);

// Bytes of one element.
std::size_t item_size(Format format);

// "float32", "bfloat16" ...: the dtype that stores a format.
const char* dtype_name(Format format);

// The format of an array's dtype; none for anything but the four float dtypes in native byte order.
std::optional<Format> known_format(PyObject* array);

// The same, or a TypeError that begins with what `name` returns.
Format format_of(PyObject* array, const std::function<std::string()>& name);

// A C-contiguous, aligned array of one of the four float dtypes (`writeable` too if asked), or a tuple
// (address, elements, dtype name) that a caller vouches for. TypeError or ValueError that begins with `name`.
Array as_array(PyObject* object, bool writeable, const std::string& name);

// The same for the arrays that belong to a format: codes (uint8), remainders (int16), scales (float32).
Array as_plain(PyObject* object, const char* dtype, std::size_t size, const std::string& name);

// True, without an error set, when the array still is what it was when it was checked. Cheap: for every step.
bool unchanged(PyObject* object, const void* data, bool writeable);

// "(3, 4)"
std::string shape_text(PyObject* array);

// What an object is, for messages: "ndarray of float32, shape (3, 4)" or "list".
std::string kind_text(PyObject* object);

// A range of bytes that belongs to an array, to find arrays that overlap.
struct Extent {
    const char* begin;
    const char* end;
    std::string name;
};

// ValueError when a byte belongs to two of them.
void check_overlap(std::vector<Extent> extents);

}  // namespace fusedstep
