"""The native step as a JAX primitive: shapes, the call of XLA's foreign function, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import jax.extend.core
import numpy as np
from jax.interpreters import ad, batching, mlir

from ._backend import TARGET

__all__ = [
    "CAUTIOUS",
    "COUNT_NONFINITE",
    "MAXIMIZE",
    "MEASURE_NORM",
    "SKIP_NONFINITE",
    "STOCHASTIC",
    "Plan",
    "take_step",
]

MAXIMIZE, SKIP_NONFINITE, STOCHASTIC, MEASURE_NORM, COUNT_NONFINITE, CAUTIOUS = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True)
class Plan:
    """All about a step that is known when it is traced; cpp/xla/step.hpp says what each entry is.

    Attributes
    ----------
    names
        What the arguments that are stepped in place are called in messages, without the parameters.
    """

    rule: str
    values: tuple[float, ...]
    traced: tuple[tuple[int, int], ...]
    ranges: tuple[tuple[float, float], ...]
    needs: tuple[tuple[str, str], ...]
    tensors: tuple[tuple[int, ...], ...]
    paths: tuple[str, ...]
    arrays: tuple[str, ...]
    flags: int
    seed: int

    def attributes(self) -> dict[str, Any]:
        """What the handler reads."""
        return {
            "rule": self.rule,
            "values": np.array(self.values, np.float64),
            "traced": np.array(self.traced, np.int64).reshape(-1),
            "ranges": np.array(self.ranges, np.float64).reshape(-1),
            "needs": "\n".join(line for pair in self.needs for line in pair),
            "tensors": np.array(self.tensors, np.int64).reshape(-1),
            "paths": "\n".join(self.paths),
            "arrays": "\n".join(self.arrays),
            "flags": np.int64(self.flags),
            "seed": np.uint64(self.seed).astype(np.int64),
        }


step_p: Any = jax.extend.core.Primitive("fusedstep")
step_p.multiple_results = True


def take_step(traced: list[Any], in_place: list[Any], grads: list[Any], plan: Plan) -> list[Any]:
    """The arguments `in_place` after a step; to be called while a program is traced."""
    results: list[Any] = step_p.bind(*traced, *in_place, *grads, plan=plan)
    return results


def _in_place(count: int, plan: Plan) -> range:
    """The numbers of those of so many arguments that the step writes."""
    return range(len(plan.needs), count - len(plan.tensors))


def _shapes(*arguments: Any, plan: Plan) -> list[Any]:
    return [jax.core.ShapedArray(arguments[i].shape, arguments[i].dtype) for i in _in_place(len(arguments), plan)]


def _lower(context: Any, *operands: Any, plan: Plan) -> Any:
    places = _in_place(len(operands), plan)
    aliases = {place: number for number, place in enumerate(places)}
    rule = jax.ffi.ffi_lowering(TARGET, operand_output_aliases=aliases)
    return rule(context, *operands, **plan.attributes())


def _at_once(*arguments: Any, plan: Plan) -> list[Any]:
    """A step that no program is traced for: under `jax.disable_jit`, and where `jax.debug_nans` looks for a NaN."""
    with jax.disable_jit(False), jax.debug_nans(False), jax.debug_infs(False):
        results: list[Any] = _compiled(*arguments, plan=plan)
        return results


_compiled = jax.jit(step_p.bind, static_argnames="plan")


def _elsewhere(context: Any, *operands: Any, plan: Plan) -> NoReturn:
    platforms = getattr(context, "platforms", None) or context.module_context.platforms
    raise ValueError(
        f"fusedstep.jax: got a program for {', '.join(platforms)}, needs one for the CPU, as the step is native code "
        'there; put the arrays there with jax.device_put(arrays, jax.devices("cpu")[0]), or use optax'
    )


def _batched(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(
        "fusedstep.jax: got a step under jax.vmap, needs one without, as it writes one model's memory; step the "
        "batched parameters as one model, or use optax"
    )


def _differentiated(*_: Any, **__: Any) -> NoReturn:
    raise NotImplementedError(
        "fusedstep.jax: got a step that is differentiated, needs one that is not, as native code has no derivative; "
        "use jax.lax.stop_gradient on what enters it, or optax"
    )


step_p.def_impl(_at_once)
step_p.def_abstract_eval(_shapes)
mlir.register_lowering(step_p, _elsewhere)
mlir.register_lowering(step_p, _lower, platform="cpu")
batching.primitive_batchers[step_p] = _batched
ad.primitive_jvps[step_p] = _differentiated
