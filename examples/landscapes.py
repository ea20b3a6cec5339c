"""Costs of two parameters, to watch an optimizer walk: an elongated bowl, a saddle, a plateau."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Landscape", "bowl", "descend", "plateau", "saddle"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """A cost of two parameters and its gradient.

    Attributes
    ----------
    name : str
    value : callable
        The cost of points of shape (2, ...), of shape (...).
    gradient : callable
        The gradient there, of shape (2, ...).
    minimum : float
        The lowest cost.
    """

    name: str
    value: Callable[[Array], Array]
    gradient: Callable[[Array], Array]
    minimum: float = 0.0

    def grid(self, width: float, height: float, points: int = 200) -> tuple[Array, Array, Array]:
        """Coordinates and costs over ``[-width, width] x [-height, height]``, as contour plots take them.

        Returns
        -------
        tuple of ndarray
            First coordinates, second coordinates, costs: each of shape (points, points).
        """
        x, y = np.meshgrid(np.linspace(-width, width, points), np.linspace(-height, height, points))
        return x, y, self.value(np.stack([x, y]))


def bowl(steepness: float = 20.0) -> Landscape:
    """``(x**2 + steepness * y**2) / 2``: ellipses, `steepness` times as curved across as along.

    Examples
    --------
    >>> bowl(20.0).gradient(np.array([3.0, 1.0]))
    array([ 3., 20.])
    """
    curvature = np.array([1.0, steepness])
    return Landscape(
        f"bowl, {steepness:g} times as curved across as along",
        lambda p: 0.5 * np.tensordot(curvature, p * p, 1),
        lambda p: curvature.reshape(2, *[1] * (p.ndim - 1)) * p,
    )


def saddle() -> Landscape:
    """``x**2 / 2 - y**2 / 2 + y**4 / 4``: level at the origin, where it is lowest along x and highest along
    y.

    The two minima, of cost -1/4, are at ``(0, 1)`` and ``(0, -1)``.

    Examples
    --------
    >>> saddle().gradient(np.array([0.0, 1.0]))
    array([0., 0.])
    """
    return Landscape(
        "saddle",
        lambda p: p[0] ** 2 / 2 - p[1] ** 2 / 2 + p[1] ** 4 / 4,
        lambda p: np.stack([p[0], p[1] ** 3 - p[1]]),
        -0.25,
    )


def plateau() -> Landscape:
    """``r**2 / (1 + r**2)`` with ``r**2 = x**2 + y**2``: a pit in a plain that is almost level far from it.

    At the distance `r` the slope is ``2 r / (1 + r**2)**2``, about ``2 / r**3``.

    Examples
    --------
    >>> round(float(plateau().gradient(np.array([10.0, 0.0]))[0]), 5)
    0.00196
    """

    def gradient(p: Array) -> Array:
        slope: Array = 2.0 * p / (1.0 + np.sum(p * p, axis=0)) ** 2
        return slope

    def value(p: Array) -> Array:
        square = np.sum(p * p, axis=0)
        cost: Array = square / (1.0 + square)
        return cost

    return Landscape("plateau", value, gradient)


def descend(
    landscape: Landscape, start: Sequence[float], steps: int, optimizer: Callable[..., Any], **options: Any
) -> Array:
    """Walk downhill and return the way.

    Parameters
    ----------
    landscape : Landscape
    start : two floats
    steps : int
    optimizer : class
        ``fusedstep.Adam``, say.
    **options
        What it is made with: ``lr=0.1``.

    Returns
    -------
    ndarray of shape (steps + 1, 2), float64
        The start and the point after every step.
    """
    point = np.array(start, dtype=np.float64)
    if point.shape != (2,):
        raise ValueError(f"start: got the shape {point.shape}, needs two numbers")
    gradient = np.zeros_like(point)
    opt = optimizer(point, grads=gradient, **options)
    way = [point.copy()]
    for _ in range(steps):
        gradient[...] = landscape.gradient(point)
        opt.step()
        way.append(point.copy())
    return np.array(way)
