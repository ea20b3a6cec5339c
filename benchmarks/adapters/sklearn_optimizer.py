"""scikit-learn's own optimizers of its multi-layer perceptron (NumPy, out of place)."""

from __future__ import annotations

from typing import Any

from . import Peer, Problem, Session, Unsupported


def _build(problem: Problem) -> Session:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

    arrays = problem.copies()
    grads = list(problem.grads)
    hyper: Any = problem.rule.hyper
    if problem.rule.name == "adam":
        beta1, beta2 = hyper["betas"]
        optimizer = AdamOptimizer(arrays, hyper["lr"], beta1, beta2, hyper["eps"])
    elif problem.rule.name == "momentum":
        optimizer = SGDOptimizer(arrays, hyper["lr"], momentum=hyper["momentum"], nesterov=False)
    else:
        raise Unsupported(f"scikit-learn has no {problem.rule.name}")
    return Session(lambda: optimizer.update_params(arrays, grads), lambda: arrays)


def peers() -> dict[str, Peer]:
    """Return scikit-learn's step."""
    import sklearn.neural_network  # noqa: F401

    return {"scikit-learn": Peer(_build, most=30_000_000)}
