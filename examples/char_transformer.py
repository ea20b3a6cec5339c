"""A small character-level transformer whose gradients come from torch and whose parameters are NumPy arrays.

Its text is the reference manual that every Python carries for ``help()``, so nothing is downloaded.
"""

from __future__ import annotations

import math
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

__all__ = ["CharTransformer", "manual"]

Array = NDArray[np.float32]


def manual() -> tuple[NDArray[np.int64], str]:
    """The text of Python's own ``help()`` topics as numbers, and the characters those number.

    Returns
    -------
    text : int64 array of shape (characters,)
        Position of every character in the alphabet.
    alphabet : str
        The characters that occur at least 50 times, in order; the others are left out of the text.
    """
    whole = np.frombuffer("\n\n".join(topics[name] for name in sorted(topics)).encode("utf-32-le"), np.uint32)
    found, counts = np.unique(whole, return_counts=True)
    kept = found[counts >= 50]
    text = np.searchsorted(kept, whole[np.isin(whole, kept)])
    return text.astype(np.int64), "".join(map(chr, kept))


class CharTransformer:
    """Predicts every next character from those before it: layers of attention and ReLU, normalised before each.

    Parameters
    ----------
    characters : int
        Size of the alphabet.
    context : int
        Characters that are seen at once.
    width, heads, layers : int
        Width of the stream, heads of the attention, and how many layers of both.
    seed : int
        Of the initial weights: normal, of variance one over the number of inputs.

    Attributes
    ----------
    params, grads : dict of str to float32 array
        `gradients` overwrites `grads` in place; both share their memory with torch.

    Notes
    -----
    The layers are those of Vaswani et al., *Attention is all you need* (2017), section 3, with the normalisation
    before each part instead of after it.
    """

    def __init__(
        self, characters: int, *, context: int = 48, width: int = 64, heads: int = 4, layers: int = 2, seed: int = 0
    ) -> None:
        self.context, self.heads, self.layers = context, heads, layers
        rng = np.random.default_rng(seed)
        shapes: dict[str, tuple[int, ...]] = {"characters": (characters, width), "positions": (context, width)}
        for layer in range(layers):
            shapes |= {
                f"norm{layer}a": (width,),
                f"query_key_value{layer}": (3 * width, width),
                f"mixed{layer}": (width, width),
                f"norm{layer}b": (width,),
                f"up{layer}": (4 * width, width),
                f"down{layer}": (width, 4 * width),
            }
        shapes |= {"norm": (width,), "answers": (characters, width)}
        self.params: dict[str, Array] = {}
        for name, shape in shapes.items():
            if len(shape) == 1:
                self.params[name] = np.ones(shape, np.float32)
            else:
                self.params[name] = (rng.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)
        self.grads: dict[str, Array] = {name: np.zeros_like(array) for name, array in self.params.items()}
        self._weights: dict[str, torch.Tensor] = {}
        for name, array in self.params.items():
            weight = torch.from_numpy(array).requires_grad_()
            weight.grad = torch.from_numpy(self.grads[name])
            self._weights[name] = weight

    def _attend(self, flow: torch.Tensor, layer: int) -> torch.Tensor:
        batch, length, width = flow.shape
        w = self._weights
        mixed = functional.linear(flow, w[f"query_key_value{layer}"])
        parts = mixed.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        return functional.linear(seen.transpose(1, 2).reshape(batch, length, width), w[f"mixed{layer}"])

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        w = self._weights
        flow = w["characters"][x] + w["positions"]

        def normal(flow: torch.Tensor, name: str) -> torch.Tensor:
            return functional.rms_norm(flow, flow.shape[-1:], w[name], 1e-5)

        for layer in range(self.layers):
            flow = flow + self._attend(normal(flow, f"norm{layer}a"), layer)
            hidden = functional.relu(functional.linear(normal(flow, f"norm{layer}b"), w[f"up{layer}"]))
            flow = flow + functional.linear(hidden, w[f"down{layer}"])
        return functional.linear(normal(flow, "norm"), w["answers"])

    def gradients(self, x: NDArray[Any], y: NDArray[Any]) -> float:
        """Forward and backward over one mini-batch: overwrites `grads`.

        Parameters
        ----------
        x, y : int64 array of shape (batch, context)
            Characters, and the one that follows each.

        Returns
        -------
        float
            Mean cross-entropy in nats a character, before the step.
        """
        for grad in self.grads.values():
            grad.fill(0)
        loss = functional.cross_entropy(self._logits(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()
