"""A small convolutional network in NumPy: one convolution, pooling, two dense layers, dropout; backward by
hand.

It has the methods of `fusedstep.demo.network.Network` that training needs (`params`, `grads`, `gradients`,
`cost`, `accuracy`), so whatever trains the one trains the other."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import DTypeLike, NDArray

__all__ = ["ConvNet"]

Array = NDArray[Any]


class _Forward(NamedTuple):
    """What the backward pass needs of the forward pass."""

    patches: Array  # (positions, inputs of a filter): im2col
    chosen: Array  # which of the four values of each window was the largest
    pooled: Array  # (examples, pooled values) after ReLU and dropout
    hidden: Array  # (examples, units) after ReLU and dropout
    logits: Array  # (examples, classes)
    keep_pooled: Array | float  # what dropout multiplied by
    keep_hidden: Array | float


class ConvNet:
    """``filters`` 3 x 3 convolutions, 2 x 2 maximum, `units` dense units, a softmax; ReLU between.

    Parameters
    ----------
    image : tuple of int
        Height, width and, for more than one, channels of an image; height and width at least 4.
    classes : int
        Outputs.
    filters, units : int, default 32 and 256
        Width of the convolution and of the dense layer.
    dropout : (float, float), default (0.25, 0.5)
        The share of values dropped after the pooling and after the dense layer while training; those that are
        kept are scaled up, so prediction needs no scaling (Srivastava et al., *Dropout*, JMLR 2014, section
        10).
    seed : int
        Of the initial weights (He et al. 2015, eq. 10; Glorot and Bengio 2010, eq. 12 for the last layer) and
        of the dropout.
    dtype : dtype
        float32 or float64, of parameters and gradients.

    Attributes
    ----------
    params, grads : dict of str to array
        ``W1`` (filters, channels, 3, 3), ``W2`` (units, pooled values), ``W3`` (classes, units) and their
        ``b1, b2, b3``. `gradients` overwrites `grads` in place.

    Examples
    --------
    >>> net = ConvNet((8, 8), 10)
    >>> net.count
    76874
    >>> images, y = np.ones((64, 5), np.float32), np.arange(5)  # five images in columns
    >>> net.predict(images).shape
    (5,)
    """

    def __init__(
        self,
        image: tuple[int, ...],
        classes: int,
        *,
        filters: int = 32,
        units: int = 256,
        dropout: tuple[float, float] = (0.25, 0.5),
        seed: int = 0,
        dtype: DTypeLike = np.float32,
    ) -> None:
        if len(image) not in (2, 3) or min(image) < 1 or min(image[:2]) < 4:
            raise ValueError(f"image: got {image}, needs (height, width[, channels]) of at least 4 x 4")
        if min(classes, filters, units) < 1:
            raise ValueError(f"classes, filters and units: got {classes}, {filters}, {units}, needs at least 1 of each")
        if len(dropout) != 2 or not all(0.0 <= share < 1.0 for share in dropout):
            raise ValueError(f"dropout: got {dropout}, needs two shares from 0 to below 1")
        self.image = (image[0], image[1], image[2] if len(image) == 3 else 1)
        self.dropout, self.dtype = dropout, np.dtype(dtype)
        height, width, channels = self.image
        self._pooled = ((height - 2) // 2, (width - 2) // 2, filters)
        rng, inputs = np.random.default_rng(seed), math.prod(self._pooled)
        shapes = {"W1": (filters, channels, 3, 3), "W2": (units, inputs), "W3": (classes, units)}
        scales = {"W1": 2.0 / (9 * channels), "W2": 2.0 / inputs, "W3": 2.0 / (units + classes)}
        self.params: dict[str, Array] = {}
        for layer, (name, shape) in enumerate(shapes.items(), 1):
            weights = rng.standard_normal(shape) * math.sqrt(scales[name])
            self.params[name] = weights.astype(self.dtype)
            self.params[f"b{layer}"] = np.zeros(shape[0], self.dtype)
        self.grads: dict[str, Array] = {name: np.zeros_like(array) for name, array in self.params.items()}
        self._dropping = np.random.default_rng([seed, 1])

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(array.size for array in self.params.values())

    def _keep(self, shape: tuple[int, ...], share: float) -> Array:
        kept = self._dropping.random(shape, np.float32) >= share
        return kept.astype(self.dtype) / np.asarray(1.0 - share, self.dtype)

    def _forward(self, x: Array, training: bool) -> _Forward:
        p, m, (rows, columns, filters) = self.params, x.shape[1], self._pooled
        images = x.T.reshape(m, *self.image)[:, : 2 * rows + 2, : 2 * columns + 2]
        # im2col: the 3 x 3 neighbourhood of every position as a row, so the convolution is one matrix product
        patches = sliding_window_view(images, (3, 3), axis=(1, 2)).reshape(m * 4 * rows * columns, -1)
        z = patches @ p["W1"].reshape(filters, -1).T + p["b1"]
        windows = z.reshape(m, rows, 2, columns, 2, filters).transpose(0, 1, 3, 5, 2, 4)
        windows = windows.reshape(m, rows, columns, filters, 4)
        chosen = windows.argmax(axis=-1)[..., None]
        # ReLU commutes with the maximum and is cheaper after it
        pooled = np.maximum(np.take_along_axis(windows, chosen, -1), 0).reshape(m, -1)
        keep_pooled = self._keep(pooled.shape, self.dropout[0]) if training else 1.0
        pooled *= keep_pooled
        hidden = np.maximum(pooled @ p["W2"].T + p["b2"], 0)
        keep_hidden = self._keep(hidden.shape, self.dropout[1]) if training else 1.0
        hidden *= keep_hidden
        return _Forward(patches, chosen, pooled, hidden, hidden @ p["W3"].T + p["b3"], keep_pooled, keep_hidden)

    def gradients(self, x: Array, y: NDArray[np.integer[Any]]) -> float:
        """Forward with dropout and backward over one mini-batch: overwrites `grads`.

        Parameters
        ----------
        x : array of shape (height * width * channels, examples)
            Images in columns, each row by row.
        y : int array of shape (examples,)
            Their classes.

        Returns
        -------
        float
            The cost (mean cross-entropy) of the mini-batch before the step, dropout included.
        """
        p, g, m = self.params, self.grads, y.size
        rows, columns, filters = self._pooled
        f = self._forward(x, training=True)
        delta = _softmax(f.logits)
        delta[np.arange(m), y] -= 1
        delta /= m
        np.matmul(delta.T, f.hidden, out=g["W3"])
        np.sum(delta, axis=0, out=g["b3"])
        # a value that ReLU or dropout made 0 passes nothing back
        delta = (delta @ p["W3"]) * ((f.hidden > 0) * f.keep_hidden)
        np.matmul(delta.T, f.pooled, out=g["W2"])
        np.sum(delta, axis=0, out=g["b2"])
        delta = (delta @ p["W2"]) * ((f.pooled > 0) * f.keep_pooled)
        # the gradient of a maximum goes to the value that was chosen
        windows = np.zeros((m, rows, columns, filters, 4), self.dtype)
        np.put_along_axis(windows, f.chosen, delta.reshape(f.chosen.shape), -1)
        z = windows.reshape(m, rows, columns, filters, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(-1, filters)
        np.matmul(z.T, f.patches, out=g["W1"].reshape(filters, -1))
        np.sum(z, axis=0, out=g["b1"])
        return _cross_entropy(f.logits, y)

    def _logits(self, x: Array) -> Array:
        """Of shape (examples, classes), without dropout; computed in pieces, as the patches are large."""
        pieces = [self._forward(x[:, at : at + 512], training=False).logits for at in range(0, x.shape[1], 512)]
        return np.concatenate(pieces)

    def cost(self, x: Array, y: NDArray[np.integer[Any]]) -> float:
        """Mean cross-entropy over the given examples, without dropout."""
        return _cross_entropy(self._logits(x), y)

    def predict(self, x: Array) -> NDArray[np.intp]:
        """The most probable class of every column of `x`."""
        answer: NDArray[np.intp] = self._logits(x).argmax(axis=1)
        return answer

    def accuracy(self, x: Array, y: NDArray[np.integer[Any]]) -> float:
        """The share of examples whose class is predicted."""
        return float(np.mean(self.predict(x) == y))


def _softmax(z: Array) -> Array:
    scores: Array = np.exp(z - z.max(axis=1, keepdims=True))
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def _cross_entropy(z: Array, y: NDArray[np.integer[Any]]) -> float:
    top = z.max(axis=1)
    return float(np.mean(np.log(np.exp(z - top[:, None]).sum(axis=1)) + top - z[np.arange(y.size), y]))
