"""The structure of a model's parameters: which of them are stepped, what they are called, and back again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, keystr

from .._arguments import escaped
from ._layout import Leaf

__all__ = ["Tree", "path_text"]

FLOATS = frozenset(map(np.dtype, (np.float32, np.float64, np.float16, jnp.bfloat16)))


class Tree:
    """Parameters in any structure of JAX.

    Parameters
    ----------
    params
        Arrays, or what has their shapes and dtypes.
    mask
        Which are decayed: True or False for every parameter or branch, a function of `params` that returns such a
        structure, or None for all of them.
    trainable
        Which are stepped, in the same way.

    Attributes
    ----------
    leaves
        The parameters that are stepped; group 0 is decayed, group 1 is not.

    Raises
    ------
    TypeError
        A parameter to be stepped that is no array of a float dtype.
    ValueError
        A mask of another structure.
    """

    def __init__(self, params: Any, *, mask: Any = None, trainable: Any = None) -> None:
        self._structure: Any
        found, self._structure = jax.tree_util.tree_flatten_with_path(params)
        self._trained = _flags("trainable", trainable, params, len(found))
        decayed = _flags("mask", mask, params, len(found))
        self.leaves: list[Leaf] = []
        for (keys, param), trained, decays in zip(found, self._trained, decayed, strict=True):
            path = path_text(keys)
            if not trained:
                continue
            dtype = getattr(param, "dtype", None)
            if dtype not in FLOATS or not hasattr(param, "shape"):
                raise TypeError(
                    f"params{path}: got {dtype or type(param).__name__}, needs an array of float32, float64, float16 "
                    "or bfloat16; trainable=... leaves parameters alone"
                )
            # What JAX makes of it: without jax_enable_x64, float32 of NumPy's float64.
            known = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
            self.leaves.append(Leaf(path, tuple(param.shape), known, 0 if decays else 1))

    def trained(self, params: Any) -> list[Any]:
        """The parameters that are stepped."""
        return [param for param, chosen in zip(jax.tree.leaves(params), self._trained, strict=True) if chosen]

    def matched(self, name: str, values: Any) -> list[Any]:
        """What another structure has in the places of the parameters that are stepped."""
        try:
            flat = self._structure.flatten_up_to(values)
        except ValueError as error:
            raise ValueError(f"{name}: got another structure than params, needs the same: {error}") from None
        return [value for value, chosen in zip(flat, self._trained, strict=True) if chosen]

    def gradients(self, grads: Any) -> list[Any]:
        """The gradients of the parameters that are stepped, checked."""
        found = self.matched("grads", grads)
        for leaf, grad in zip(self.leaves, found, strict=True):
            name = f"grads{leaf.path}"
            dtype = getattr(grad, "dtype", None)
            if dtype not in FLOATS or (dtype == np.float64 and leaf.compute != np.float64):
                wide = ", float64" * (leaf.compute == np.float64)
                raise TypeError(f"{name}: got {dtype or type(grad).__name__}, needs float32{wide}, float16 or bfloat16")
            if tuple(grad.shape) != leaf.shape:
                raise ValueError(f"{name}: got shape {grad.shape}, needs {leaf.shape}, the shape of params{leaf.path}")
        return found

    def whole(self, stepped: Sequence[Any], others: Any) -> Any:
        """The structure with these in the places of the parameters that are stepped, and `others` in the rest."""
        rest = [None] * len(self._trained) if others is None else jax.tree.leaves(others)
        new = iter(stepped)
        flat = [next(new) if chosen else old for chosen, old in zip(self._trained, rest, strict=True)]
        return jax.tree.unflatten(self._structure, flat)


def path_text(keys: Sequence[Any]) -> str:
    """Where a leaf is, as messages of the package have it: ``'["W1"][0].bias'``."""
    text = ""
    for key in keys:
        if isinstance(key, DictKey):
            text += f'["{key.key}"]' if isinstance(key.key, str) else f"[{key.key!r}]"
        elif isinstance(key, SequenceKey):
            text += f"[{key.idx}]"
        else:
            text += f".{key.name}" if isinstance(key, GetAttrKey) else keystr((key,))
    return escaped(text.replace("\n", "\\n"))


def _flags(name: str, mask: Any, params: Any, count: int) -> list[bool]:
    if mask is None:
        return [True] * count
    mask = mask(params) if callable(mask) else mask
    try:
        flags = jax.tree.leaves(jax.tree.map(lambda flag, branch: jax.tree.map(lambda _: flag, branch), mask, params))
    except ValueError as error:
        raise ValueError(
            f"{name}: got another structure than params, needs the same or its branches: {error}"
        ) from None
    for flag in flags:
        if isinstance(flag, jax.core.Tracer) or np.shape(flag) != () or np.asarray(flag).dtype != np.bool_:
            raise TypeError(f"{name}: got {flag!r}, needs True or False, known when the program is traced")
    return [bool(flag) for flag in flags]
