// The formats behind one signature each.
#pragma once

using Half = std::uint16_t;

template <class From, class T>
void decode_native(const void* data, const void*, void* out, std::size_t n) {
    convert(static_cast<const From*>(data), static_cast<T*>(out), n);
}
template <class To, class T>
std::size_t encode_native(const void* in, void* data, void*, std::size_t n, Noise) {
    convert(static_cast<const T*>(in), static_cast<To*>(data), n);
    return 0;
}
template <class Format, class T>
void decode(const void* data, const void*, void* out, std::size_t n) {
    decode_half<Format>(static_cast<const Half*>(data), static_cast<T*>(out), n);
}
template <class Format, class T>
std::size_t encode(const void* in, void* data, void*, std::size_t n, Noise) {
    encode_half<Format>(static_cast<const T*>(in), static_cast<Half*>(data), n);
    return 0;
}
template <class Format, class T>
std::size_t encode_noisy(const void* in, void* data, void*, std::size_t n, Noise noise) {
    constexpr std::size_t piece = 512;
    Half random[piece];
    for (std::size_t i = 0; i < n; i += piece) {
        const std::size_t count = n - i < piece ? n - i : piece;
        noise_fill(noise.key, noise.first + i, random, count);
        encode_half<Format>(static_cast<const T*>(in) + i, static_cast<Half*>(data) + i, random, count);
    }
    return 0;
}
template <class T>
void decode_split_stream(const void* data, const void* extra, void* out, std::size_t n) {
    decode_split(static_cast<const Half*>(data), static_cast<const std::int16_t*>(extra), static_cast<T*>(out), n);
}
template <class T>
std::size_t encode_split_stream(const void* in, void* data, void* extra, std::size_t n, Noise) {
    encode_split(static_cast<const T*>(in), static_cast<Half*>(data), static_cast<std::int16_t*>(extra), n);
    return 0;
}
template <class Format, class T>
void decode_master_stream(const void* data, const void* extra, void* out, std::size_t n) {
    decode_master<Format>(static_cast<const Half*>(data), static_cast<const float*>(extra), static_cast<T*>(out), n);
}
template <class Format, class T>
std::size_t encode_master_stream(const void* in, void* data, void* extra, std::size_t n, Noise) {
    encode_master<Format>(static_cast<const T*>(in), static_cast<Half*>(data), static_cast<float*>(extra), n);
    return 0;
}
template <bool kSignedCode, class T>
void decode_blocks(const void* data, const void* extra, void* out, std::size_t n) {
    decode_q8<kSignedCode>(static_cast<const std::uint8_t*>(data), static_cast<const float*>(extra),
                           static_cast<T*>(out), n);
}
template <bool kSignedCode, class T>
std::size_t encode_blocks(const void* in, void* data, void* extra, std::size_t n, Noise) {
    return encode_q8<kSignedCode>(static_cast<const T*>(in), static_cast<std::uint8_t*>(data),
                                  static_cast<float*>(extra), n);
}
