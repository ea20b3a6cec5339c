"""This package: gradients bound once, and gradients passed each step."""

from __future__ import annotations

from functools import partial
from typing import Any

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
    "lion": "Lion",
    "adabelief": "AdaBelief",
    "adan": "Adan",
    "ademamix": "AdEMAMix",
    "yogi": "Yogi",
    "stable_adamw": "StableAdamW",
    "novograd": "NovoGrad",
    "adafactor": "Adafactor",
}


def build(bound: bool, problem: Problem, **options: Any) -> Session:
    """Prepare a step of this package; ``options`` go to the optimizer (storage formats, clipping)."""
    import fusedstep as fs

    fs.set_num_threads(problem.threads)
    chosen = getattr(fs, _CLASSES[problem.rule.name], None)
    if chosen is None:
        raise Unsupported(f"this build has no {problem.rule.name}")
    arrays = problem.copies()
    grads = list(problem.grads)
    if bound:
        optimizer = chosen(arrays, grads=grads, **problem.rule.hyper, **options)
        return Session(optimizer.step, lambda: arrays)
    optimizer = chosen(arrays, **problem.rule.hyper, **options)
    return Session(partial(optimizer.step, grads), lambda: arrays)


def _reference(problem: Problem) -> Session:
    import fusedstep as fs

    if problem.rule.name == "adafactor":
        raise Unsupported("its states have shapes of their own")
    rule = getattr(fs.reference, getattr(fs, _CLASSES[problem.rule.name]).rule)
    arrays = problem.copies()
    grads = list(problem.grads)
    optimizer = getattr(fs, _CLASSES[problem.rule.name])(arrays, **problem.rule.hyper)
    states = {
        key: [state[key] for state in optimizer.state]
        for key, value in optimizer.state[0].items()
        if hasattr(value, "dtype") and getattr(value, "shape", None) == arrays[0].shape
    }
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        rule(arrays, grads, **states, step=count, **problem.rule.hyper)

    return Session(step, lambda: arrays)


def peers() -> dict[str, Peer]:
    """Return this package's two ways to step, and its reference."""
    import fusedstep as fs

    if not hasattr(fs, "Adam"):
        raise ImportError("fusedstep is not built")
    return {
        "fusedstep": Peer(partial(build, True)),
        "fusedstep (passed)": Peer(partial(build, False)),
        "fusedstep reference": Peer(_reference, most=3_000_000),
    }
