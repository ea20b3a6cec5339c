"""torch.optim: fused, foreach, and the plain loop over tensors ("single")."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from . import Peer, Problem, Session, Unsupported

_CLASSES = {
    "adam": "Adam",
    "rmsprop": "RMSprop",
    "momentum": "SGD",
    "sgd": "SGD",
    "adamw": "AdamW",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adamax": "Adamax",
    "nadam": "NAdam",
    "radam": "RAdam",
    "asgd": "ASGD",
    "rprop": "Rprop",
    "adafactor": "Adafactor",
}


def tensors(problem: Problem) -> tuple[list[Any], list[Any]]:
    """Return the problem's arrays, and torch parameters over them with their gradients."""
    import torch

    torch.set_num_threads(problem.threads)
    arrays = problem.copies()
    params = [torch.nn.Parameter(torch.from_numpy(array)) for array in arrays]
    for param, grad in zip(params, problem.grads, strict=True):
        param.grad = torch.from_numpy(np.asarray(grad))
    return arrays, params


def build(kind: str, problem: Problem) -> Session:
    """Prepare ``torch.optim``'s ``kind`` of step ("fused", "foreach" or "single")."""
    import torch

    if problem.rule.name not in _CLASSES:
        raise Unsupported(f"torch.optim has no {problem.rule.name}")
    arrays, params = tensors(problem)
    how = {"fused": {"fused": True}, "foreach": {"foreach": True}, "single": {"foreach": False}}[kind]
    if kind == "single" and problem.rule.name in ("adam", "adamw", "momentum", "sgd", "adagrad"):
        how["fused"] = False
    try:
        optimizer = getattr(torch.optim, _CLASSES[problem.rule.name])(params, **problem.rule.hyper, **how)
        optimizer.step()
    except (TypeError, RuntimeError) as error:
        raise Unsupported(f"torch {kind}: {error}") from error
    for array, start in zip(arrays, problem.params, strict=True):
        np.copyto(array, start)
    optimizer.state.clear()
    return Session(optimizer.step, lambda: arrays)


def peers() -> dict[str, Peer]:
    """Return torch's three kinds of step."""
    import torch  # noqa: F401

    return {
        "torch fused": Peer(partial(build, "fused")),
        "torch foreach": Peer(partial(build, "foreach")),
        "torch single": Peer(partial(build, "single"), most=30_000_000),
    }
