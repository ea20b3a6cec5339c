"""numba: a loop written by hand for each rule, compiled with ``fastmath``, parallel and on one thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from . import Peer, Problem, Session, Unsupported


@cache
def _kernels(parallel: bool) -> dict[str, Callable[..., None]]:
    import numba

    compiled: Any = partial(numba.njit, parallel=parallel, fastmath=True, error_model="numpy")

    @compiled()
    def adam(p, g, m, v, beta1, other1, beta2, other2, rate, scale, eps):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            grad = g[i]
            mean = beta1 * m[i] + other1 * grad
            square = beta2 * v[i] + other2 * grad * grad
            m[i] = mean
            v[i] = square
            p[i] -= rate * mean / (np.sqrt(square * scale) + eps)

    @compiled()
    def rmsprop(p, g, v, alpha, other, rate, eps):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            grad = g[i]
            square = alpha * v[i] + other * grad * grad
            v[i] = square
            p[i] -= rate * grad / (np.sqrt(square) + eps)

    @compiled()
    def momentum(p, g, b, decay, rate):  # type: ignore[no-untyped-def]
        for i in numba.prange(p.size):
            velocity = decay * b[i] + g[i]
            b[i] = velocity
            p[i] -= rate * velocity

    return {"adam": adam, "rmsprop": rmsprop, "momentum": momentum}


def _build(parallel: bool, problem: Problem) -> Session:
    import numba

    kernels = _kernels(parallel)
    if problem.rule.name not in kernels:
        raise Unsupported(f"no loop for {problem.rule.name}")
    numba.set_num_threads(min(problem.threads, numba.config.NUMBA_NUM_THREADS))
    kernel = kernels[problem.rule.name]
    arrays = problem.copies()
    real = np.dtype(problem.dtype).type
    flat = [array.reshape(-1) for array in arrays]
    grads = [np.asarray(grad).reshape(-1) for grad in problem.grads]
    states = [[np.zeros_like(one) for one in flat] for _ in range(problem.rule.states)]
    rows = list(zip(flat, grads, *states, strict=True))
    hyper: Any = problem.rule.hyper
    count = 0

    def adam() -> None:
        nonlocal count
        count += 1
        beta1, beta2 = hyper["betas"]
        constants = [
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            hyper["lr"] / (1 - beta1**count),
            1 / (1 - beta2**count),
        ]
        typed = [real(constant) for constant in (*constants, hyper["eps"])]
        for row in rows:
            kernel(*row, *typed)

    def rmsprop() -> None:
        alpha = hyper["alpha"]
        typed = [real(constant) for constant in (alpha, 1 - alpha, hyper["lr"], hyper["eps"])]
        for row in rows:
            kernel(*row, *typed)

    def momentum() -> None:
        typed = (real(hyper["momentum"]), real(hyper["lr"]))
        for row in rows:
            kernel(*row, *typed)

    step = {"adam": adam, "rmsprop": rmsprop, "momentum": momentum}[problem.rule.name]
    return Session(step, lambda: arrays)


def peers() -> dict[str, Peer]:
    """Return the loop on all threads and on one."""
    import numba  # noqa: F401

    return {"numba": Peer(partial(_build, True)), "numba serial": Peer(partial(_build, False))}
