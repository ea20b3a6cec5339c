// Where the elements of a stream are.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../types.hpp"

namespace fusedstep {

inline std::size_t width(Format format) { return kFormatSizes[static_cast<int>(format)].item; }

inline Format native(Compute compute) { return compute == kFloat ? Format::float32 : Format::float64; }

inline bool is_half(Format format) {
    return format == Format::float16 || format == Format::float16_stochastic || format == Format::float16_master;
}

template <class Pointer>
Pointer* advanced(Pointer* data, std::size_t bytes) {
    return reinterpret_cast<Pointer*>(reinterpret_cast<std::uintptr_t>(data) + bytes);
}

inline void* at(const Stream& stream, std::size_t element) {
    return advanced(stream.data, element * width(stream.format));
}

inline void* extra_at(const Stream& stream, std::size_t element) {
    if (stream.extra == nullptr) return nullptr;
    const bool blocks = stream.format == Format::q8_signed || stream.format == Format::q8_unsigned;
    return advanced(stream.extra, blocks ? element / kQuantBlock * sizeof(float)
                                         : element * kFormatSizes[static_cast<int>(stream.format)].extra);
}

}  // namespace fusedstep
