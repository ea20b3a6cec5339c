"""The landscapes of the lessons: their gradients, and the walk over them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from repository import script

landscapes = script("examples/landscapes.py")
bowl, descend, plateau, saddle = landscapes.bowl, landscapes.descend, landscapes.plateau, landscapes.saddle


@pytest.mark.parametrize("landscape", [bowl(), bowl(3.0), saddle(), plateau()], ids=lambda one: one.name)
def test_gradients_are_the_differences(landscape: Any) -> None:
    points, h = np.random.default_rng(0).normal(0.0, 2.0, (2, 5, 4)), 1e-6
    gradient = landscape.gradient(points)
    assert gradient.shape == points.shape
    for axis in (0, 1):
        step = np.zeros((2, 1, 1))
        step[axis] = h
        slope = (landscape.value(points + step) - landscape.value(points - step)) / (2 * h)
        np.testing.assert_allclose(gradient[axis], slope, rtol=1e-5, atol=1e-8)
    assert landscape.value(points).min() >= landscape.minimum
    assert landscape.grid(2.0, 1.0, 41)[2].min() == pytest.approx(landscape.minimum, abs=1e-12)


class Descent:
    """Gradient descent in one line, to see that the walk hands over what it should."""

    def __init__(self, params: Any, grads: Any, lr: float) -> None:
        self.params, self.grads, self.lr = params, grads, lr

    def step(self) -> None:
        self.params -= self.lr * self.grads


def test_the_walk_is_gradient_descent() -> None:
    way = descend(bowl(4.0), (1.0, 1.0), 3, Descent, lr=0.1)
    np.testing.assert_allclose(way, [[0.9**n, 0.6**n] for n in range(4)], rtol=1e-14)


def test_bad_start() -> None:
    with pytest.raises(ValueError, match=r"start: got .*, needs two numbers"):
        descend(bowl(), (1.0,), 3, Descent, lr=0.1)  # too few
