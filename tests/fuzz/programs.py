"""Random training runs: the reference takes every step once, optimizers and functions repeat it, all bytes agree."""

from __future__ import annotations

import copy
import os
import pickle
import random
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from cases import CLASSES, FLOAT16, TEAMS, Array, Options, assert_same, copied, first_number, running

import fusedstep as fs
from fusedstep._step_options import GROUP_OPTIONS, GROUP_VALUES
from fusedstep.reference import RULES

from .faces import OWN, filled, form, memory, nested
from .values import DTYPES, FINITE, array, flat_shape, gradient_dtypes, rule_options, storage

__all__ = ["run_program"]

ISAS = fs.available_isas()
KINDS = CLASSES | {"muon": fs.Muon, "adafactor": fs.Adafactor, "adam_mini": fs.AdamMini}


@dataclass
class Program:
    """A training run: what the optimizer is made of, and what each step gets."""

    rule: str
    groups: list[tuple[list[Array], Options]]  # parameters and the group's own options
    options: Options
    nestings: list[Any]  # the structure of every group, with the numbers of the parameters
    steps: list[tuple[list[Any], float]]  # gradients (None: absent) and their scale
    changes: dict[int, Options]  # of group 0, before this step
    way: str  # how the optimizer hears of groups: "groups", "conditions" or "trees"
    accumulate_steps: int

    def params(self) -> list[Array]:
        return [param for group, _ in self.groups for param in group]

    def structure(self, leaves: list[Any]) -> Any:
        """Parameters or gradients as the optimizer gets them."""
        parts = [filled(nesting, leaves.__getitem__) for nesting in self.nestings]
        return parts if len(parts) > 1 else parts[0]

    def make(self, params: list[Array], grads: list[Any] | None = None, kind: Any = None, **more: Any) -> Any:
        structure: Any = self.structure(params)
        options = self.options | more
        if len(self.groups) > 1:
            own = [given for _, given in self.groups]
            if self.way == "groups":
                structure = [{"params": part, **given} for part, given in zip(structure, own, strict=True)]
            elif self.way == "conditions":
                for i, given in enumerate(own):
                    if given:
                        structure = fs.groups(structure, where=_below(f"[{i}]"), **given)
            else:
                for name in {name for given in own for name in given}:
                    default = options.get(name, GROUP_OPTIONS.get(name))
                    options[name] = [given.get(name, default) for given in own]
        if self.accumulate_steps > 1:
            options["accumulate_steps"] = self.accumulate_steps
        if grads is not None:
            options["grads"] = self.structure(grads)
        return (kind or KINDS[self.rule])(structure, **options)


def _below(prefix: str) -> Any:
    return lambda path, _: path.startswith(prefix)


def draw(seed: int, row_gradients: bool = True) -> Program:
    rng = random.Random(seed)
    rule = rng.choice(sorted(KINDS))
    options = rule_options(rng, rule)
    accumulate_steps = rng.choice([1, 1, 1, 2, 3])
    matrices = RULES[rule].matrices  # and the rest: two groups or more
    model = RULES[rule].whole  # its sums go over one call of the reference, so over one group
    options["maximize"] = rng.random() < 0.2
    if RULES[rule].decay is not None and options.get("momentum", RULES[rule].hypers.get("momentum", 1)) != 0:
        options["cautious"] = rng.random() < 0.3
    options["seed"] = rng.choice([0, 1, 2**64 - 1, rng.getrandbits(64)])
    for name, chance, values in (
        ("clip_value", 0.2, (0.01, 1.0, 1e-40, 1e30)),
        ("ema_decay", 0.3, (0.0, 0.5, 0.999)),
        ("max_grad_norm", 0.2, (1e-3, 1.0, 1e9)),
        ("skip_nonfinite", 0.2, (True,)),
        ("zero_grads", 0.2, (True,)),
    ):
        if rng.random() < chance and not (name == "max_grad_norm" and matrices):
            options[name] = rng.choice(values)
    rows = row_gradients and accumulate_steps == 1 and RULES[rule].rows_without is not None and rng.random() < 0.5
    if rows:  # which leave all other rows alone
        options |= dict.fromkeys(RULES[rule].rows_without or (), 0.0)
        options.pop("nesterov", None)
        options.pop("cautious", None)
        options.pop("ema_decay", None)
    large = rng.random() < 0.03
    groups: list[tuple[list[Array], Options]] = []
    grad_dtypes: list[np.dtype[Any]] = []
    # the reference clips the norm of one call, so of one group
    for _ in range(1 if options.get("max_grad_norm") or model or rng.random() < 0.6 else rng.randint(2, 3)):
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
    whole = stochastic and ("max_grad_norm" in options or model)  # the noise is of consecutive tensors of the one call
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
    way = rng.choice(["groups", "conditions", "trees"])
    if way == "conditions" and not all(own for _, own in groups[1:]):
        way = "groups"
    return Program(rule, groups, options, nestings, steps, changes, way, accumulate_steps)


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


