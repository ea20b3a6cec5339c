"""pytorch_optimizer: a loop over tensors in Python, an operation of torch for every term of the formula."""

from __future__ import annotations

from . import Peer, Problem, Session, Unsupported
from .torch_optim import tensors

_CLASSES = {
    "lion": "Lion",
    "adan": "Adan",
    "ademamix": "AdEMAMix",
    "yogi": "Yogi",
    "stable_adamw": "StableAdamW",
    "novograd": "NovoGrad",
}
"""Rule to class, of the same formula. Its MARS adds 1e-15 to the second moment, which shows in large tensors."""


def build(problem: Problem) -> Session:
    """Prepare a step of this library."""
    import pytorch_optimizer

    if problem.rule.name not in _CLASSES:
        raise Unsupported(f"pytorch_optimizer has no {problem.rule.name} of the same formula")
    arrays, params = tensors(problem)
    grads = [param.grad for param in params]
    for param in params:
        param.grad = param.grad.clone()
    optimizer = getattr(pytorch_optimizer, _CLASSES[problem.rule.name])(params, **problem.rule.hyper)

    def restore() -> None:  # its steps change gradients
        for param, grad in zip(params, grads, strict=True):
            param.grad.copy_(grad)

    return Session(optimizer.step, lambda: arrays, restore)


def peers() -> dict[str, Peer]:
    """Return this library's step."""
    import pytorch_optimizer  # noqa: F401

    return {"pytorch_optimizer": Peer(build)}
