"""optax under ``jax.jit`` on the CPU, parameters and states donated, so XLA may update them in place."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import Peer, Problem, Session, Unsupported


def _transform(problem: Problem) -> Any:
    import optax

    hyper: Any = dict(problem.rule.hyper)
    rate = hyper.pop("lr")
    beta1, beta2 = hyper.get("betas", (0.0, 0.0))[:2]
    name = problem.rule.name
    made = {
        "adam": lambda: optax.adam(rate, beta1, beta2, hyper["eps"]),
        "adamw": lambda: optax.adamw(rate, beta1, beta2, hyper["eps"], weight_decay=hyper["weight_decay"]),
        "rmsprop": lambda: optax.rmsprop(rate, hyper["alpha"], hyper["eps"], eps_in_sqrt=False, initial_scale=0.0),
        "momentum": lambda: optax.sgd(rate, hyper["momentum"]),
        "sgd": lambda: optax.sgd(rate),
        "adadelta": lambda: optax.adadelta(rate, hyper["rho"], hyper["eps"]),
        "adamax": lambda: optax.adamax(rate, beta1, beta2, hyper["eps"]),
        "lion": lambda: optax.lion(rate, beta1, beta2, weight_decay=0.0),
        "adabelief": lambda: optax.adabelief(rate, beta1, beta2, hyper["eps"], eps_root=hyper["eps"]),
    }
    if name not in made:
        raise Unsupported(f"optax has no {name} with torch's meaning")
    return made[name]()


def _build(problem: Problem) -> Session:
    import jax

    jax.config.update("jax_platforms", "cpu")
    if problem.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    import optax

    transform = _transform(problem)
    params = [jax.numpy.array(param) for param in problem.params]
    grads = [jax.numpy.array(grad) for grad in problem.grads]
    state = transform.init(params)

    def update(params: Any, state: Any, grads: Any) -> Any:
        changes, state = transform.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    held = [params, state]
    del params, state

    def step() -> None:
        held[0], held[1] = compiled(held[0], held[1], grads)
        jax.block_until_ready(held[0])

    return Session(step, lambda: [np.asarray(param) for param in held[0]])


def peers() -> dict[str, Peer]:
    """Return optax's step."""
    import jax  # noqa: F401
    import optax  # noqa: F401

    return {"optax jit": Peer(_build)}
