"""Random training runs: the reference takes every step once, optimizers and functions repeat it, all bytes agree."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import CLASSES, FLOAT16, TEAMS, Array, Options, assert_same, copied, first_number, running

import fusedstep as fs
from fusedstep.reference import RULES

from .values import DTYPES, FINITE, array, flat_shape, gradient_dtypes, nested, rule_options, storage

__all__ = ["run_program"]

ISAS = fs.available_isas()


@dataclass
class Program:
    """A training run: what the optimizer is made of, and what each step gets."""

    rule: str
    groups: list[tuple[list[Array], Options]]  # parameters and the group's own options
    options: Options
    nestings: list[Any]  # the structure of every group, with the numbers of the parameters
    steps: list[tuple[list[Any], float]]  # gradients (None: absent) and their scale
    changes: dict[int, Options]  # of group 0, before this step

    def params(self) -> list[Array]:
        return [param for group, _ in self.groups for param in group]

    def structure(self, leaves: list[Any]) -> Any:
        """Parameters or gradients as the optimizer gets them."""
        parts = [_filled(nesting, leaves) for nesting in self.nestings]
        return parts if len(parts) > 1 else parts[0]

    def make(self, params: list[Array], grads: list[Any] | None = None) -> Any:
        structure = self.structure(params)
        if len(self.groups) > 1:
            structure = [{"params": s, **o} for s, (_, o) in zip(structure, self.groups, strict=True)]
        bound = {} if grads is None else {"grads": self.structure(grads)}
        return CLASSES[self.rule](structure, **self.options, **bound)


def _filled(nesting: Any, leaves: list[Any]) -> Any:
    if isinstance(nesting, int):
        return leaves[nesting]
    if isinstance(nesting, dict):
        return {key: _filled(part, leaves) for key, part in nesting.items()}
    return type(nesting)([_filled(part, leaves) for part in nesting])


def draw(seed: int, row_gradients: bool = True) -> Program:
    rng = random.Random(seed)
    rule = rng.choice(sorted(CLASSES))
    options = rule_options(rng, rule)
    options["maximize"] = rng.random() < 0.2
    options["seed"] = rng.choice([0, 1, 2**64 - 1, rng.getrandbits(64)])
    for name, chance, values in (
        ("clip_value", 0.2, (0.01, 1.0, 1e-40, 1e30)),
        ("ema_decay", 0.3, (0.0, 0.5, 0.999)),
        ("max_grad_norm", 0.2, (1e-3, 1.0, 1e9)),
        ("skip_nonfinite", 0.2, (True,)),
        ("zero_grads", 0.2, (True,)),
    ):
        if rng.random() < chance:
            options[name] = rng.choice(values)
    rows = row_gradients and RULES[rule].rows_without is not None and rng.random() < 0.5
    if rows:  # which leave all other rows alone
        options |= dict.fromkeys(RULES[rule].rows_without or (), 0.0)
        options.pop("nesterov", None)
        options.pop("ema_decay", None)
    large = rng.random() < 0.03
    groups: list[tuple[list[Array], Options]] = []
    grad_dtypes: list[np.dtype[Any]] = []
    # the reference clips the norm of one call, so of one group
    for _ in range(1 if options.get("max_grad_norm") or rng.random() < 0.6 else rng.randint(2, 3)):
        dtype = rng.choice(DTYPES)
        own = storage(rng, rule, dtype)
        if rows:
            own |= {"rounding": "nearest", "state_format": "float32"}
        if rng.random() < 0.3 and groups:
            own["clip_value"] = rng.choice([0.01, 2.0])
            own["maximize"] = rng.random() < 0.5
        kind = rng.choice(FINITE) if rng.random() < 0.9 else "mixed"
        params = [array(rng, flat_shape(rng, large and not i), dtype, kind) for i in range(rng.choice([1, 1, 1, 2, 4]))]
        groups.append((params, own))
        grad_dtypes += [rng.choice(gradient_dtypes(dtype))] * len(params)
    if len(groups) == 1:
        options |= groups[0][1]
    stochastic = any(o.get("rounding") == "stochastic" for _, o in groups)
    whole = stochastic and "max_grad_norm" in options  # the noise is of consecutive tensors of the one call
    numbers = iter(range(len(grad_dtypes)))
    nestings = [nested(rng, [next(numbers) for _ in params]) for params, _ in groups]
    bare = nestings == [0]  # one None for all is no gradients
    missing = 0.0 if whole or bare or rng.random() < 0.5 else 0.2
    shapes = [param.shape for params, _ in groups for param in params]
    steps: list[tuple[list[Any], float]] = []
    kind = rng.choice(FINITE)
    for _ in range(rng.choice([1, 4, 12, 30])):
        this = kind if rng.random() < 0.8 else rng.choice([*FINITE, "mixed"])
        grads: list[Any] = [
            None
            if rng.random() < missing
            else (_rows if rows and shape and shape[0] and rng.random() < 0.5 else array)(rng, shape, dtype, this)
            for shape, dtype in zip(shapes, grad_dtypes, strict=True)
        ]
        steps.append((grads, rng.choice([1.0, 1.0, 0.5, 3.0, 65536.0, 1e-20])))
    changes: dict[int, Options] = {}
    if "lr" in RULES[rule].hypers and rng.random() < 0.3:
        changes[rng.randrange(len(steps))] = {"lr": rng.choice([0.0, 0.01, np.float32(0.3), _rate])}
    return Program(rule, groups, options, nestings, steps, changes)


def _rows(rng: random.Random, shape: tuple[int, ...], dtype: np.dtype[Any], kind: str) -> Any:
    """A gradient of some rows, some of them more than once."""
    count = rng.choice([0, 1, 3, 20])
    indices = np.array([rng.randrange(shape[0]) for _ in range(count)], rng.choice([np.int32, np.int64]))
    return fs.SparseRows(indices, array(rng, (count, *shape[1:]), dtype, kind))


def _memory(grad: Any) -> Array:
    memory: Array = grad.values if isinstance(grad, fs.SparseRows) else grad
    return memory


def _copies(grads: list[Any]) -> list[Any]:
    return [
        fs.SparseRows(grad.indices.copy(), grad.values.copy()) if isinstance(grad, fs.SparseRows) else copied(grad)
        for grad in grads
    ]


def _is_finite(grad: Any, param: Array, scale: float) -> bool:
    """Whether a gradient is finite, as it came and as the rule gets it."""
    compute = np.dtype(np.float64 if param.dtype == np.float64 else np.float32)
    values = grad.summed(compute)[1] if isinstance(grad, fs.SparseRows) else grad
    unscaled = compute.type(1.0 / scale) * values.astype(compute)
    return bool(np.isfinite(values).all() and np.isfinite(unscaled).all())


def _rate(done: int) -> float:
    return 0.1 / (done + 1)


class Functions:
    """The run by plain functions, of the reference or native: arrays of its own, one call for each run of tensors."""

    def __init__(self, program: Program, made: Any, where: Any) -> None:
        self.program = program
        self.rule = RULES[program.rule]
        self.function = getattr(where, program.rule)
        self.groups = [dict(group) for group in made.param_groups]
        self.settings = {n: getattr(made, n) for n in ("max_grad_norm", "skip_nonfinite", "zero_grads", "seed")}
        self.numbers = [i for i, (params, _) in enumerate(program.groups) for _ in params]
        self.steps = [0] * len(self.numbers)
        self.taken = 0
        self.columns: dict[str, list[Any]] = {"param": program.params()}
        for state in self.rule.states:
            self.columns[state.name] = [slot.states.get(state.name) for slot in made._slots]
        for name, first in self.rule.initial_scalars.items():
            self.columns[name] = [np.array(first_number(first, self.groups[n])) for n in self.numbers]
        self.columns["master"] = [slot.master for slot in made._slots]
        self.columns["ema"] = [slot.ema for slot in made._slots]
        self.columns = copied(self.columns)

    def change(self, options: Options) -> None:
        self.groups[0].update(options)

    def step(self, grads: list[Any], scale: float) -> bool:
        runs: list[list[int]] = []
        for i, grad in enumerate(grads):
            if grad is not None and (not runs or runs[-1][-1] != i - 1 or self.numbers[i] != self.numbers[i - 1]):
                runs.append([i])
            elif grad is not None:
                runs[-1].append(i)
        if self.settings["max_grad_norm"] is not None and runs:
            runs = [[i for run in runs for i in run]]
        if self.settings["skip_nonfinite"] and len(runs) > 1:  # one call decides for itself
            given = [
                (grad, param) for grad, param in zip(grads, self.columns["param"], strict=True) if grad is not None
            ]
            if not all(_is_finite(grad, param, scale) for grad, param in given):
                return False
        risky = any(param.dtype == FLOAT16 for param in self.columns["param"])
        before = (copied(self.columns), _copies(grads)) if risky and len(runs) > 1 else None
        try:
            taken = [self._call(run, grads, scale) for run in runs]
        except OverflowError:
            if before is not None:  # what one call would have left as it was
                self.columns, grads[:] = before
            raise
        if not all(taken):
            assert len(taken) == 1, "one of several calls was skipped"
            return False
        for run in runs:
            for i in run:
                self.steps[i] += 1
        self.taken += 1
        return True

    def _call(self, run: list[int], grads: list[Any], scale: float) -> bool:
        group = self.groups[self.numbers[run[0]]]
        options = {name: group[name] for name in (*self.rule.hypers, "maximize", "clip_value", "ema_decay", "rounding")}
        options = {n: v(self.taken) if callable(v) else v for n, v in options.items()}
        given = {name: [column[i] for i in run] for name, column in self.columns.items()}
        given = {name: values for name, values in given.items() if values[0] is not None}
        given |= {"grad": [grads[i] for i in run], "step": [self.steps[i] + 1 for i in run]}
        taken: bool = self.function(first=run[0], grad_scale=scale, **given, **options, **self.settings)
        return taken

    def arrays(self) -> list[Array]:
        return [
            array
            for column in self.columns.values()
            for values in column
            for array in (values if isinstance(values, tuple) else (values,))
            if array is not None
        ]

    def counts(self) -> list[int]:
        return self.steps


class Class:
    """The run by the optimizer, which may be copied, pickled, saved and loaded in between."""

    def __init__(self, program: Program, bound: bool, moves: random.Random | None) -> None:
        self.program, self.moves = program, moves
        params = copied(program.params())
        grads = [np.zeros_like(grad) for grad in program.steps[0][0]] if bound else None
        self.bound = grads
        self.optimizer = program.make(params, grads)

    def change(self, options: Options) -> None:
        for name, value in options.items():
            self.optimizer.param_groups[0][name] = value

    def step(self, grads: list[Any], scale: float) -> bool:
        if self.moves is not None and self.moves.random() < 0.3:
            self._move(self.moves)
        if self.bound is None:
            return bool(self.optimizer.step(self.program.structure(grads), grad_scale=scale))
        for mine, grad in zip(self.bound, grads, strict=True):
            mine[...] = grad
        try:
            return bool(self.optimizer.step(grad_scale=scale))
        finally:
            for mine, grad in zip(self.bound, grads, strict=True):
                grad[...] = mine

    def _move(self, rng: random.Random) -> None:
        """Go on with a copy, which nothing may tell from the original."""
        how = rng.randrange(5)
        old = self.optimizer
        if how == 0 and self.bound is None:
            self.optimizer = copy.deepcopy(old)
        elif how == 1 and self.bound is None:
            self.optimizer = pickle.loads(pickle.dumps(old))
        elif how == 2:
            old.load_state_dict(old.state_dict())
        elif how == 3:
            old.load_state_dict(pickle.loads(pickle.dumps(old.state_dict())))
        else:
            self.optimizer = self.program.make([slot.param.copy() for slot in old._slots], self.bound)
            for group, options in zip(self.optimizer.param_groups, old.param_groups, strict=True):
                group.update({k: v for k, v in options.items() if callable(v)})
            self.optimizer.load_state_dict(old.state_dict())

    def arrays(self) -> list[Array]:
        slots = self.optimizer._slots
        rule = RULES[self.program.rule]
        found: list[Any] = [slot.param for slot in slots]
        for state in rule.states:
            for slot in slots:
                value = slot.states.get(state.name)
                found += value if isinstance(value, tuple) else [value]
        views = self.optimizer.state if rule.scalars else ()
        found += [np.array(view[name]) for name in rule.scalars for view in views]
        found += [slot.master for slot in slots] + [slot.ema for slot in slots]
        return [array for array in found if array is not None]

    def counts(self) -> list[int]:
        return [self.optimizer._model.get_step(i) for i in range(len(self.optimizer._slots))]


def trace(program: Program, run: Any, expected: list[Any] | None) -> list[Any]:
    """Take every step; give what each left, or compare it with what it should have left."""
    found: list[Any] = []
    for t, (grads, scale) in enumerate(program.steps):
        if t in program.changes:
            run.change(program.changes[t])
        mine = _copies(grads)
        try:
            taken: Any = run.step(mine, scale)
        except OverflowError:
            taken = OverflowError
        arrays = [*run.arrays(), *(_memory(grad) for grad in mine if grad is not None)]
        if expected is None:
            found.append((taken, list(run.counts()), [array.tobytes() for array in arrays], copied(arrays)))
            continue
        wanted, counts, memory, values = expected[t]
        assert taken is wanted, f"step {t}: {taken} in place of {wanted}"
        assert run.counts() == counts, f"step {t}: counts {run.counts()} in place of {counts}"
        assert len(arrays) == len(memory), f"step {t}: {len(arrays)} arrays in place of {len(memory)}"
        for i, (actual, held) in enumerate(zip(arrays, memory, strict=True)):
            if actual.tobytes() != held:
                assert_same(actual, values[i], f"step {t}, array {i} of {len(arrays)}")  # any two NaN are equal
    return found


def run_program(seed: int) -> int:
    """Run one program; return how many native steps were compared."""
    program = draw(seed)
    rng = random.Random(~seed)
    made = program.make(copied(program.params()))
    with np.errstate(all="ignore"):
        expected = trace(program, Functions(program, made, fs.reference), None)
    full = all(isinstance(grad, np.ndarray) for grads, _ in program.steps for grad in grads)
    runs: list[tuple[str, Any]] = [("functional", lambda: Functions(program, made, fs.functional))]
    runs.append(("class", lambda: Class(program, False, None)))
    runs.append(("moved", lambda: Class(program, False, random.Random(seed))))
    if full:
        runs.append(("bound", lambda: Class(program, True, random.Random(seed) if rng.random() < 0.5 else None)))
    places: list[Any] = [(isa, 1, None) for isa in ISAS] + [(ISAS[-1], rng.choice([2, 3, 7]), rng.choice(TEAMS))]
    for place in places:
        with running(*place):
            for name, start in runs:
                try:
                    trace(program, start(), expected)
                except Exception as error:
                    raise AssertionError(f"{program.rule} {name} on {place}: {program.options}") from error
    return len(program.steps) * len(places) * len(runs)