def _rules(optimizer: Any) -> list[str]:
    """The rule of every group."""
    return [optimizer._rule_of(group) for group in optimizer.param_groups]


def _names(rules: list[str]) -> tuple[list[str], list[str]]:
    """States and scalars of these rules."""
    states = [state.name for rule in rules for state in RULES[rule].states]
    scalars = [name for rule in rules for name in RULES[rule].initial_scalars]
    return list(dict.fromkeys(states)), list(dict.fromkeys(scalars))


class Functions:
    """The run by plain functions, of the reference or native: arrays of its own, one call for each run of tensors."""

    def __init__(self, program: Program, made: Any, where: Any) -> None:
        self.program = program
        self.rules = _rules(made)
        self.functions = [getattr(where, rule) for rule in self.rules]
        self.groups = [dict(group) for group in made.param_groups]
        self.settings = {n: getattr(made, n) for n in ("max_grad_norm", "skip_nonfinite", "zero_grads", "seed")}
        self.numbers = [slot.group for slot in made._slots]
        self.steps = [0] * len(self.numbers)
        self.taken = 0
        self.columns: dict[str, list[Any]] = {"param": program.params()}
        states, scalars = _names(self.rules)
        for name in states:
            self.columns[name] = [slot.states.get(name) for slot in made._slots]
        for name in scalars:
            first = [RULES[self.rules[n]].initial_scalars.get(name) for n in self.numbers]
            self.columns[name] = [
                None if one is None else np.array(first_number(one, self.groups[n]))
                for one, n in zip(first, self.numbers, strict=True)
            ]
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
        if (self.settings["max_grad_norm"] is not None or any(RULES[rule].whole for rule in self.rules)) and runs:
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
        for name in RULES[self.rules[0]].scalars if runs and RULES[self.rules[0]].whole else ():
            for value in self.columns[name]:  # one for all, also for who had no part
                value[...] = self.columns[name][runs[0][0]]
        self.taken += 1
        return True

    def _call(self, run: list[int], grads: list[Any], scale: float) -> bool:
        number = self.numbers[run[0]]
        group, rule = self.groups[number], RULES[self.rules[number]]
        options = {name: group[name] for name in (*rule.hypers, *GROUP_VALUES, "rounding")}
        options = {n: v(self.taken) if callable(v) else v for n, v in options.items()}
        given = {name: [column[i] for i in run] for name, column in self.columns.items()}
        given = {name: values for name, values in given.items() if any(v is not None for v in values)}
        given |= {"grad": [grads[i] for i in run], "step": [self.steps[i] + 1 for i in run]}
        taken: bool = self.functions[number](first=run[0], grad_scale=scale, **given, **options, **self.settings)
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


class Sums:
    """A run whose gradients are summed up first, as the reference defines it."""

    def __init__(self, run: Functions) -> None:
        self.run, self.number = run, 0
        params = run.columns["param"]
        kinds = [np.float64 if param.dtype == np.float64 else np.float32 for param in params]
        self.sums = [np.zeros(param.shape, kind) for param, kind in zip(params, kinds, strict=True)]
        self.received: set[int] = set()

    def change(self, options: Options) -> None:
        self.run.change(options)

    def step(self, grads: list[Any], scale: float) -> bool:
        before = copied(self.sums), set(self.received), _copies(grads)
        for i, grad in enumerate(grads):
            if grad is not None:
                fs.reference.accumulate(self.sums[i], grad, grad_scale=scale)
                self.received.add(i)
                if self.run.settings["zero_grads"]:
                    grad[...] = 0
        if self.number + 1 < self.run.program.accumulate_steps:
            self.number += 1
            return True
        given = [grad if i in self.received else None for i, grad in enumerate(self.sums)]
        try:
            taken = self.run.step(given, float(self.run.program.accumulate_steps))
        except OverflowError:
            self.sums, self.received, grads[:] = before
            raise
        self.sums, self.number, self.received = [np.zeros_like(grad) for grad in self.sums], 0, set()
        return taken

    def arrays(self) -> list[Array]:
        return [*self.run.arrays(), *self.sums]

    def counts(self) -> list[int]:
        return self.run.counts()


