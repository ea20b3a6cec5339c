#include "frame.hpp"

namespace fusedstep::xla {
namespace {

struct Type {
    int dtype;
    std::size_t size;
    const char* name;
};
constexpr Type kTypes[] = {{kU8, 1, "uint8"},    {kS16, 2, "int16"},   {kS32, 4, "int32"},
                           {kS64, 8, "int64"},   {kU32, 4, "uint32"},  {kF16, 2, "float16"},
                           {kF32, 4, "float32"}, {kF64, 8, "float64"}, {kBF16, 2, "bfloat16"}};

const Type* find_type(int dtype) {
    for (const Type& type : kTypes)
        if (type.dtype == dtype) return &type;
    return nullptr;
}

}  // namespace

std::string dtype_text(int dtype) {
    const Type* type = find_type(dtype);
    return type == nullptr ? "dtype " + std::to_string(dtype) : type->name;
}

std::size_t View::bytes() const {
    const Type* type = find_type(dtype);
    return type == nullptr ? 0 : size * type->size;
}

const void* Frame::find(const char* name, int kind) const {
    const Attributes& all = call_.attributes;
    for (std::int64_t i = 0; i < all.size; ++i)
        if (std::string_view(all.names[i]->data, all.names[i]->size) == name && all.kinds[i] == kind)
            return all.items[i];
    throw Refused(std::string(name) + ": got no such attribute, needs one; the call was not made by fusedstep.jax",
                  kInternal);
}

const void* Frame::array(const char* name, int dtype, std::size_t& size) const {
    const auto& found = *static_cast<const ArrayAttribute*>(find(name, kArrayKind));
    if (found.dtype != dtype)
        throw Refused(
            std::string(name) + ": got an attribute of " + dtype_text(found.dtype) + ", needs " + dtype_text(dtype),
            kInternal);
    size = found.size;
    return found.data;
}

std::string_view Frame::text(const char* name) const {
    const auto& found = *static_cast<const ByteSpan*>(find(name, kStringKind));
    return {found.data, found.size};
}

std::int64_t Frame::integer(const char* name) const {
    const auto& found = *static_cast<const ScalarAttribute*>(find(name, kScalarKind));
    if (found.dtype != kS64)
        throw Refused(std::string(name) + ": got an attribute of " + dtype_text(found.dtype) + ", needs int64",
                      kInternal);
    return *static_cast<const std::int64_t*>(found.value);
}

Span<double> Frame::numbers(const char* name) const {
    Span<double> found;
    found.data = static_cast<const double*>(array(name, kF64, found.size));
    return found;
}

Span<std::int64_t> Frame::integers(const char* name) const {
    Span<std::int64_t> found;
    found.data = static_cast<const std::int64_t*>(array(name, kS64, found.size));
    return found;
}

View Frame::view(const Buffers& buffers, std::size_t i) {
    if (i >= static_cast<std::size_t>(buffers.size) || buffers.kinds[i] != kBufferKind)
        throw Refused("buffer " + std::to_string(i) +
                          ": got no such buffer, needs one; the call was not made by "
                          "fusedstep.jax",
                      kInternal);
    const auto& buffer = *static_cast<const Buffer*>(buffers.items[i]);
    std::size_t size = 1;
    for (std::int64_t k = 0; k < buffer.rank; ++k) size *= static_cast<std::size_t>(buffer.dims[k]);
    return {buffer.data, size, buffer.dtype};
}

}  // namespace fusedstep::xla
