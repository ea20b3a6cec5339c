#pragma once
#include <stddef.h>
extern "C" { void* malloc(size_t); void free(void*); void* _aligned_malloc(size_t, size_t); void _aligned_free(void*); }
