"""One optimizer: what it was made with, its first state, and a step as a function of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import optimizers
from ..reference import RULES
from ..reference import State as RuleState
from ._average import average
from ._call import CAUTIOUS, COUNT_NONFINITE, MAXIMIZE, MEASURE_NORM, SKIP_NONFINITE, STOCHASTIC, Plan, take_step
from ._donated import name_array, naming
from ._layout import Layout
from ._tree import Tree, path_text
from ._values import OPTIONS, Values

__all__ = ["Optimizer", "State"]

CLASSES: dict[str, Any] = {
    kind.rule: kind for name in optimizers.__all__ if hasattr(kind := getattr(optimizers, name), "rule")
}

# Options of the NumPy classes that a step of JAX's arrays has not.
REFUSED = {
    "grads": "gradients are arguments of step()",
    "grad_scale": "it is an argument of step()",
    "params": "parameters are arguments of init() and step()",
    "zero_grads": "gradients of JAX are new arrays every time",
    "cast_grads": "jax.numpy converts them: grad.astype(param.dtype)",
    "memory": "XLA allocates the states",
    "accumulate_steps": "optax.MultiSteps adds gradients up, around as_optax()",
}


class State(NamedTuple):
    """What a step needs of the steps before; a structure of arrays like any other in JAX.

    Attributes
    ----------
    step
        Steps taken: int32, shape (). An int64 array counts further.
    arrays
        States, masters and averages of all parameters, those of one dtype in one array under its name:
        `Optimizer.unpack` gives them the structure of the parameters.
    scalars
        uint32, shape (n, 2): the bits of the rule's n float64 values, which `Optimizer.scalars` decodes; one tensor's
        after the other where each has its own; None for rules without.
    skipped
        Steps left out by ``skip_nonfinite``: int32, shape (); else None.
    grad_norm
        Norm of the last step's gradients, all together and unscaled: float32, shape (), with ``max_grad_norm`` or
        ``skip_nonfinite``; else None.
    nonfinite_blocks
        Blocks of 8-bit states that held an infinity or NaN in the last step: int32, shape (); None without such.
    """

    step: Any
    arrays: dict[str, Any]
    scalars: Any = None
    skipped: Any = None
    grad_norm: Any = None
    nonfinite_blocks: Any = None


class Optimizer:
    """An update rule with its options: what the functions of `fusedstep.jax` return.

    Parameters
    ----------
    rule
        Name of the update rule.
    given
        Hyper-parameters and options by name (see `fusedstep.jax`).

    Raises
    ------
    TypeError, ValueError
        An option that there is not, or a value of the wrong kind or out of range.
    """

    def __init__(self, rule: str, given: Mapping[str, Any]) -> None:
        facts = RULES[rule]
        options = dict(given)
        self.rule = rule
        self._masks = {name: options.pop(name, None) for name in ("mask", "trainable")}
        for name in sorted(options.keys() & REFUSED):
            raise TypeError(f"{name}: got {options[name]!r}, needs to be left out, as {REFUSED[name]}")
        if self._masks["mask"] is not None and "weight_decay" not in facts.hypers:
            raise TypeError(f"mask: got one, needs a rule with weight_decay, which {rule} is not")
        numbers = {**facts.hypers, **dict.fromkeys(OPTIONS), "grad_scale": 1.0}
        with naming(values=options):
            self._values = Values(rule, {name: options.get(name, none) for name, none in numbers.items()})
            # The class for NumPy checks everything, and knows what states begin with.
            known = {name: self._values.first(name) for name in options.keys() & numbers.keys()}
        self._numpy = CLASSES[rule](np.zeros(1, jnp.bfloat16), **(options | known))
        self._options: dict[str, Any] = dict(self._numpy.param_groups[0])
        needed = {name: self._options[name] or self._values.varies(name) for name in facts.hypers}
        self._states = facts.used(needed)
        self._skips, self._seed = self._numpy.skip_nonfinite, self._numpy.seed
        self._measures = self._skips or self._values.given["max_grad_norm"] is not None
        self._step_in_place = jax.jit(self._step, donate_argnums=(0, 2))
        self._change_apart = jax.jit(self._change)
        self._init_compiled = jax.jit(self._init)

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self._values.given.items() if value is not None)
        return f"fusedstep.jax.{self.rule}({values})"

    # ---- what is called ----

    def init(self, params: Any) -> State:
        """The state before the first step.

        Parameters
        ----------
        params
            Arrays of float32, float64, float16 or bfloat16, in any structure of JAX.

        Returns
        -------
        State
            New arrays.

        Raises
        ------
        TypeError, ValueError
            A parameter of another dtype that is not left out by ``trainable``, or a mask that does not fit.
        """
        with naming(params=params, values=self._values.given):
            state: State = self._init_compiled(params)
        return state

    def step(self, params: Any, grads: Any, state: State, **values: Any) -> tuple[Any, State]:
        """One step in place.

        Outside of ``jax.jit`` the step is compiled by itself with `params` and `state` donated: the results lie in
        their memory, and the arrays given are gone. Inside a function that is compiled, what that function donates
        is stepped in place and the rest is copied first, by XLA.

        Parameters
        ----------
        params
            The parameters.
        grads
            Their gradients, of the same structure and shapes, in a dtype no wider than the parameter is computed in.
        state
            What `init` or the last step returned.
        **values
            Hyper-parameters for this step alone, ``lr=1e-4``, and ``grad_scale``, by which gradients are divided
            first: numbers or traced arrays of shape ().

        Returns
        -------
        tuple
            The parameters and the state after the step.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong structure, shape or dtype, while the program is traced; an array that was given up
            to a step before, or whose memory is that of another. Nothing has changed.
        jax.errors.JaxRuntimeError
            A traced value out of range, or a step that takes a float16 parameter beyond 65504, while the program runs.
            Nothing was written, but JAX has given up the donated arrays.
        """
        try:  # not `naming`, which would add a quarter to the time of a small step
            result: tuple[Any, State] = self._step_in_place(params, grads, state, **values)
        except (ValueError, RuntimeError) as error:
            name_array(error, params=params, state=state, grads=grads, values=self._values.given | values)
            raise
        return result

    def as_optax(self) -> Any:
        """The same rule as an ``optax.GradientTransformationExtraArgs``, to be chained and masked as optax does.

        Its ``update`` returns the difference between the new and the old parameters, which takes a copy and two more
        passes over the parameters; `step` does without. ``update`` needs `params`, and takes the values of `step` by
        keyword.
        """
        import optax

        def update(updates: Any, state: State, params: Any = None, **extra: Any) -> tuple[Any, State]:
            if params is None:
                raise ValueError("params: got None, needs the parameters: update(grads, state, params)")
            values = {name: value for name, value in extra.items() if name in self._values.given}
            with naming(params=params, state=state, grads=updates, values=self._values.given | values):
                result: tuple[Any, State] = self._change_apart(params, updates, state, **values)
            return result

        return optax.GradientTransformationExtraArgs(self.init, update)

    def unpack(self, params: Any, state: State) -> dict[str, Any]:
        """States, masters and averages in the structure of the parameters.

        Parameters
        ----------
        params
            The parameters, or their shapes (``jax.ShapeDtypeStruct``).
        state
            A state of theirs.

        Returns
        -------
        dict
            By name (``"exp_avg"``, ``"master"``, ``"ema"``), a structure of arrays of the parameters' shapes; an 8-bit
            state is a pair of codes (uint8) and scales (float32, one for 256 elements), a parameter that is not
            trainable has None. New arrays.
        """
        tree, layout = self._look(params)
        self._check_state(params, state)
        with naming(state=state):
            return {name: tree.whole(layout.unpack(name, state.arrays), None) for name in layout.names}

    def pack(self, params: Any, unpacked: Mapping[str, Any], state: State | None = None) -> State:
        """A state with these entries of `unpack`; the way back, and from the states of another library.

        Parameters
        ----------
        params
            The parameters.
        unpacked
            Any of the entries that `unpack` returns.
        state
            What has the rest; `init` of the parameters if it is left out.

        Raises
        ------
        TypeError, ValueError
            `unpacked` is no mapping, or has an entry that there is not or that does not fit; a state of other
            parameters.
        """
        if not isinstance(unpacked, Mapping):
            raise TypeError(f"unpacked: got {type(unpacked).__name__}, needs a dict such as unpack() returns")
        tree, layout = self._look(params)
        state = self.init(params) if state is None else state
        entries = {**self.unpack(params, state)}
        unknown = sorted(unpacked.keys() - entries.keys(), key=str)
        if unknown:
            raise ValueError(f"unpacked: got {unknown[0]!r}, needs any of {', '.join(sorted(entries))}")
        flat = {
            name: tree.matched(f'unpacked["{name}"]', values) for name, values in (entries | dict(unpacked)).items()
        }
        return state._replace(arrays=layout.pack(flat))

    def scalars(self, state: State) -> dict[str, Any]:
        """The rule's values that belong to no element, ``{"mu_product": 0.81}``, of a state that is not traced.

        A list of them, in the order of the parameters that are stepped, where each has its own:
        ``{"exp_avg_sq": [0.5, 2.0]}``.

        Raises
        ------
        TypeError, ValueError
            `state` is traced, or of another rule.
        """
        _check_kind(state)
        rule, bits = RULES[self.rule], state.scalars
        if not rule.scalars:
            return {}
        if isinstance(bits, jax.core.Tracer):
            raise TypeError("state: got a traced one, needs one outside of jax.jit")
        width, got = 2 * len(rule.scalars), getattr(bits, "dtype", type(bits).__name__)
        if got != np.uint32 or np.ndim(bits) != 2 or np.shape(bits)[1] != 2 or np.size(bits) % width:
            raise ValueError(
                f"state.scalars: got {got} of shape {np.shape(bits)}, needs uint32 of shape (n, 2), as init() makes it"
            )
        with naming(state=state):
            bits = np.ascontiguousarray(bits)
        values = bits.view(np.float64).reshape(-1, len(rule.scalars))
        columns = values.T.tolist()
        return dict(zip(rule.scalars, columns if rule.scalars_differ else [c[0] for c in columns], strict=True))

    def average(self, params: Any, state: State) -> Any:
        """Where a schedule-free model is evaluated and saved; `params` are where its gradients are taken.

        Raises
        ------
        TypeError
            A rule that is not schedule-free.
        """
        if not self.rule.startswith("schedule_free"):
            raise TypeError(f"average: got {self.rule}, needs schedule_free_sgd or schedule_free_adamw")
        self._check_state(params, state)
        sgd = self.rule == "schedule_free_sgd"
        with naming(params=params, state=state, values=self._values.given):
            beta = self._values.at("momentum", state.step) if sgd else self._values.at("betas", state.step)[0]
            tree, layout = self._look(params)
            kept = {name: layout.unpack(name, state.arrays) for name in layout.names if name in ("z", "master")}
            masters = kept.get("master", [None] * len(tree.leaves))
            each = zip(tree.trained(params), kept.get("z", []), masters, strict=True)
            return tree.whole([average(*one, beta) for one in each], params)

    # ---- what is traced ----

    def _look(self, params: Any) -> tuple[Tree, Layout]:
        tree = Tree(params, **self._masks)
        states: list[tuple[RuleState, float | None]] = []
        for state in self._states:
            first = self._numpy._initial_state(state.name, self._numpy._slots[0], self._options)
            states.append((state, None if callable(first) else first))
        options = {name: self._options[name] for name in ("master", "state_format", "min_quantized_size")}
        return tree, Layout(tree.leaves, states, ema=self._options["ema_decay"] is not None, **options)

    def _init(self, params: Any) -> State:
        tree, layout = self._look(params)
        for first in RULES[self.rule].initial_scalars.values():
            if isinstance(first, str) and isinstance(self._values.given[first], jax.core.Tracer):
                raise TypeError(
                    f"{first}: got a traced array, needs a number or a schedule, as a state of {self.rule} begins "
                    "with it"
                )
        each = len(tree.leaves) if RULES[self.rule].scalars_differ else 1
        numbers = np.array(self._numpy._initial_scalars(self._options) * each, np.float64)
        zero = jnp.zeros((), jnp.int32)
        return State(
            step=zero,
            arrays=layout.first(tree.trained(params)),
            scalars=jnp.asarray(numbers.view(np.uint32).reshape(-1, 2)) if RULES[self.rule].scalars else None,
            skipped=zero if self._skips else None,
            grad_norm=jnp.zeros((), jnp.float32) if self._measures else None,
            nonfinite_blocks=zero if layout.quantized else None,
        )

    def _step(self, params: Any, grads: Any, state: State, **given: Any) -> tuple[Any, State]:
        tree, layout = self._look(params)
        self._check_state(params, state)
        for name in given:
            missing = [s.name for s in RULES[self.rule].states if s.when == name and s not in self._states]
            if missing:
                raise TypeError(
                    f"{name}: got a value for this step, needs an optimizer made with one, for {missing[0]}"
                )
        groups = ({}, {"weight_decay": 0.0}) if self._masks["mask"] is not None else ({},)
        numbers = self._values.resolve(state.step, given, groups)
        flags = MAXIMIZE * self._options["maximize"] | STOCHASTIC * (self._options["rounding"] == "stochastic")
        flags |= CAUTIOUS * self._options["cautious"]
        flags |= SKIP_NONFINITE * self._skips | MEASURE_NORM * self._measures | COUNT_NONFINITE * layout.quantized
        plan = Plan(
            rule=self.rule,
            values=tuple(numbers.values),
            traced=tuple(numbers.traced),
            ranges=tuple(numbers.ranges),
            needs=tuple(numbers.needs),
            tensors=layout.rows([s.name for s in RULES[self.rule].states]),
            paths=tuple(leaf.path for leaf in tree.leaves),
            arrays=tuple(layout.keys),
            flags=flags,
            seed=self._seed,
        )
        small = {name: value for name, value in state._asdict().items() if name != "arrays" and value is not None}
        packed = [state.arrays[key] for key in layout.keys]
        written = [*small.values(), *packed, *tree.trained(params)]
        results = take_step(numbers.arguments, written, tree.gradients(grads), plan)
        stepped = dict(zip(small, results, strict=False))
        arrays = dict(zip(layout.keys, results[len(small) :], strict=False))
        return tree.whole(results[len(small) + len(packed) :], params), State(arrays=arrays, **stepped)

    def _change(self, params: Any, grads: Any, state: State, **given: Any) -> tuple[Any, State]:
        stepped, state = self._step(params, grads, state, **given)
        return jax.tree.map(lambda new, old: new - old, stepped, params), state

    def _check_state(self, params: Any, state: Any) -> None:
        """Check that a state is one of these parameters and options."""
        _check_kind(state)
        needed, structure = jax.tree_util.tree_flatten_with_path(jax.eval_shape(self._init, params))
        given: Any
        found, given = jax.tree_util.tree_flatten_with_path(state)
        if given != structure:
            names = sorted(path_text(keys) for keys, _ in needed)
            raise ValueError(
                f"state: got {', '.join(sorted(path_text(keys) for keys, _ in found))}, needs {', '.join(names)}, as "
                "init() makes it for these parameters and options"
            )
        for (keys, array), (_, like) in zip(found, needed, strict=True):
            wide = like.dtype == np.int32 and getattr(array, "dtype", None) == np.int64
            if np.shape(array) != like.shape or not (wide or getattr(array, "dtype", None) == like.dtype):
                got = getattr(array, "dtype", type(array).__name__)
                raise ValueError(
                    f"state{path_text(keys)}: got {got} of shape {np.shape(array)}, needs {like.dtype} of shape "
                    f"{like.shape}, as init() makes it for these parameters"
                )


def _check_kind(state: Any) -> None:
    if not isinstance(state, State):
        raise TypeError(f"state: got {type(state).__name__}, needs the State that init() or the last step returned")
