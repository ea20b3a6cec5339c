// For a thread's own variables: memory that the thread has from its start. Otherwise the first use allocates, and where
// there is no memory glibc ends the process. musl cannot load a library with such variables.
#pragma once
#include <cstdlib>

#if defined(__GLIBC__)
#define FUSEDSTEP_STATIC_TLS __attribute__((tls_model("initial-exec")))
#else
#define FUSEDSTEP_STATIC_TLS
#endif
