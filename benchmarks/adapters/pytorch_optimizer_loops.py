"""pytorch_optimizer: a loop over tensors in Python, an operation of torch for every term of the formula."""

from __future__ import annotations

from typing import Any

from . import Peer, Problem, Session, Unsupported
from .torch_optim import tensors

_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "lion": ("Lion", {}),
    "adan": ("Adan", {}),
    "ademamix": ("AdEMAMix", {}),
    "yogi": ("Yogi", {}),
    "mars": ("MARS", {"optimize_1d": True}),
    "stable_adamw": ("StableAdamW", {}),
    "novograd": ("NovoGrad", {}),
}
"""Rule to class, and the options with which it has this package's formula."""


def build(problem: Problem) -> Session:
    """Prepare a step of this library."""
    import pytorch_optimizer

    if problem.rule.name not in _CLASSES:
        raise Unsupported(f"pytorch_optimizer has no {problem.rule.name} of the same formula")
    name, options = _CLASSES[problem.rule.name]
    arrays, params = tensors(problem)
    grads = [param.grad for param in params]
    for param in params:
        param.grad = param.grad.clone()
    optimizer = getattr(pytorch_optimizer, name)(params, **problem.rule.hyper, **options)

    def restore() -> None:  # its steps change gradients
        for param, grad in zip(params, grads, strict=True):
            param.grad.copy_(grad)

    return Session(optimizer.step, lambda: arrays, restore)


def peers() -> dict[str, Peer]:
    """Return this library's step."""
    import pytorch_optimizer  # noqa: F401

    return {"pytorch_optimizer": Peer(build)}
