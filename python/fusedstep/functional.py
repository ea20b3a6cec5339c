"""The native steps as plain functions on arrays: no object, no groups, states held by the caller.

Every function of `fusedstep.reference` is here under the same name, with the same signature and the same bytes as its
result.

>>> import numpy as np
>>> import fusedstep as fs
>>> p, g = np.array([1.0, 2.0]), np.array([0.5, -1.0])
>>> m, v = np.zeros(2), np.zeros(2)
>>> fs.functional.adam(p, g, m, v, step=1, lr=0.1)
True
>>> p
array([0.9, 2.1])
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from . import reference
from ._core import Model
from ._directions import Matrices, NumPyDirections
from ._hyper import check_hypers, check_step, unexpected
from ._rows import check_row_gradient
from ._step_options import GROUP_VALUES
from .reference import RULES, Rule
from .reference._checks import as_list, check_array
from .reference._step import FUNCTION_OPTIONS, check_options
from .reference._tensors import other_states
from .sparse import SparseRows

__all__ = sorted(RULES)

# Options that hold arrays; all others are checked once and remembered.
ARRAYS = ("master", "ema")


def _checked(rule: str, given: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], dict[str, Any], list[bool]]:
    """The group a native model reads, the step options, and which states the step needs."""
    facts = RULES[rule]
    named = dict(given)
    unknown = sorted(named.keys() - facts.hypers.keys() - FUNCTION_OPTIONS.keys())
    if unknown:
        raise unexpected(rule, unknown[0], {*facts.hypers, *FUNCTION_OPTIONS})
    options = check_options({name: named.get(name, value) for name, value in FUNCTION_OPTIONS.items()})
    given_hypers = {name: named.get(name, value) for name, value in facts.hypers.items()}
    hypers = check_hypers(rule, {**given_hypers, "cautious": options["cautious"]})
    group = hypers | {name: options[name] for name in (*GROUP_VALUES, "rounding")}
    used = facts.used(hypers)
    return group, options, [state in used for state in facts.states]


@functools.lru_cache(maxsize=256)
def _remembered(rule: str, given: tuple[tuple[str, Any], ...], kinds: tuple[Any, ...]) -> Any:
    return _checked(rule, given)


def _kind(value: Any) -> Any:
    """What tells apart values that are equal: 1, 1.0 and True."""
    return tuple(map(type, value)) if type(value) is tuple else type(value)


def _native(rule: Rule, definition: Callable[..., bool]) -> Callable[..., bool]:
    states = [state.name for state in rule.states]
    order = ["param", "grad", *states, *rule.scalars]
    taken = {*order, "step", *ARRAYS}

    @functools.wraps(definition)
    def take_step(*args: Any, **kwargs: Any) -> bool:
        if len(args) > len(order):
            raise TypeError(f"{rule.name}() takes {len(order)} positional arguments, got {len(args)}")
        given = dict(zip(order, args, strict=False))
        twice = given.keys() & kwargs.keys()
        if twice:
            raise TypeError(f"{rule.name}() got multiple values for argument {min(twice)!r}")
        given.update(kwargs)
        for name in ("param", "grad", "step"):
            if name not in given:
                raise TypeError(f"{rule.name}() missing required argument {name!r}")
        ema = given.get("ema")
        named = tuple((name, value) for name, value in given.items() if name not in taken)
        try:
            group, options, used = _remembered(rule.name, named, tuple(_kind(value) for _, value in named))
        except TypeError:  # an option that cannot be hashed, such as a list of betas; or really a wrong one
            group, options, used = _checked(rule.name, named)
        if (ema is None) != (options["ema_decay"] is None):
            raise ValueError("ema: got one of ema and ema_decay, needs both or neither")

        param = given["param"]
        many = isinstance(param, (list, tuple))
        params = list(param) if many else [param]
        count = len(params)

        def column(name: str, needed: bool) -> list[Any]:
            value = given.get(name)
            if value is None and not needed:
                return [None] * count
            if value is None:
                raise TypeError(f"{name}: got None, needs an array with these options of {rule.name}()")
            if not many:
                return [value]
            arrays = as_list(value, name, count)
            missing = next((i for i, one in enumerate(arrays) if one is None), None) if needed else None
            if missing is not None:
                raise TypeError(f"{name}[{missing}]: got NoneType, needs a NumPy array")
            return arrays

        columns = [
            column(state.name, state.form == "full") if use else [None] * count
            for state, use in zip(rule.states, used, strict=True)
        ]
        columns = [[tuple(v) if isinstance(v, list) else v for v in values] for values in columns]  # 8-bit pairs
        numbers = [column(name, True) for name in rule.scalars]
        masters, averages = column("master", False), column("ema", False)
        step = given["step"]
        if many and isinstance(step, (list, tuple)) and len(step) != count:
            raise ValueError(f"step: got {len(step)} numbers, needs {count}, as many as param")
        steps = step if many and isinstance(step, (list, tuple)) else [step] * count

        directions = _directions(rule, params, group, many)
        model = Model(rule.name, plain=True, first_index=options["first"])
        if directions is not None:
            model.set_product(directions)
        model.add_group(group)
        for i, (array, master) in enumerate(zip(params, masters, strict=True)):
            at = f"[{i}]" if many else ""
            if master is not None:
                _check_master(array, master, at)
            if rule.factored:
                _check_factors(rule, array, [values[i] for values in columns], group, at)
            model.add(
                0,
                array,
                [values[i] for values in columns],
                path=at,
                master=master,
                stochastic=options["rounding"] == "stochastic",
                ema=averages[i],
                direction=None if directions is None else directions.of(i, array.shape),
                step=check_step(steps[i], "step" + at) - 1,
                scalars=[_number(values[i], name + at) for name, values in zip(rule.scalars, numbers, strict=True)],
            )

            for name, values in zip(rule.scalars, numbers, strict=True):
                model.hold(values[i], name + at)

        def rows(i: int, grad: Any) -> Any:
            at = f"[{i}]" if many else ""
            kept = [("param" + at, params[i])]
            for name, values in zip(states, columns, strict=True):
                parts = values[i] if isinstance(values[i], (tuple, list)) else (values[i],)
                kept += [(name + at + "_scales" * n, part) for n, part in enumerate(parts) if part is not None]
            return check_row_gradient(
                rule, group, grad, "grad" + at, params[i], masters[i], kept, options["zero_grads"]
            )

        model.set_row_check(rows, SparseRows, rule.rows_without)
        model.finish()
        model.configure(
            options["max_grad_norm"] or 0.0, options["skip_nonfinite"], options["zero_grads"], options["seed"]
        )
        gradients = column("grad", True)
        done = model.step_list(gradients, options["grad_scale"])
        if done and numbers:
            for i in range(count):
                for values, value in zip(numbers, model.get_scalars(i), strict=True):
                    values[i][...] = value
        model.warn_of_nonfinite()
        return done

    return take_step


def _directions(rule: Rule, params: Any, group: dict[str, Any], many: bool) -> NumPyDirections | None:
    """The directions of a rule of matrices; None for other rules."""
    if not rule.matrices:
        return None
    matrices = []
    for i, param in enumerate(params):
        where = "param" + f"[{i}]" * many
        if not isinstance(param, np.ndarray):
            raise TypeError(f"{where}: got {type(param).__name__}, needs a NumPy array")
        matrices.append(Matrices.of(i, 0, param, group["reshape"], where))
    return NumPyDirections(matrices, lambda _: {name: group[name] for name in (*rule.outside, "eps")})


def _check_factors(rule: Rule, param: Any, values: list[Any], group: dict[str, Any], at: str) -> None:
    """Check the shapes of states whose shapes are not the parameter's."""
    shape = np.shape(check_array(param, "param" + at, (param.dtype,))) if isinstance(param, np.ndarray) else ()
    for state, value in zip(rule.states, values, strict=True):
        needed = state.shape(shape, group)
        if (value is None) != (needed is None):
            raise TypeError(other_states(rule, state.name + at, value, shape, group))
        if isinstance(value, np.ndarray) and value.shape != needed:
            raise ValueError(f"{state.name}{at}: got shape {value.shape}, needs {needed}")


def _check_master(param: Any, master: Any, at: str) -> None:
    dtype = getattr(getattr(param, "dtype", None), "name", None)
    if dtype not in ("float16", "bfloat16"):
        raise TypeError(f"master{at}: got a master for a {dtype} param{at}, needs a float16 or bfloat16 one")
    name = getattr(getattr(master, "dtype", None), "name", type(master).__name__)
    if name != "float32" and not (name == "int16" and dtype == "bfloat16"):
        raise TypeError(f"master{at}: got {name}, needs float32" + ", or int16 remainders" * (dtype == "bfloat16"))


def _number(value: Any, name: str) -> float:
    return float(check_array(value, name, (np.dtype(np.float64),), ()))


for _name in __all__:
    globals()[_name] = _native(RULES[_name], getattr(reference, _name))
