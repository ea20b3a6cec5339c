// The part of the DLPack ABI that tensors are read through (https://dmlc.github.io/dlpack/latest/c_api.html), so that
// nothing is compiled against the library they come from.
#pragma once
#include <cstdint>

namespace fusedstep::dlpack {

enum DeviceType : std::int32_t { kCpu = 1 };
enum TypeCode : std::uint8_t { kInt = 0, kUnsigned = 1, kFloat = 2, kBfloat = 4, kComplex = 5 };

struct DataType {
    std::uint8_t code;
    std::uint8_t bits;
    std::uint16_t lanes;
};
inline bool operator==(DataType a, DataType b) { return a.code == b.code && a.bits == b.bits && a.lanes == b.lanes; }

struct Device {
    std::int32_t type;
    std::int32_t id;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;
    std::uint64_t byte_offset;
};

struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor*);
};

struct ExchangeApi {
    struct {
        std::uint32_t major, minor;
        ExchangeApi* previous;
    } header;
    int (*allocate)(Tensor*, void**, void*, void (*)(void*, const char*, const char*));
    int (*managed_from_object)(void*, void**);
    int (*managed_to_object)(void*, void**);
    int (*tensor_from_object)(void* object, Tensor* out);  // borrowed: valid until control returns; may be null
    int (*current_stream)(std::int32_t, std::int32_t, void**);
};

}  // namespace fusedstep::dlpack
