"""NumPy: the ten lines people write, and this package's reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import Array, Peer, Problem, Session, Unsupported


def _adam(
    params: list[Array], grads: list[Array], lr: float, betas: tuple[float, float], eps: float
) -> Callable[[], None]:
    beta1, beta2 = betas
    means = [np.zeros_like(param) for param in params]
    squares = [np.zeros_like(param) for param in params]
    step = 0

    def run() -> None:
        nonlocal step
        step += 1
        for param, grad, mean, square in zip(params, grads, means, squares, strict=True):
            mean *= beta1
            mean += (1 - beta1) * grad
            square *= beta2
            square += (1 - beta2) * grad * grad
            mean_hat = mean / (1 - beta1**step)
            square_hat = square / (1 - beta2**step)
            param -= lr * mean_hat / (np.sqrt(square_hat) + eps)

    return run


def _rmsprop(params: list[Array], grads: list[Array], lr: float, alpha: float, eps: float) -> Callable[[], None]:
    squares = [np.zeros_like(param) for param in params]

    def run() -> None:
        for param, grad, square in zip(params, grads, squares, strict=True):
            square *= alpha
            square += (1 - alpha) * grad * grad
            param -= lr * grad / (np.sqrt(square) + eps)

    return run


def _momentum(params: list[Array], grads: list[Array], lr: float, momentum: float) -> Callable[[], None]:
    velocities = [np.zeros_like(param) for param in params]

    def run() -> None:
        for param, grad, velocity in zip(params, grads, velocities, strict=True):
            velocity *= momentum
            velocity += grad
            param -= lr * velocity

    return run


_RULES = {"adam": _adam, "rmsprop": _rmsprop, "momentum": _momentum}


def _plain(problem: Problem) -> Session:
    if problem.rule.name not in _RULES:
        raise Unsupported(f"no plain {problem.rule.name}")
    params = problem.copies()
    step = _RULES[problem.rule.name](params, list(problem.grads), **problem.rule.hyper)  # type: ignore[operator]
    return Session(step, lambda: params)


def peers() -> dict[str, Peer]:
    """Return the plain steps."""
    return {"numpy": Peer(_plain, most=30_000_000)}
