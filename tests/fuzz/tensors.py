"""Random mistakes with optimizers for torch: documented errors that change nothing, and no crash."""

from __future__ import annotations

import contextlib
import copy
import inspect
import pickle
import random
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from cases import Array, Options, assert_same

import fusedstep.torch as ft
from fusedstep.reference import RULES

from .garbage import mutated, mutated_state_dict, odd_number, odd_object
from .mistakes import ERRORS, FEW
from .values import array, rule_options, step_options, storage

__all__ = ["run_tensors"]

RAISED = (*ERRORS, KeyError, IndexError)  # torch itself looks things up

CLASSES = {
    kind.rule: kind
    for kind in vars(ft).values()
    if isinstance(kind, type) and issubclass(kind, ft.FusedOptimizer) and hasattr(kind, "rule")
    if kind is not ft.SparseAdam  # takes no dense gradients
}
DTYPES: dict[Any, Any] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
}
SHAPES = [(), (0,), (1,), (7,), (3, 5), (256,), (257,), (2, 300)]


def values_of(tensor: Any) -> Array:
    flat = tensor.detach().clone(memory_format=torch.contiguous_format).resolve_neg().reshape(-1)
    if not flat.numel():
        return np.zeros(0)
    found: Array = flat.view(torch.uint8).numpy().view(DTYPES.get(tensor.dtype, np.uint8))
    return found


