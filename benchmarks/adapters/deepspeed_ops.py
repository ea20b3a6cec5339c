"""DeepSpeed's CPU optimizers (float32 only; their C++ is compiled at the first use, about a minute each)."""

from __future__ import annotations

from . import Peer, Problem, Session, Unsupported
from .torch_optim import tensors


def _build(problem: Problem) -> Session:
    from deepspeed.ops.adagrad import DeepSpeedCPUAdagrad
    from deepspeed.ops.adam import DeepSpeedCPUAdam
    from deepspeed.ops.lion import DeepSpeedCPULion

    if problem.dtype != "float32":
        raise Unsupported(f"DeepSpeed's CPU steps have no {problem.dtype}")
    arrays, params = tensors(problem)
    hyper = dict(problem.rule.hyper)
    if problem.rule.name in ("adam", "adamw"):
        optimizer = DeepSpeedCPUAdam(params, adamw_mode=problem.rule.name == "adamw", **hyper)
    elif problem.rule.name == "adagrad":
        optimizer = DeepSpeedCPUAdagrad(params, **hyper)
    elif problem.rule.name == "lion":
        optimizer = DeepSpeedCPULion(params, **hyper)
    else:
        raise Unsupported(f"DeepSpeed has no {problem.rule.name} for the CPU")
    return Session(optimizer.step, lambda: arrays)


def peers() -> dict[str, Peer]:
    """Return DeepSpeed's CPU step."""
    import deepspeed  # noqa: F401

    return {"deepspeed": Peer(_build)}
