"""JAX, or an error that says what is needed; the native step as a target of XLA's foreign functions."""

from __future__ import annotations

from .._core import xla_step

__all__ = ["TARGET"]

TARGET = "fusedstep_step"
"""What programs that XLA compiled call the native step."""

try:
    import jax
    import jax.extend.core
    import jax.ffi
except ImportError as error:
    raise ImportError(
        f"fusedstep.jax needs JAX 0.5 or later, and importing it failed with: {error}. Install the extra fusedstep[jax]"
    ) from error

jax.ffi.register_ffi_target(TARGET, xla_step(), platform="cpu")  # raises where XLA's interface is another
