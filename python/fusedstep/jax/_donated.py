"""Arrays that were given up to a step and are used again: what JAX calls argument 4, by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from ._tree import path_text

__all__ = ["name_array", "naming"]

_NONE: Mapping[str, Any] = {}


@contextmanager
def naming(**given: Any) -> Iterator[None]:
    """Have `name_array` look at the errors of JAX within."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        name_array(error, **given)
        raise


def name_array(
    error: Exception, *, params: Any = None, state: Any = None, grads: Any = None, values: Mapping[str, Any] = _NONE
) -> None:
    """Name the array that an error of JAX means, in another error; return if it means none.

    JAX looks for such arrays before it gives up the first of them: nothing has changed. `values` are hyper-parameters
    and the like by their names.

    Raises
    ------
    ValueError
        An array that was deleted, or whose memory is that of another and written.
    """
    if "deleted" not in str(error) and "donate" not in str(error):
        return  # a step that ran and failed has given up its arguments as well
    written: dict[int, str] = {}
    for name, structure in (("params", params), ("state", state), ("grads", grads), *values.items()):
        for keys, array in jax.tree_util.tree_flatten_with_path(structure)[0]:
            if not isinstance(array, jax.Array) or isinstance(array, jax.core.Tracer):
                continue
            where = f"{name}{path_text(keys)}"
            if array.is_deleted():
                raise ValueError(
                    f"{where}: got an array that was deleted, needs one with memory; a step gives up those of params "
                    "and state, so go on with what it returned"
                ) from error
            address = _address(array)
            if address in written:
                raise ValueError(
                    f"{where}: got the memory of {written[address]}, needs memory of its own, as a step writes in "
                    "place; jax.numpy.copy() copies it"
                ) from error
            if name in ("params", "state"):
                written[address] = where


def _address(array: Any) -> int:
    alone = array.size != 0 and len(array.devices()) == 1
    return int(array.unsafe_buffer_pointer()) if alone else id(array)