class World:
    """Parameters and an optimizer that mistakes are made with, and a twin of both that never sees any."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.rule = rng.choice(sorted(CLASSES))
        alone = [] if RULES[self.rule].whole else ["backward"]  # each gradient by itself
        self.mode = rng.choice(["plain", "plain", "offload", "free", *alone])
        dtype = rng.choice(list(DTYPES))
        self.start = [
            torch.from_numpy(array(rng, rng.choice(SHAPES), np.dtype(np.float32), "plain")).to(dtype)
            for _ in range(rng.choice([1, 2, 3]))
        ]
        known = inspect.signature(CLASSES[self.rule]).parameters
        self.options = storage(rng, self.rule, np.dtype(DTYPES[dtype])) | {"seed": 3}
        self.add({n: v for n, v in rule_options(rng, self.rule).items() if n in known})
        for name, value in step_options(rng, "torch").items():
            self.add({name: value})
        self.params, self.optimizer = self.make()
        self.twins, self.twin = self.make()
        self.watch = self.optimizer.watch(rng.choice([1, 2, 3]), keep=2) if rng.random() < 0.4 else None
        self.steps = 0
        self.stepped = False

    def add(self, options: Options) -> None:
        """Take options, unless the rule, the other options or the way of stepping refuse them."""
        with contextlib.suppress(TypeError, ValueError):
            self.made([torch.nn.Parameter(value.clone()) for value in self.start], self.options | options)
            self.options |= options

    def make(self) -> tuple[list[Any], Any]:
        params = [torch.nn.Parameter(value.clone()) for value in self.start]
        return params, self.made(params, dict(self.options))

    def made(self, params: Any, options: Any) -> Any:
        kind = CLASSES[self.rule]
        if self.mode == "backward":
            return ft.apply_in_backward(params, kind, **options)
        if self.mode in ("offload", "free"):
            return ft.CPUOffload(kind, params, free_gradients=self.mode == "free", **options)
        return kind(params, **options)

    def gradients(self) -> list[Any]:
        self.steps += 1
        generator = torch.Generator().manual_seed(self.steps)
        return [torch.randn(value.shape, generator=generator).to(value.dtype) for value in self.start]

    def step(self, params: list[Any], optimizer: Any, grads: list[Any]) -> Any:
        """One right step."""
        try:
            if self.mode in ("backward", "free"):
                sum((param * grad).sum() for param, grad in zip(params, grads, strict=True)).backward()
            else:
                for param, grad in zip(params, grads, strict=True):
                    param.grad = grad.clone()
            optimizer.step()
            optimizer.zero_grad()
        except OverflowError as error:
            for param in params:
                param.grad = None
            return str(error)
        return None

    def step_both(self) -> None:
        grads = self.gradients()
        self.stepped = True
        one, other = self.step(self.params, self.optimizer, grads), self.step(self.twins, self.twin, grads)
        assert one == other, f"after a mistake a right step gives {one}, the twin's {other}"
        mine, theirs = photograph(self.params, self.optimizer), photograph(self.twins, self.twin)
        assert_same(mine[1], theirs[1], "after a mistake, a right step: parameters")
        for one, other in zip(mine[2], theirs[2], strict=True):  # a mistake may have made an average
            assert_same({k: one.get(k) for k in other}, other, "after a mistake, a right step: states")
        if self.watch is not None:
            last, seen = self.watch.last, self.optimizer.metrics()
            assert len(self.watch.history) <= 2
            assert "watch/ratio" in seen or not last or self.optimizer._watch is not self.watch, seen


def photograph(params: list[Any], optimizer: Any) -> Any:
    """All that a call which raised must have left as it was."""
    groups = [
        {name: id(value) for name, value in group.items()} if type(group) is dict else {"": id(group)}
        for group in optimizer.param_groups
    ]
    states: list[Any] = []
    for param in params:
        found = optimizer.state.get(param, {})
        if type(found) is not dict:
            states.append({})
            continue
        kept = {
            k: v for k, v in dict.items(found) if k != "step"
        }  # which may be any number, and becomes a float32 tensor
        states.append({k: values_of(v) if usable(v) else str(type(v)) for k, v in kept.items()})
    return groups, [values_of(param).copy() for param in params if usable(param)], copy.deepcopy(states)


def usable(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and (value.numel() == 0 or _end(value) <= value.untyped_storage().nbytes())
        and not value.dtype.is_complex
    )


def _end(value: Any) -> int:
    """Bytes of its storage that a tensor reaches over."""
    steps = sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True))
    return int((value.storage_offset() + steps + 1) * value.element_size())


def attempt(world: World, what: str, call: Callable[[], Any]) -> bool:
    """Make a call; whether it was accepted. One that raises raises what is documented and changes nothing."""
    before = photograph(world.params, world.optimizer)
    settled = world.stepped and not what.startswith(("a parameter", "state"))
    try:
        call()
    except RAISED as error:
        after = photograph(world.params, world.optimizer)
        try:
            # A group made by hand gets the options that it lacks as soon as it is read, as torch's optimizers do.
            left = [{k: new.get(k) for k in old} for old, new in zip(before[0], after[0], strict=True)]
            assert before[0] == left, f"groups: {before[0]} -> {after[0]}"
            assert_same(after[1], before[1], "parameters")
            for one, other in zip(after[2], before[2], strict=True):  # a first step makes and converts them
                both = {k: v for k, v in other.items() if isinstance(v, np.ndarray)}
                assert_same({k: one.get(k, v) for k, v in both.items()} if settled else both, both, "states")
        except AssertionError as changed:
            raise AssertionError(f"{what} raised {error!r} and changed something: {changed}"[:1500]) from error
        return False
    return True


def odd_tensor(world: World, right: Any) -> Any:
    """A tensor that is wrong in dtype, layout, place, shape or memory."""
    rng = world.rng
    makers: list[Callable[[], Any]] = [
        lambda: right.to(rng.choice([torch.float64, torch.float32, torch.float16, torch.bfloat16])),
        lambda: right.to(rng.choice([torch.int64, torch.uint8, torch.bool, torch.complex64])),
        lambda: torch.zeros(rng.choice([(), (0,), (right.numel() + 1,), (1, *right.shape), (5, 3)]), dtype=right.dtype),
        lambda: torch.zeros(right.shape, dtype=right.dtype, device="meta"),
        lambda: right.to_sparse(),
        lambda: torch.zeros((), dtype=right.dtype).expand(right.shape),
        lambda: torch.zeros((*right.shape, 2), dtype=right.dtype)[..., 0],
        lambda: torch.zeros(right.shape[::-1], dtype=right.dtype).permute(*range(right.dim())[::-1]),
        lambda: torch.conj(torch.complex(right.float(), right.float())).imag,
        lambda: world.rng.choice(world.params).detach(),
        lambda: torch.zeros(right.numel() + 1, dtype=right.dtype)[1:].reshape(right.shape),
        lambda: right.detach().clone().requires_grad_(),
        lambda: right.numpy() if right.dtype is torch.float32 else right.tolist(),
        lambda: None,
        lambda: odd_number(rng),
        lambda: odd_object(rng),
    ]
    try:
        return rng.choice(makers)()
    except (RuntimeError, TypeError):
        return None


def spoil_in_place(world: World, tensor: Any) -> bool:
    """Change a tensor as torch lets everyone; whether it did."""
    rng = world.rng
    other = odd_tensor(world, tensor.detach().clone())
    changes: list[Callable[[], Any]] = [
        lambda: tensor.data.resize_(rng.choice([0, 1, tensor.numel() + 5])),
        lambda: setattr(tensor, "data", other),
        lambda: tensor.data.t_(),
        lambda: tensor.data.as_strided_(tensor.shape, (0,) * tensor.dim()),
        lambda: tensor.requires_grad_(False),
        lambda: tensor.data.set_(torch.zeros(rng.choice([0, 1, 9]), dtype=tensor.dtype)),
        lambda: tensor.untyped_storage().resize_(rng.choice([0, 1, tensor.untyped_storage().nbytes() // 2])),
    ]
    try:
        rng.choice(changes)()
    except (RuntimeError, TypeError, AttributeError, ValueError):
        return False
    return True


def set_gradients(world: World) -> None:
    for param, grad in zip(world.params, world.gradients(), strict=True):
        param.grad = grad


def gradients(world: World) -> bool:
    set_gradients(world)
    param = world.rng.choice(world.params)
    if world.rng.random() < 0.5:
        with contextlib.suppress(*ERRORS):
            param.grad = odd_tensor(world, param.grad)
    else:
        spoil_in_place(world, param.grad)
    taken = attempt(world, "step with an odd gradient", world.optimizer.step)
    for each in world.params:
        each.grad = None
    return taken or world.mode == "free"


def parameters(world: World) -> bool:
    set_gradients(world)
    param = world.rng.choice(world.params)
    spoil_in_place(world, param)
    calls: list[Callable[[], Any]] = [
        world.optimizer.step, world.optimizer.state_dict, world.optimizer.step,
        lambda: world.optimizer.load_state_dict(world.optimizer.state_dict()),
    ]  # fmt: skip
    if usable(param):  # torch itself reads beyond a storage that was cut
        calls += [lambda: copy.deepcopy(world.optimizer), lambda: pickle.dumps(world.optimizer)]
    for call in calls:
        attempt(world, "a parameter changed in place", call)
    return True


def group_entry(world: World) -> bool:
    rng = world.rng
    group = rng.choice(world.optimizer.param_groups)
    name = rng.choice([*group, "extra", 3])
    before, value = dict(group), rng.choice([odd_number(rng), odd_object(rng), torch.tensor(0.5), torch.ones(3)])
    if rng.random() < 0.15 and name in group:
        del group[name]
    else:
        group[name] = value
    set_gradients(world)
    what = f"a step with group[{name!r}] = {value!r}"
    taken = attempt(world, what, world.optimizer.step)
    if not taken:
        attempt(world, what, world.optimizer.state_dict)
    group.clear()
    group.update(before)
    for param in world.params:
        param.grad = None
    return taken or world.mode == "free"


def states(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    param = rng.choice(world.params)
    state = optimizer.state.get(param, {})
    if not isinstance(state, dict) or not state:
        return False
    name = rng.choice([*state, "extra", "step"])
    value = state.get(name)
    how = rng.randrange(6)
    if how == 0 and isinstance(value, torch.Tensor):
        spoil_in_place(world, value)
    elif how == 1:
        state.pop(name, None)
    elif how == 2:
        optimizer.state[param] = odd_object(rng)
    elif how == 3:
        rng.choice(
            [optimizer.state.clear, lambda: setattr(optimizer, "state", {}), lambda: optimizer.state.pop(param)]
        )()
    else:
        state[name] = odd_tensor(world, value) if isinstance(value, torch.Tensor) else odd_number(rng)
    set_gradients(world)
    for call in (optimizer.step, optimizer.state_dict, optimizer.step):
        attempt(world, f"state {name!r} ({how})", call)
    return True


def state_dict(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    saved: Any = optimizer.state_dict()
    saved = mutated_state_dict(rng, saved, lambda value: mutated_tensors(world, value))
    if not attempt(world, "load_state_dict", lambda: optimizer.load_state_dict(saved)):
        return False
    set_gradients(world)
    try:
        optimizer.step()
    except OverflowError:
        pass
    except Exception as error:
        shown = {name: saved[name] for name in ("param_groups", "fusedstep") if name in saved}
        raise AssertionError(f"load_state_dict took what no step can be taken with: {shown}"[:3000]) from error
    return True


def mutated_tensors(world: World, value: Any) -> Any:
    """As `mutated`, with tensors."""
    rng = world.rng
    if isinstance(value, torch.Tensor):
        return odd_tensor(world, value)
    if type(value) in (dict, list) and value and rng.random() < 0.8:
        if type(value) is dict:
            key = rng.choice(list(value))
            return {**value, key: mutated_tensors(world, value[key])}
        i = rng.randrange(len(value))
        return [*value[:i], mutated_tensors(world, value[i]), *value[i + 1 :]]
    return mutated(rng, value)


def added_group(world: World) -> bool:
    right = {"params": [torch.nn.Parameter(torch.ones(5)), torch.nn.Parameter(torch.ones(3))], "lr": 0.1}
    wrong = mutated_tensors(world, right) if world.rng.random() < 0.7 else odd_object(world.rng)
    return attempt(world, f"add_param_group({wrong!r})", lambda: world.optimizer.add_param_group(wrong))


def construction(world: World) -> bool:
    rng = world.rng
    options = dict(world.options)
    params: Any = [torch.nn.Parameter(value.clone()) for value in world.start]
    if rng.random() < 0.5:
        params = mutated_tensors(world, params)
    else:
        options[rng.choice([*options, *RULES[world.rule].hypers, "extra", "state_format", "foreach"])] = odd_number(rng)

    def make() -> None:
        made = world.made(params, options)
        repr(made)
        made.load_state_dict(made.state_dict())

    attempt(world, f"{world.rule} {options}", make)
    return False


def method(world: World) -> bool:
    rng, optimizer = world.rng, world.optimizer
    value = rng.choice([odd_number(rng), odd_object(rng)])
    name = rng.choice([*optimizer.param_groups[0], "max_grad_norm", "skip_nonfinite", "zero_grads", "seed"])
    calls: list[Callable[[], Any]] = [
        lambda: optimizer.load_state_dict(value),
        lambda: optimizer.add_param_group(value),
        lambda: optimizer.state_dict(state_format=value),
        lambda: optimizer.step(value),
        lambda: optimizer.watch(value).close(),
        lambda: world.watch and world.watch.close(),
        lambda: optimizer.metrics(),
        lambda: optimizer.ema_params(),
        lambda: setattr(optimizer, "state", value),
        lambda: setattr(optimizer, name, value) if hasattr(type(optimizer), name) else None,
        lambda: type(optimizer)(value),
        lambda: optimizer.param_groups.append(value),
    ]
    with contextlib.suppress(ZeroDivisionError):  # our own function's
        attempt(world, f"a method with {value!r}", rng.choice(calls))
    set_gradients(world)
    attempt(world, f"a step after a method with {value!r}", optimizer.step)
    return True


MISTAKES = ((gradients, 8), (parameters, 3), (group_entry, 6), (states, 4), (state_dict, 6), (added_group, 3),
            (construction, 3), (method, 3))  # fmt: skip


def run_tensors(seed: int) -> int:
    """Mistakes with one optimizer, until one is accepted; return how many."""
    torch.set_num_threads(1)
    with np.errstate(all="ignore"):
        world = World(seed)
        if world.rng.random() < 0.7:
            world.step_both()
        for made in range(FEW):
            (mistake,) = world.rng.choices([m for m, _ in MISTAKES], [w for _, w in MISTAKES])
            try:
                if mistake(world):
                    return made + 1
                world.step_both()
            except Exception as error:
                raise AssertionError(f"{mistake.__name__}, {world.mode} {world.rule} {world.options}") from error
    return FEW
