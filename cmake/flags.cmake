# What every C++ target is compiled with: sets warnings, numerics, optimised, and the flags of the instruction sets.
# The bits depend on `numerics`, so it is chosen by the compiler itself: clang-cl has MSVC's options and Clang's defaults.
set(gnu_numerics
  # First, as it resets others: what -ffast-math in CXXFLAGS would have changed.
  -fno-fast-math
  # One rounding per operation on every machine, and sqrt as an instruction. See docs/numerics.md.
  -ffp-contract=off -fno-math-errno -fno-trapping-math -fopenmp-simd)
set(gnu_warnings -Wall -Wextra -Wconversion -Wshadow $<$<BOOL:${FUSEDSTEP_WERROR}>:-Werror>)
set(FUSEDSTEP_OPTIMISE -O3 CACHE STRING "Optimisation of the kernels in every build type; the bits do not depend on it")
set(optimised ${FUSEDSTEP_OPTIMISE})
# The extension: what runs once is built for size; a step goes through the rest, and -O3 makes it larger but no faster.
set(for_size -Os)
set(for_steps $<$<CONFIG:Release>:-O2>)
set(avx2 -mavx2 -mfma -mf16c)
set(avx512 ${avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512)

if(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
  # Before 19.30 it contracted by default, and no version was tested.
  if(CMAKE_CXX_COMPILER_VERSION VERSION_LESS 19.30)
    message(FATAL_ERROR "MSVC: got ${CMAKE_CXX_COMPILER_VERSION}, needs 19.30 (Visual Studio 2022) or newer, or clang-cl")
  endif()
  set(warnings /W4 $<$<BOOL:${FUSEDSTEP_WERROR}>:/WX>)
  # cpp/types.hpp turns contraction off as well. The simd pragma wants a switch of its own.
  set(numerics /fp:precise /openmp:experimental)
  set(optimised /O2)
  set(for_size /O1)
  set(for_steps)
  set(avx2 /arch:AVX2)
  set(avx512 /arch:AVX512)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND CMAKE_CXX_COMPILER_FRONTEND_VARIANT STREQUAL "MSVC")
  # /Wall would be everything that Clang can warn of.
  set(warnings /W4 -Wconversion -Wshadow $<$<BOOL:${FUSEDSTEP_WERROR}>:/WX>)
  set(numerics ${gnu_numerics})
  list(TRANSFORM numerics PREPEND "/clang:")
  list(TRANSFORM optimised PREPEND "/clang:")
  set(for_size /O1)
  set(for_steps)
  list(TRANSFORM avx2 PREPEND "/clang:")
  list(TRANSFORM avx512 PREPEND "/clang:")
elseif(CMAKE_CXX_COMPILER_ID MATCHES "^GNU$|Clang")
  set(warnings ${gnu_warnings})
  set(numerics ${gnu_numerics})
  # Kernels throw nothing: tables for unwinding would be a twentieth of them.
  list(APPEND optimised -fno-exceptions -fno-asynchronous-unwind-tables -fno-unwind-tables)
  # The extension goes without functions that nothing calls, most of them pybind11's. MSVC's linker does so by itself.
  if(APPLE)
    set(without_unused -Wl,-dead_strip)
  elseif(NOT WIN32)
    set(in_sections -ffunction-sections -fdata-sections)
    set(without_unused -Wl,--gc-sections)
  endif()
elseif(DEFINED FUSEDSTEP_NUMERICS)
  set(numerics ${FUSEDSTEP_NUMERICS})
else()
  message(FATAL_ERROR "CMAKE_CXX_COMPILER: got ${CMAKE_CXX_COMPILER_ID}, needs GNU, Clang or MSVC, whose flags for one "
    "rounding per operation are known. With others name theirs, -DFUSEDSTEP_NUMERICS=..., and compare what "
    "fusedstep_digest prints")
endif()

# 32-bit x86 computes in x87's 80 bits unless told otherwise; -m32 on a 64-bit machine is meant too.
set(x86 FALSE)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64|x86|i[3-6]86)$" AND NOT CMAKE_OSX_ARCHITECTURES MATCHES "arm64")
  set(x86 TRUE)
  if(CMAKE_SIZEOF_VOID_P EQUAL 4 AND CMAKE_CXX_COMPILER_ID MATCHES "^GNU$|Clang" AND NOT MSVC)
    list(APPEND numerics -msse2 -mfpmath=sse)
  endif()
endif()
