// CRC-32 of files, as zlib, gzip and ZIP have it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace fusedstep {

// Whether this build and this CPU multiply polynomials in hardware. Without that zlib's own loop is as good.
bool has_fast_crc32();

// zlib's crc32(value, data, size), at five to ten times its speed. Only where has_fast_crc32().
std::uint32_t fast_crc32(std::uint32_t value, const unsigned char* data, std::size_t size);

}  // namespace fusedstep
