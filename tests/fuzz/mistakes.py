"""Random mistakes: whatever is given, an error of a documented kind and nothing changed, or a step like any other."""

from __future__ import annotations

import copy
import pathlib
import pickle
import random
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Array, assert_same, copied, reshape

import fusedstep as fs
from fusedstep._step_options import GROUP_VALUES
from fusedstep.reference import RULES

from .faces import Arrays, filled, memory
from .garbage import (
    garbage_like,
    mutated,
    mutated_state_dict,
    odd_memory,
    odd_number,
    odd_object,
    regrouped,
    spoil_array,
)
from .programs import KINDS, Functions, Program, draw

__all__ = ["run_functions", "run_optimizer"]

ERRORS = (TypeError, ValueError, OverflowError, RuntimeError, AttributeError, OSError)
FEW = 12  # mistakes with one optimizer


def small(seed: int) -> Program:
    """A program whose arrays are worth copying for every mistake."""
    while True:
        program = draw(seed, row_gradients=False)
        if sum(param.size for param in program.params()) < 3000:
            return program
        seed += 1 << 48


class World:
    """An optimizer that mistakes are made with, and its twin that never sees any."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.program = small(seed)
        bound = self.rng.random() < 0.3 and all(g is not None for grads, _ in self.program.steps for g in grads)
        self.grads = [np.ones_like(grad) for grad in self.program.steps[0][0]] if bound else None
        self.twin_grads = copied(self.grads)
        self.params = copied(self.program.params())
        self.structure = self.program.structure(self.params)
        more = {"cast_grads": True} if self.rng.random() < 0.3 else {}
        self.optimizer = self.program.make(self.params, self.grads, memory=memory(self.rng), **more)
        self.twin = self.program.make(copied(self.params), self.twin_grads)
        self.taken = 0

    def arguments(self) -> tuple[Any, ...]:
        """Right gradients for a step, for the optimizer and its twin."""
        grads, _ = self.program.steps[self.taken % len(self.program.steps)]
        self.taken += 1
        if self.grads is None or self.twin_grads is None:
            return self.program.structure(copied(grads)), self.program.structure(copied(grads))
        for mine, other, grad in zip(self.grads, self.twin_grads, grads, strict=True):
            if mine.flags.writeable and mine.shape == other.shape:
                mine[...] = grad
            other[...] = grad
        return None, None

    def step_both(self) -> None:
        """One right step of both, after which they are the same."""
        mine, other = self.arguments()
        outcomes = []
        for optimizer, grads in ((self.optimizer, mine), (self.twin, other)):
            try:
                outcomes.append(optimizer.step(grads))
            except OverflowError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], f"after a mistake a right step gives {outcomes[0]}, the twin's {outcomes[1]}"
        assert_same(arrays(self.optimizer), arrays(self.twin), "after a mistake, a right step")
        assert counts(self.optimizer) == counts(self.twin)


def arrays(optimizer: Any) -> list[Array]:
    return [array for slot in optimizer._slots for array in (slot.param, *(array for _, array in slot.items()))]


def counts(optimizer: Any) -> Any:
    model = optimizer._model
    every = range(len(optimizer._slots))
    numbers = [model.get_step(i) for i in every], [model.get_scalars(i) for i in every]
    own = model.steps_taken, optimizer.skipped_steps, optimizer.accumulated, optimizer._settings
    return repr((numbers, *own))


def photograph(world: World, given: Any = ()) -> Any:
    """All that a call which raised must have left as it was; `given` are further arrays."""
    optimizer = world.optimizer
    groups = [[(name, id(value)) for name, value in group.items()] for group in optimizer.param_groups]
    every = [*arrays(optimizer), *(world.grads or ()), *given]
    memory = [(a.shape, a.dtype, held(a)) for a in every if isinstance(a, np.ndarray)]
    return groups, memory, counts(optimizer)


def held(array: Array) -> bytes:
    """An array's own bytes, whatever its class makes of them."""
    return b"" if array.dtype.hasobject else np.ndarray.tobytes(array)


def attempt(world: World, what: str, call: Callable[[], Any], given: Any = ()) -> bool:
    """Make a call; whether it was accepted. One that raises raises what is documented and changes nothing."""
    before = photograph(world, given)
    try:
        call()
    except ERRORS as error:
        after = photograph(world, given)
        for name, one, other in zip(("groups", "arrays", "counts"), before, after, strict=True):
            if one != other:
                if len(one) == len(other) and name != "counts":
                    name, one, other = next(
                        (f"{name}[{i}]", *p) for i, p in enumerate(zip(one, other, strict=True)) if p[0] != p[1]
                    )
                shown = f"{str(one)[:400]} -> {str(other)[:400]}"
                raise AssertionError(f"{what} raised {error!r} and changed {name}: {shown}") from error
        return False
    except MemoryError:  # sizes that nobody has
        return False
    return True


