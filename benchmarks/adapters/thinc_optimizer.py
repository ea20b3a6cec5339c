"""thinc's Optimizer on the CPU: a compiled Adam on one thread, NumPy for the rest (float32 only)."""

from __future__ import annotations

import numpy as np

from . import Peer, Problem, Session, Unsupported


def _build(problem: Problem) -> Session:
    from thinc.api import Adam

    if problem.rule.name != "adam":
        raise Unsupported(f"thinc has no {problem.rule.name}")
    if problem.dtype != "float32":
        raise Unsupported(f"thinc has no {problem.dtype}")
    beta1, beta2 = problem.rule.hyper["betas"]  # type: ignore[misc]
    optimizer = Adam(
        problem.rule.hyper["lr"],
        beta1=beta1,
        beta2=beta2,
        eps=problem.rule.hyper["eps"],
        L2=0.0,
        grad_clip=0.0,
        use_averages=False,
    )
    arrays = problem.copies()
    grads = [np.array(grad) for grad in problem.grads]
    keys = [(place, "W") for place in range(len(arrays))]

    def restore() -> None:
        for grad, given in zip(grads, problem.grads, strict=True):
            np.copyto(grad, given)

    def step() -> None:
        for place, key in enumerate(keys):
            arrays[place], _ = optimizer(key, arrays[place], grads[place])

    return Session(step, lambda: arrays, before=restore)


def peers() -> dict[str, Peer]:
    """Return thinc's step; it zeroes the gradients it is given, which are put back outside the timing."""
    import thinc.api  # noqa: F401

    return {"thinc": Peer(_build, most=30_000_000)}
