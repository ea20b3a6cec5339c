"""A fully connected network in NumPy: forward, backward, cost. Nothing but arrays and the chain rule.

The notation is the one of most courses: examples lie in columns, layer ``l`` computes ``Z[l] = W[l] @ A[l-1]
+ b[l]`` and ``A[l] = g(Z[l])``. The parameters are a plain dict ``{"W1": ..., "b1": ..., "W2": ...}``, which
is what an optimizer takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[np.floating[Any]]
Labels: TypeAlias = NDArray[np.integer[Any]]
Hidden: TypeAlias = Literal["relu", "sigmoid"]

# Standard deviation of a weight, from the number of inputs and outputs of its layer. He, Zhang, Ren and Sun
# (2015), equation 10, for ReLU; Glorot and Bengio (2010), equation 12, for sigmoids.
_INITIAL_SCALE = {
    "relu": lambda inputs, outputs: math.sqrt(2.0 / inputs),
    "sigmoid": lambda inputs, outputs: math.sqrt(2.0 / (inputs + outputs)),
}


def sigmoid(z: Array) -> Array:
    """``1 / (1 + exp(-z))``, without overflow for any ``z``."""
    return np.exp(-np.logaddexp(z.dtype.type(0), -z))


class Network:
    """A network of fully connected layers for classification.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, the width of every hidden layer, outputs: ``(2, 5, 2, 1)`` is a three-layer network on two
        features. With one output it answers "class 1 or not" by a sigmoid; with more it chooses among that
        many classes by a softmax.
    hidden : {"relu", "sigmoid"}
        What the hidden layers apply. It also sets the scale of the initial weights: He for ReLU, Glorot for
        sigmoid.
    seed : int
        The initial weights: the same seed gives the same bytes.
    dtype : dtype
        float32 or float64, of parameters and gradients.

    Attributes
    ----------
    params, grads : dict of str to array
        ``W1, b1, W2, b2, ...`` with ``W`` of shape (outputs, inputs) and ``b`` of shape (outputs, 1).
        `gradients` overwrites the arrays of `grads` in place, so they can be bound to an optimizer once.

    Examples
    --------
    >>> import numpy as np
    >>> net = Network((2, 5, 2, 1))
    >>> {name: array.shape for name, array in net.params.items()}
    {'W1': (5, 2), 'b1': (5, 1), 'W2': (2, 5), 'b2': (2, 1), 'W3': (1, 2), 'b3': (1, 1)}
    >>> x, y = np.ones((2, 3), np.float32), np.array([0, 1, 1])
    >>> net.gradients(x, y) == net.cost(x, y)
    True
    """

    def __init__(
        self, sizes: Sequence[int], *, hidden: Hidden = "relu", seed: int = 0, dtype: DTypeLike = np.float32
    ) -> None:
        self.sizes = tuple(int(size) for size in sizes)
        if len(self.sizes) < 2 or min(self.sizes) < 1:
            raise ValueError(f"sizes: got {tuple(sizes)}, needs at least two layers of at least one unit")
        if hidden not in _INITIAL_SCALE:
            raise ValueError(f"hidden: got {hidden!r}, needs 'relu' or 'sigmoid'")
        self.hidden: Hidden = hidden
        self.dtype = np.dtype(dtype)
        self.params: dict[str, Array] = {}
        rng = np.random.default_rng(seed)
        for layer, (inputs, outputs) in enumerate(pairwise(self.sizes), start=1):
            scale = _INITIAL_SCALE[hidden](inputs, outputs)
            self.params[f"W{layer}"] = (rng.standard_normal((outputs, inputs)) * scale).astype(self.dtype)
            self.params[f"b{layer}"] = np.zeros((outputs, 1), self.dtype)
        self.grads: dict[str, Array] = {name: np.zeros_like(array) for name, array in self.params.items()}

    @property
    def layers(self) -> int:
        """The number of layers with weights."""
        return len(self.sizes) - 1

    @property
    def count(self) -> int:
        """The number of parameters."""
        return sum(array.size for array in self.params.values())

    def activations(self, x: Array) -> list[Array]:
        """The forward pass: the input, what every hidden layer puts out, the last layer's `Z` (the logits).

        Parameters
        ----------
        x : array of shape (features, examples)
        """
        flow = [x]
        for layer in range(1, self.layers + 1):
            z: Array = self.params[f"W{layer}"] @ flow[-1]
            z += self.params[f"b{layer}"]
            if layer < self.layers:
                z = np.maximum(z, 0, out=z) if self.hidden == "relu" else sigmoid(z)
            flow.append(z)
        return flow

    def probabilities(self, x: Array) -> Array:
        """Of shape (outputs, examples): the probability of class 1 with one output, else of every class."""
        return self._probabilities(self.activations(x)[-1])

    def _probabilities(self, z: Array) -> Array:
        if self.sizes[-1] == 1:
            return sigmoid(z)
        scores = np.exp(z - z.max(axis=0))
        scores /= scores.sum(axis=0)
        return scores

    def _cost(self, z: Array, y: Labels) -> float:
        """Mean cross-entropy straight from the logits: no logarithm of a probability that has become zero."""
        if self.sizes[-1] == 1:
            return float(np.mean(np.logaddexp(z.dtype.type(0), z[0]) - z[0] * y.astype(z.dtype)))
        top = z.max(axis=0)
        return float(np.mean(np.log(np.exp(z - top).sum(axis=0)) + top - z[y, np.arange(y.size)]))

    def gradients(self, x: Array, y: Labels) -> float:
        """Forward and backward over one mini-batch: overwrites `grads`.

        Parameters
        ----------
        x : array of shape (features, examples)
        y : int array of shape (examples,)
            The class of every example: 0 or 1 with one output, else below the number of outputs.

        Returns
        -------
        float
            The cost (mean cross-entropy) of the mini-batch before the step.
        """
        flow = self.activations(x)
        # The derivative of the cross-entropy by the logits is the same for sigmoid and softmax: (probability
        # - truth) / m.
        delta = self._probabilities(flow[-1])
        if self.sizes[-1] == 1:
            delta -= y.astype(self.dtype)
        else:
            delta[y, np.arange(y.size)] -= 1
        delta /= y.size
        for layer in range(self.layers, 0, -1):
            before = flow[layer - 1]
            np.matmul(delta, before.T, out=self.grads[f"W{layer}"])
            np.sum(delta, axis=1, keepdims=True, out=self.grads[f"b{layer}"])
            if layer > 1:
                delta = self.params[f"W{layer}"].T @ delta
                delta *= before > 0 if self.hidden == "relu" else before * (1 - before)
        return self._cost(flow[-1], y)

    def cost(self, x: Array, y: Labels) -> float:
        """Mean cross-entropy over the given examples."""
        return self._cost(self.activations(x)[-1], y)

    def predict(self, x: Array) -> NDArray[np.intp]:
        """The most probable class of every column of `x`."""
        z = self.activations(x)[-1]
        answer: NDArray[np.intp] = (z[0] > 0).astype(np.intp) if self.sizes[-1] == 1 else z.argmax(axis=0)
        return answer

    def accuracy(self, x: Array, y: Labels) -> float:
        """The share of examples whose class is predicted."""
        return float(np.mean(self.predict(x) == y))