# Each makes one mistake; True: it was accepted, and the twin is no twin any more.
Mistake = Callable[[World], bool]


def gradients(world: World) -> bool:
    right = world.arguments()[0]
    if right is None:
        right = world.program.structure(copied(world.grads))
    others = [array for array in arrays(world.optimizer) if array.ndim]
    wrong = mutated(world.rng, right, others)
    return attempt(world, "step(grads)", lambda: world.optimizer.step(wrong), leaves(wrong))


def leaves(value: Any, depth: int = 0) -> list[Any]:
    if type(value) in (list, tuple, dict) and depth < 9:
        return [leaf for v in (value.values() if type(value) is dict else value) for leaf in leaves(v, depth + 1)]
    return [value]


def scale(world: World) -> bool:
    value, right = odd_number(world.rng), world.arguments()[0]
    return attempt(world, f"grad_scale={value!r}", lambda: world.optimizer.step(right, grad_scale=value))


def then_step(world: World, what: str) -> bool:
    """What an accepted change of options does to the next step."""
    right = world.arguments()[0]
    return attempt(world, what, lambda: world.optimizer.step(right), leaves(right))


def group_entry(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    group = rng.choice(optimizer.param_groups)
    name = rng.choice([*group, "params", "extra", 3, None])
    before, value = dict(group), rng.choice([odd_number(rng), odd_object(rng), garbage_like(rng, group["params"])])
    how = rng.randrange(9)

    def change() -> None:
        if how < 4:
            group[name] = value
        elif how == 4:
            group.update({name: value, "lr": 0.1} if "lr" in group else {name: value})
        elif how == 5:
            group.setdefault(name, value)
        elif how == 6:
            del group[name]
        elif how == 7:
            group.pop(*([name] if rng.random() < 0.5 else [name, value]))
        else:
            rng.choice([group.clear, group.popitem, lambda: group.__ior__({name: value})])()

    try:
        if not attempt(world, f"group[{name!r}] = {value!r} ({how})", change):
            return False
    except KeyError:  # of an entry that is not there, as in every dict
        return False
    if then_step(world, f"a step with group[{name!r}] = {value!r} ({how})"):
        return True
    group.update(before)
    return False


def attribute(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    name = rng.choice([*optimizer.param_groups[0], *optimizer._settings, "extra", "state", "steps_taken", "rule"])
    if name in ("params", "rule"):
        return False
    value = odd_number(rng)
    before, settings = [dict(group) for group in optimizer.param_groups], dict(optimizer._settings)
    if not attempt(world, f"optimizer.{name} = {value!r}", lambda: setattr(optimizer, name, value)):
        return False
    if then_step(world, f"a step with optimizer.{name} = {value!r}"):
        return True
    for group, options in zip(optimizer.param_groups, before, strict=True):
        group.update(options)
    if name in settings:
        setattr(optimizer, name, settings[name])
    return False


def group_list(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    groups = optimizer.param_groups
    wrong = mutated(rng, [dict(group) for group in groups])
    fresh = mutated(rng, {"params": np.ones(3, np.float32), "lr": 0.1})

    def change() -> None:
        how = rng.randrange(8)
        if how < 3:
            optimizer.param_groups = wrong
        elif how == 3:
            groups[rng.randrange(-1, 2)] = fresh
        elif how == 4:
            groups[:] = wrong
        elif how == 5:
            groups.append(fresh)
        elif how == 6:
            optimizer.param_groups += [fresh]
        else:
            rng.choice([groups.clear, groups.pop, groups.reverse, groups.sort, lambda: groups.insert(0, fresh)])()

    try:
        return attempt(world, f"param_groups, {fresh!r}", change)
    except (IndexError, KeyError):
        return False


def added_group(world: World) -> bool:
    rng = world.rng
    right = {"params": [np.ones(5, np.float32), {"a": np.ones(300, np.float64)}], "lr": 0.1, "maximize": True}
    wrong = mutated(rng, right, [array for array in world.params if array.ndim])
    return attempt(world, f"add_param_group({wrong!r})", lambda: world.optimizer.add_param_group(wrong))


def state_dict(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    format_ = rng.choice([None, None, "float32", "bfloat16", "8bit"])
    try:
        saved = optimizer.state_dict(state_format=format_)
    except ERRORS:
        return False
    saved = mutated_state_dict(rng, saved, lambda value: mutated(rng, value))
    if not attempt(world, "load_state_dict", lambda: optimizer.load_state_dict(saved)):
        return False
    right = world.arguments()[0]
    try:
        optimizer.step(right)
    except OverflowError:
        pass
    except Exception as error:
        shown = {name: saved[name] for name in ("param_groups", "fusedstep") if name in saved}
        raise AssertionError(f"load_state_dict took what no step can be taken with: {shown}"[:3000]) from error
    return True


def construction(world: World) -> bool:
    rng, program = world.rng, world.program
    options = dict(program.options)
    structure = world.program.structure(copied(world.params))
    how = rng.random()
    if how < 0.4:
        structure = mutated(rng, structure, [array for array in world.params if array.ndim])
    elif how < 0.5:
        structure = regrouped(rng, structure)
    elif how < 0.6:
        options["memory"] = odd_memory(rng, leaves(structure))
    else:
        others = ("grads", "extra", "state_format", "cast_grads", "accumulate_steps", "memory", "rest")
        name = rng.choice([*options, *RULES[program.rule].hypers, *others])
        options[name] = mutated(rng, structure) if rng.random() < 0.2 else odd_number(rng)

    def make() -> None:
        made = KINDS[program.rule](structure, **options)
        repr(made)
        made.memory()
        made.load_state_dict(made.state_dict())

    attempt(world, f"{program.rule} {options}", make, leaves(structure))
    return False


def damaged_file(world: World) -> bool:
    """A file that is no longer what was saved is refused, or what it holds is what was saved."""
    rng, optimizer = world.rng, world.optimizer
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, rng.choice(["run.npz", "run.safetensors"]))
        try:
            optimizer.save(path)
        except ERRORS:  # of schedules that fail
            return False
        found = bytearray(path.read_bytes())
        for _ in range(rng.choice([1, 1, 3])):
            place = rng.randrange(len(found) if rng.random() < 0.5 else min(len(found), 300))
            how = rng.randrange(4)
            if how == 0:
                found[place] ^= 1 << rng.randrange(8)
            elif how == 1:
                del found[max(place, 1) :]
            elif how == 2:
                found[place:place] = bytes(rng.choice([1, 8, 64]))
            else:
                odd = (b"\xff" * 8, bytes(8), b'":[[[[[[', (1 << 62).to_bytes(8, "little"))
                found[place : place + 8] = rng.choice(odd)
        path.write_bytes(found)

        before = photograph(world)
        if attempt(world, "load(damaged file)", lambda: optimizer.load(path)):
            assert photograph(world)[1:] == before[1:], "a damaged file was loaded as another one"
    return False


def code_in_gradient(world: World) -> bool:
    """A gradient that uses its optimizer while it is read."""
    rng, optimizer = world.rng, world.optimizer
    right = world.arguments()[0]
    if right is None:
        return False
    saved, asked = optimizer.state_dict(), 0

    def act() -> None:
        nonlocal asked
        asked += 1
        acts: list[Callable[[], Any]] = [
            lambda: optimizer.step(right), lambda: optimizer.load_state_dict(saved), optimizer.state_dict,
            lambda: optimizer.add_param_group({"params": np.ones(3, np.float32)}), lambda: copy.deepcopy(optimizer),
            lambda: 1 / 0, lambda: pickle.dumps(optimizer),
        ]  # fmt: skip
        rng.choice(acts)()

    class Acting(Arrays):
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            act()
            return self.held

    def leaf(grad: Any) -> Any:
        return Acting(grad) if isinstance(grad, np.ndarray) else grad

    given = filled(right, leaf)
    taken = attempt(world, "a gradient with code", lambda: optimizer.step(given), leaves(right))
    assert not taken or not asked, "a step was taken in spite of its gradient's code"
    return taken


def live_array(world: World) -> bool:
    """Change an array in place, as NumPy lets everyone, then step."""
    rng = world.rng
    where = rng.choice(["params", "states", "grads"])
    found = {"params": world.params, "grads": world.grads or world.params, "states": arrays(world.optimizer)}[where]
    array = rng.choice(found)
    shape, dtype, strides, written = array.shape, array.dtype, array.strides, array.flags.writeable
    how = rng.randrange(6)
    try:
        if how == 0:
            array.resize(rng.choice([0, 1, array.size // 2, array.size + 1, 2 * array.size]), refcheck=False)
        elif how == 1:
            array.dtype = rng.choice([np.float32, np.int32, np.uint8, np.float16, np.float64, np.int16])
        elif how == 2:
            reshape(array, rng.choice([(array.size,), (1, array.size), (array.size, 1), (2, -1), (-1, 3)]))
        elif how == 3:
            array.flags.writeable = False
        elif how == 4:
            array.strides = (0,) * array.ndim
        else:
            array.dtype = np.dtype(np.float32).newbyteorder()
    except (TypeError, ValueError, AttributeError):
        return False
    if array.shape == shape and array.dtype == dtype and array.strides == strides and array.flags.writeable == written:
        return False
    right = world.program.structure([np.zeros(s.param.shape, s.param.dtype) for s in world.optimizer._slots])
    what = f"{where} {shape} {dtype}, changed in place ({how}) to {array.shape} {array.dtype}"
    if world.grads is not None and rng.random() < 0.5:
        taken = attempt(world, what, lambda: world.optimizer.step())
    else:
        taken = attempt(world, what, lambda: world.optimizer.step(right))
    if taken or how == 0:
        for call in (
            world.optimizer.state_dict,
            lambda: copy.deepcopy(world.optimizer),
            lambda: pickle.dumps(world.optimizer),
        ):
            attempt(world, what, call)
        return True
    try:
        array.flags.writeable = written
        array.dtype = dtype
        reshape(array, shape)
        array.strides = strides
    except ValueError:  # of memory that NumPy does not see the whole of
        return True
    return False


def container(world: World) -> bool:
    """Change the caller's own containers, then use the optimizer."""
    rng, structure, optimizer = world.rng, world.structure, world.optimizer
    nodes = [node for node in containers(structure) if isinstance(node, (dict, list))]
    if not nodes:
        return False
    node = rng.choice(nodes)
    value = rng.choice([np.ones(3, np.float32), odd_object(rng), structure])
    if isinstance(node, dict):
        key = rng.choice([*node, "extra", 99])
        if rng.random() < 0.3:
            node.pop(key, None)
        else:
            node[key] = value
    else:
        change: Callable[[], Any] = rng.choice([node.clear, node.reverse, lambda: node.append(value)])
        change()
    right = world.arguments()[0]
    calls: tuple[Callable[[], Any], ...] = (
        lambda: optimizer.step(right), optimizer.ema_params, lambda: copy.deepcopy(optimizer), optimizer.memory,
        lambda: pickle.loads(pickle.dumps(optimizer)), lambda: optimizer.load_state_dict(optimizer.state_dict()),
        lambda: optimizer.add_param_group({"params": np.ones(3, np.float32)}), optimizer.step, optimizer.ema_params,
    )  # fmt: skip
    for call in calls:
        try:
            attempt(world, "containers", call)
        except (AttributeError, TypeError, pickle.PicklingError) as error:
            if "pickle" not in str(error):
                raise
    return True


def containers(value: Any, depth: int = 0) -> list[Any]:
    if not isinstance(value, (dict, list, tuple)) or depth > 9:
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(node for part in inner for node in containers(part, depth + 1))]


def method(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    value = rng.choice([odd_number(rng), odd_object(rng)])
    calls: list[Callable[[], Any]] = [
        lambda: optimizer.state_dict(state_format=value),
        lambda: optimizer.load_state_dict(value),
        lambda: optimizer.add_param_group(value),
        lambda: optimizer.step(value),
        lambda: optimizer.step(value, value),
        lambda: optimizer.step(grad_scale=value, extra=1),
        lambda: copy.copy(optimizer),
        lambda: setattr(optimizer, "param_groups", value),
        lambda: optimizer.state[value],
        lambda: optimizer.state[0].__getitem__(value),
        lambda: delattr(optimizer, "state"),
        lambda: optimizer.state[0].__setitem__("step", 3),
        lambda: type(optimizer)(value),
        lambda: type(optimizer)(world.params, grads=value),
        lambda: optimizer.ema_params(),
    ]
    try:
        before = photograph(world)
        return attempt(world, f"{value!r}", rng.choice(calls)) and photograph(world) != before
    except (IndexError, KeyError, ZeroDivisionError):  # of a sequence or mapping; of our own function
        return False


def evaluation(world: World) -> bool:
    """Mistakes between eval() and train()."""
    optimizer = world.optimizer
    if not hasattr(optimizer, "eval"):
        return False
    if not switched(world, "eval"):
        return False
    for _ in range(3):
        if world.rng.choice([gradients, method, group_entry, live_array])(world):
            attempt(world, "train()", optimizer.train)
            return True
    return not switched(world, "train")


def switched(world: World, name: str) -> bool:
    """Switch both to the other weights; whether float16 holds them."""
    done = attempt(world, f"{name}()", getattr(world.optimizer, name))
    try:
        getattr(world.twin, name)()
    except OverflowError:
        assert not done, f"{name}() of the twin overflows"
        return False
    assert done, f"{name}() fails, the twin's does not"
    return True


MISTAKES: tuple[tuple[Mistake, int], ...] = (
    (gradients, 8), (scale, 2), (group_entry, 5), (attribute, 3), (group_list, 2), (added_group, 3), (state_dict, 6),
    (construction, 3), (live_array, 5), (container, 1), (method, 4), (evaluation, 2), (damaged_file, 1),
    (code_in_gradient, 1),
)  # fmt: skip
WEIGHTS = [weight for _, weight in MISTAKES]


def run_optimizer(seed: int) -> int:
    """Mistakes with one optimizer, until one is accepted; return how many."""
    with np.errstate(all="ignore"):
        world = World(seed)
        if world.rng.random() < 0.7:
            world.step_both()
        for made in range(FEW):
            (mistake,) = world.rng.choices([m for m, _ in MISTAKES], WEIGHTS)
            try:
                if mistake(world):
                    return made + 1
                world.step_both()
            except Exception as error:
                raise AssertionError(f"{mistake.__name__} with {world.program.rule} {world.program.options}") from error
    return FEW


# ------------------------------------------------------------------------------------------------------- functions


def run_functions(seed: int) -> int:
    """Wrong arguments of plain functions, of the native step and the reference: the same outcome of both."""
    rng = random.Random(seed)
    program = small(seed)
    with np.errstate(all="ignore"):
        made = program.make(copied(program.params()))
        group = made.param_groups[0]
        for number in range(FEW):
            outcomes = []
            choice = rng.getrandbits(64)
            for where in (fs.reference, fs.functional):
                given = arguments(program, made, group, where, random.Random(choice))
                flat = [leaf for value in given.values() for leaf in leaves(value)]
                plain = [leaf for leaf in flat if type(leaf) is np.ndarray and leaf.dtype != np.longdouble]
                before = [held(array) for array in plain]
                try:
                    function = getattr(where, made._rule_of(group))
                    taken: Any = function(**given)
                except ERRORS as error:
                    assert [held(array) for array in plain] == before, f"{program.rule} raised {error}, and wrote"
                    taken = error
                outcomes.append((taken, copied(plain)))
            (one, mine), (other, theirs) = outcomes
            shown = f"{program.rule} {number} ({choice}): reference {one!r}, native {other!r}"
            if isinstance(one, Exception) or isinstance(other, Exception):
                assert isinstance(one, Exception) and isinstance(other, Exception), shown
            else:
                assert one == other, shown
                assert_same(theirs, mine, shown)
    return 2 * FEW


def arguments(program: Program, made: Any, group: Any, where: Any, rng: random.Random) -> dict[str, Any]:
    """All arguments of one function, one or two of them wrong; the same whenever `rng` is the same."""
    run = Functions(program, made, where)
    grads = copied(program.steps[0][0])
    if any(grad is None for grad in grads):
        grads = [np.ones_like(param) for param in run.columns["param"]]
    given: dict[str, Any] = {n: c for n, c in run.columns.items() if c[0] is not None}
    given = {"grad": grads, **given, "step": [1] * len(grads)}
    first, rule = [i for i, number in enumerate(run.numbers) if number == 0], RULES[run.rules[0]]
    count = len(first)
    own = {*rule.initial_scalars, *(state.name for state in rule.states), "param", "grad", "step", "master", "ema"}
    given = {name: [values[i] for i in first] for name, values in given.items() if name in own}
    given = {name: values for name, values in given.items() if values[0] is not None}
    given |= {name: group[name] for name in (*rule.hypers, *GROUP_VALUES, "rounding")}
    given |= {**run.settings, "first": 0, "grad_scale": 1.0}
    if count == 1 and rng.random() < 0.5:
        given = {name: value[0] if isinstance(value, list) else value for name, value in given.items()}
    others = [array for array in run.arrays() if array.ndim]
    for _ in range(rng.choice([1, 1, 2])):
        name = rng.choice([*given, "grad", "param", *(s.name for s in rule.states), "extra", "ema", "master"])
        right = given.get(name)
        if name not in given or rng.random() < 0.05:
            given[name] = rng.choice([odd_number(rng), odd_object(rng), spoil_array(rng, np.ones(7, np.float32))])
        elif rng.random() < 0.07:
            del given[name]
        elif isinstance(right, (list, tuple, np.ndarray)):
            given[name] = mutated(rng, right, others)
        else:
            given[name] = odd_number(rng)
    return given
