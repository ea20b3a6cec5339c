"""Where a schedule-free model is evaluated, as a program computes it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["average", "exact_values"]


def average(param: Any, z: Any, master: Any, beta: Any) -> Any:
    """The formula of `fusedstep.reference.schedule_free_average`, rounded to the parameter's dtype."""
    values = exact_values(param, master).astype(z.dtype)
    weight = jnp.asarray(1.0 - 1.0 / beta, z.dtype)
    return (values + weight * (z - values)).astype(param.dtype)


def exact_values(param: Any, master: Any) -> Any:
    """A 16-bit parameter with its master, as `fusedstep.formats.master_values` and ``join`` have it; else itself."""
    if master is None:
        return param
    if master.dtype != np.int16:
        return jnp.where(master.astype(param.dtype) == param, master, param.astype(master.dtype))
    high = jax.lax.bitcast_convert_type(param, jnp.uint16).astype(jnp.uint32) << 16
    signed = jax.lax.bitcast_convert_type(master.astype(jnp.int32), jnp.uint32)
    low = jnp.where(high << 1 == 0, signed & 0xFFFF, signed)
    return jax.lax.bitcast_convert_type(high + low, jnp.float32)
