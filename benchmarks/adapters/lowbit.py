"""Adam with narrow states: this package's storage formats, torchao's AdamW8bit and AdamWFp8, bitsandbytes'
Adam8bit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from . import Peer, Problem, Session, Unsupported, fusedstep_steps
from .torch_optim import tensors

STORAGES: dict[str, tuple[str, dict[str, Any]]] = {
    "fusedstep float32": ("float32", {}),
    "fusedstep bfloat16 states": ("float32", {"state_format": "bfloat16"}),
    "fusedstep 8-bit states": ("float32", {"state_format": "8bit"}),
    "fusedstep bfloat16, split, 8-bit": ("bfloat16", {"master": "split", "state_format": "8bit"}),
    "fusedstep bfloat16, stochastic, 8-bit": ("bfloat16", {"rounding": "stochastic", "state_format": "8bit"}),
}
"""Name in the table to the dtype of parameters and gradients, and this package's options."""


def _torchao(name: str, problem: Problem) -> Session:
    from torchao import optim

    arrays, params = tensors(problem)
    hyper: Any = dict(problem.rule.hyper)
    optimizer = getattr(optim, name)(params, weight_decay=0.0, **hyper)
    return Session(optimizer.step, lambda: arrays)


def _bitsandbytes(problem: Problem) -> Session:
    import bitsandbytes

    arrays, params = tensors(problem)
    hyper: Any = dict(problem.rule.hyper)
    optimizer = bitsandbytes.optim.Adam8bit(params, **hyper)
    return Session(optimizer.step, lambda: arrays)


def _torch_fused(problem: Problem) -> Session:
    from . import torch_optim

    return torch_optim.build("fused", problem)


def peers() -> dict[str, tuple[str, Peer]]:
    """Return the contestants with the dtype each steps; those that are not installed refuse when asked to
    build."""
    found = {
        name: (dtype, Peer(partial(fusedstep_steps.build, True, **options)))
        for name, (dtype, options) in STORAGES.items()
    }
    found["torch fused float32"] = ("float32", Peer(_torch_fused))
    found["torchao AdamW8bit"] = (
        "float32",
        Peer(partial(_installed, partial(_torchao, "AdamW8bit")), most=10_000_000),
    )
    found["torchao AdamWFp8"] = (
        "float32",
        Peer(partial(_installed, partial(_torchao, "AdamWFp8")), most=10_000_000),
    )
    found["bitsandbytes Adam8bit"] = ("float32", Peer(partial(_installed, _bitsandbytes), most=10_000_000))
    return found


def _installed(build: Any, problem: Problem) -> Session:
    try:
        session: Session = build(problem)
    except ImportError as error:
        raise Unsupported(str(error)) from error
    return session


def error_of(values: list[Any], expected: Any, start: Any) -> float:
    """Return the mean distance from ``expected`` over the mean change since ``start`` (one tile each)."""
    got = np.asarray(values[0]).reshape(-1).astype(np.float64)
    places = np.arange(got.size) % expected.size
    return float(np.mean(np.abs(got - expected[places])) / np.mean(np.abs(expected - start)))
