// The part of XLA's foreign function interface (FFI) that a CPU handler needs, in plain C structures.
//
// XLA keeps the layout stable within a major version, and appends fields behind an increased `struct_size`. Written
// down here so that a build needs no jaxlib; tests/integrations/test_jax.py compiles this file beside jaxlib's own
// xla/ffi/api/c_api.h and compares every offset. Names follow that file without its prefix.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fusedstep::xla {

constexpr int kApiMajor = 0;
constexpr int kApiMinor = 1;  // the first with all that is here

struct Extension {
    std::size_t struct_size;
    int type;
    Extension* next;
};
constexpr int kMetadataExtension = 1;

struct ApiVersion {
    std::size_t struct_size;
    Extension* extensions;
    int major, minor;
};

// The data types of the buffers that a step has.
enum DataType : int {
    kU8 = 6,
    kS16 = 3,
    kS32 = 4,
    kS64 = 5,
    kU32 = 8,
    kF16 = 10,
    kF32 = 11,
    kF64 = 12,
    kBF16 = 16,
};

struct Buffer {
    std::size_t struct_size;
    Extension* extensions;
    int dtype;
    void* data;
    std::int64_t rank;
    std::int64_t* dims;
};

// Arguments and results: `kinds` holds kBufferKind for each.
struct Buffers {
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t size;
    int* kinds;
    void** items;
};
constexpr int kBufferKind = 1;

struct ByteSpan {
    const char* data;
    std::size_t size;
};

struct ScalarAttribute {
    int dtype;
    void* value;
};

struct ArrayAttribute {
    int dtype;
    std::size_t size;
    void* data;
};

struct Attributes {
    std::size_t struct_size;
    Extension* extensions;
    std::int64_t size;
    int* kinds;
    ByteSpan** names;  // sorted
    void** items;
};
constexpr int kArrayKind = 1, kScalarKind = 3, kStringKind = 4;

struct Error;  // XLA's own

struct ErrorArguments {
    std::size_t struct_size;
    Extension* extensions;
    const char* message;
    int code;
};
constexpr int kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13;

struct Api {
    std::size_t struct_size;
    Extension* extensions;
    ApiVersion version;
    const void* internal;
    Error* (*create_error)(ErrorArguments*);
    // More functions follow.
};

struct CallFrame {
    std::size_t struct_size;
    Extension* extensions;
    const Api* api;
    void* context;
    int stage;
    Buffers arguments;
    Buffers results;
    Attributes attributes;
    void* future;  // null: the handler has finished when it returns
};

// What a runtime asks of a handler when it is registered.
struct Metadata {
    std::size_t struct_size;
    ApiVersion api_version;
    std::uint32_t traits;
};

struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

}  // namespace fusedstep::xla