class Class:
    """The run by an optimizer, which may be copied, pickled, saved and loaded in between."""

    def __init__(
        self, program: Program, bound: bool, moves: random.Random | None, kind: Any = None, odd: Any = None
    ) -> None:
        self.program, self.moves, self.kind = program, moves, kind
        self.odd: random.Random | None = odd  # gradients in any form, memory anywhere
        params = copied(program.params())
        grads = [np.zeros_like(grad) for grad in program.steps[0][0]] if bound else None
        self.bound = grads
        self.optimizer = self._make(params)

    def _make(self, params: list[Array]) -> Any:
        more = {} if self.odd is None else {"cast_grads": True}
        place = None if self.odd is None else memory(self.odd)
        return self.program.make(params, self.bound, self.kind, memory=place, **more)

    def change(self, options: Options) -> None:
        for name, value in options.items():
            self.optimizer.param_groups[0][name] = value

    def step(self, grads: list[Any], scale: float) -> bool:
        if self.moves is not None and self.moves.random() < 0.3:
            self._move(self.moves)
        if self.bound is None:
            forms = [self._form(grad) for grad in grads]
            try:
                return bool(
                    self.optimizer.step(self.program.structure([given for given, _ in forms]), grad_scale=scale)
                )
            finally:
                for grad, (_, held) in zip(grads, forms, strict=True):
                    if held is not None:
                        grad[...] = held
        for mine, grad in zip(self.bound, grads, strict=True):
            mine[...] = grad
        try:
            return bool(self.optimizer.step(grad_scale=scale))
        finally:
            for mine, grad in zip(self.bound, grads, strict=True):
                grad[...] = mine

    def _form(self, grad: Any) -> tuple[Any, Array | None]:
        if self.odd is None or not isinstance(grad, np.ndarray):
            return grad, None
        return form(self.odd, grad)

    def _move(self, rng: random.Random) -> None:
        """Go on with a copy, which nothing may tell from the original."""
        how = rng.randrange(7)
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
            self.optimizer = self._make([slot.param.copy() for slot in old._slots])
            for group, options in zip(self.optimizer.param_groups, old.param_groups, strict=True):
                group.update({k: v for k, v in options.items() if callable(v)})
            if how == 4:
                with tempfile.TemporaryDirectory() as folder:
                    path = os.path.join(folder, rng.choice(["run.npz", "run.safetensors"]))
                    old.save(path)
                    self.optimizer.load(path)
            else:
                self.optimizer.load_state_dict(old.state_dict())

    def arrays(self) -> list[Array]:
        slots, views = self.optimizer._slots, self.optimizer.state
        states, scalars = _names(_rules(self.optimizer))
        found: list[Any] = [slot.param for slot in slots]
        for name in states:
            for slot in slots:
                value = slot.states.get(name)
                found += value if isinstance(value, tuple) else [value]
        found += [np.array(view[name]) for name in scalars for view in views if name in view]
        found += [slot.master for slot in slots] + [slot.ema for slot in slots] + [slot.grad_sum for slot in slots]
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


def _by_functions(program: Program, made: Any, where: Any) -> Functions | Sums:
    run = Functions(program, made, where)
    return Sums(run) if program.accumulate_steps > 1 else run


def run_program(seed: int) -> int:
    """Run one program; return how many native steps were compared."""
    program = draw(seed)
    rng = random.Random(~seed)
    made = program.make(copied(program.params()))
    with np.errstate(all="ignore"):
        expected = trace(program, _by_functions(program, made, fs.reference), None)
    full = all(isinstance(grad, np.ndarray) for grads, _ in program.steps for grad in grads)
    runs: list[tuple[str, Any]] = [("functional", lambda: _by_functions(program, made, fs.functional))]
    runs.append(("class", lambda: Class(program, False, None)))
    runs.append(("moved", lambda: Class(program, False, random.Random(seed))))
    runs.append(("odd", lambda: Class(program, False, random.Random(seed), odd=random.Random(seed))))
    if full:
        runs.append(("bound", lambda: Class(program, True, random.Random(seed) if rng.random() < 0.5 else None)))
    own = OWN.get(program.rule) if full and not program.options.get("cautious") else None
    if own is not None:
        with np.errstate(all="ignore"):
            trace(program, Class(program, False, random.Random(seed), own), expected)
    places: list[Any] = [(isa, 1, None) for isa in ISAS] + [(ISAS[-1], rng.choice([2, 3, 7]), rng.choice(TEAMS))]
    for place in places:
        with running(*place):
            for name, start in runs:
                try:
                    trace(program, start(), expected)
                except Exception as error:
                    raise AssertionError(f"{program.rule} {name} on {place}: {program.options}") from error
    return len(program.steps) * len(places) * len(runs)
