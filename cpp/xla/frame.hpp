// Reads a call of XLA's: attributes by name and buffers by number, each checked.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>

#include "ffi.hpp"

namespace fusedstep::xla {

// Ends a call with an error: what XLA raises in Python as its own error type, with this text.
class Refused : public std::runtime_error {
public:
    explicit Refused(const std::string& message, int status = kInvalidArgument)
        : std::runtime_error(message), code(status) {}
    int code;
};

template <class T>
struct Span {
    const T* data = nullptr;
    std::size_t size = 0;
    const T& operator[](std::size_t i) const { return data[i]; }
};

// One buffer: where it is and what it holds.
struct View {
    void* data = nullptr;
    std::size_t size = 0;  // elements
    int dtype = 0;

    std::size_t bytes() const;
};

// "float32"; "dtype 15" for one that no step has.
std::string dtype_text(int dtype);

// Attributes have been written by the package's own Python code, so that a missing one is a mistake in the package.
class Frame {
public:
    explicit Frame(const CallFrame& call) : call_(call) {}

    std::string_view text(const char* name) const;
    std::int64_t integer(const char* name) const;
    Span<double> numbers(const char* name) const;
    Span<std::int64_t> integers(const char* name) const;

    std::size_t arguments() const { return static_cast<std::size_t>(call_.arguments.size); }
    std::size_t results() const { return static_cast<std::size_t>(call_.results.size); }
    View argument(std::size_t i) const { return view(call_.arguments, i); }
    View result(std::size_t i) const { return view(call_.results, i); }

private:
    const void* find(const char* name, int kind) const;
    const void* array(const char* name, int dtype, std::size_t& size) const;
    static View view(const Buffers& buffers, std::size_t i);

    const CallFrame& call_;
};

}  // namespace fusedstep::xla
