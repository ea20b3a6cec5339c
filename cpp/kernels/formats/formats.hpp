// How numbers are stored: every format, bit for bit as python/fusedstep/formats.py defines it.
// Included inside the anonymous namespace of the kernels, after <cmath>, <cstddef>, <cstdint> and <cstring>.
#pragma once
// clang-format off: each needs those before it
#include "bits.hpp"
#include "half.hpp"
#include "noise.hpp"
#include "q8.hpp"
#include "loops.hpp"
// clang-format on
