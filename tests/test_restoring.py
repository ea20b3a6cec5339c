"""Pickles and copies with entries that are missing, unknown or wrong, as of a file that was edited or is of others."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep._structures import tree

WRONG: list[Any] = [None, -1, "text", [], {}, object(), np.ones(3, object), 2**70]
Case = tuple[Callable[[], Any], Callable[[Any], Any]]


def params() -> dict[str, Any]:
    return {"W": np.ones((3, 2), np.float32), "b": np.ones(3, np.float32)}


def stepped(cls: Any, **options: Any) -> Any:
    optimizer = cls(params(), **options)
    optimizer.step(params())
    return optimizer


def step(optimizer: Any) -> None:
    optimizer.step(params())
    optimizer.load_state_dict(copy.deepcopy(optimizer).state_dict())
    optimizer.add_param_group({"params": np.ones(2, np.float32)})
    assert np.isfinite(optimizer.param_groups[0]["lr"]) and len(optimizer.state) == 3


def batches() -> Any:
    made = fs.minibatches(np.arange(7), batch_size=3, rng=1)
    next(iter(made))
    made.load_state_dict(made.state_dict())
    return made


def average() -> Any:
    made = fs.ExponentialAverage(0.9)
    made.update(np.ones(3, np.float32))
    return made


def torch_stepped(name: str, **options: Any) -> Any:
    torch = pytest.importorskip("torch")
    ft = pytest.importorskip("fusedstep.torch")
    optimizer = getattr(ft, name)([torch.nn.Parameter(torch.ones(3, 2))], **options)
    torch_step(optimizer, save=False)
    return optimizer


def torch_step(optimizer: Any, save: bool = True) -> None:
    for param in (param for group in optimizer.param_groups for param in group["params"]):
        param.grad = param.detach().clone()
    optimizer.step()
    if save:
        optimizer.load_state_dict(copy.deepcopy(optimizer).state_dict())


def plateau() -> Any:
    made = fs.schedules.reduce_on_plateau(0.1)
    made.update(1.0)
    return fs.schedules.join([fs.schedules.cosine(0.1, 5), made], [2])


CASES: dict[str, Case] = {
    "Adam": (lambda: stepped(fs.Adam, state_format="8bit", min_quantized_size=0), step),
    "SGD": (lambda: stepped(fs.SGD, ema_decay=0.9, accumulate_steps=2), step),
    "Muon": (lambda: stepped(fs.Muon), step),
    "ScheduleFreeSGD": (lambda: stepped(fs.ScheduleFreeSGD), step),
    "torch Adam": (lambda: torch_stepped("Adam"), torch_step),
    "torch Muon": (lambda: torch_stepped("Muon"), torch_step),
    "torch ScheduleFreeSGD": (lambda: torch_stepped("ScheduleFreeSGD"), torch_step),
    "join": (plateau, lambda made: [made(t) for t in range(5)]),
    "reduce_on_plateau": (lambda: plateau().schedules[1], lambda made: made.update(3.0)),
    "minibatches": (batches, lambda made: [len(list(made)) for _ in range(2)]),
    "ExponentialAverage": (average, lambda made: made.update(np.ones(3, np.float32))),
}


def spoiled(state: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "no dict", None
    yield "no dict", [1]
    for name in state:
        yield f"without {name}", {key: value for key, value in state.items() if key != name}
        for value in WRONG:
            yield f"{name}: {value!r}", state | {name: value}
        inner = state[name]
        if isinstance(inner, dict) and all(isinstance(key, str) for key in inner):
            for key in inner:
                yield f"{name} without {key}", state | {name: {k: v for k, v in inner.items() if k != key}}
        if name == "param_groups":
            for key in inner[0]:
                rest = {k: v for k, v in inner[0].items() if k != key}
                yield f"group without {key}", state | {name: [rest, *inner[1:]]}
                for value in WRONG[1:]:
                    yield f"group {key}: {value!r}", state | {name: [rest | {key: value}, *inner[1:]]}
        if name == "_slots":
            for key in vars(inner[0]):
                for value in WRONG:
                    slot = copy.copy(inner[0])
                    setattr(slot, key, value)
                    yield f"slot {key}: {value!r}", state | {name: [slot, *inner[1:]]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, of ragged lists and the like
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # steps with the rate 2**70
@pytest.mark.parametrize("case", CASES)
def test_entries_of_a_pickle_that_are_missing_or_wrong(case: str) -> None:
    """One error that begins with the class's name, and nothing has changed; or an object that works."""
    make, use = CASES[case]
    made = make()
    state = made.__getstate__() if hasattr(made, "defaults") else dict(vars(made))
    refused = 0
    for what, entries in spoiled(state):
        other = object.__new__(type(made))
        try:
            other.__setstate__(entries)
        except (TypeError, ValueError) as error:
            refused += 1
            assert str(error).startswith(f"{type(made).__name__}: got a state"), what
            assert not vars(other), what
            continue
        try:
            use(other)
        except (TypeError, ValueError, RuntimeError) as error:  # values that only a step looks at
            assert ": got " in str(error) or "needs" in str(error), what
    assert refused >= 16
    use(pickle.loads(pickle.dumps(made)))


@pytest.mark.parametrize("case", [case for case in CASES if "torch" not in case])
def test_an_object_keeps_what_it_has_when_a_state_is_refused(case: str) -> None:
    make, use = CASES[case]
    first = make()
    for spoil in first.__getstate__() if hasattr(first, "defaults") else vars(first):
        made = make()
        before = dict(vars(made))
        state = made.__getstate__() if hasattr(made, "defaults") else before
        try:
            made.__setstate__(state | {spoil: object()})
        except (TypeError, ValueError):
            assert vars(made).keys() == before.keys()
            assert all(vars(made)[name] is value for name, value in before.items())
            use(made)


def test_unknown_entries() -> None:
    optimizer = stepped(fs.Adam)
    state = optimizer.__getstate__()
    for name in ("learning_rate", "_model", 3):
        with pytest.raises(ValueError, match=f"^Adam: got a state with an unknown entry {name!r}, needs"):
            optimizer.__setstate__(state | {name: 1.0})
    schedule = fs.schedules.cosine(0.1, 5)
    with pytest.raises(ValueError, match=r"^cosine: got a state with an unknown entry 'rate'"):
        schedule.__setstate__(vars(schedule) | {"rate": 1.0})


def test_schedules_of_ones_own_are_made_as_they_are() -> None:
    """Their constructor may do what must not be done twice."""
    schedule = Doubled(1.0)
    assert pickle.loads(pickle.dumps(schedule))(0) == copy.deepcopy(schedule)(0) == schedule(0) == 2.0


class Doubled(fs.schedules.Schedule):
    def __init__(self, lr: float) -> None:
        self.lr = 2 * lr

    def _value(self, t: int) -> float:
        return self.lr


@pytest.mark.parametrize(
    "make",
    [
        lambda: fs.Adam(params(), ema_decay=0.9),
        lambda: fs.AdamW(
            fs.groups(params(), where=lambda _, p: p.ndim == 1, lr=0.1), state_format="8bit", min_quantized_size=0
        ),
        lambda: fs.Muon(params()),
    ],
)
def test_a_pickler_that_writes_an_array_for_each_place(make: Callable[[], Any], tmp_path: Path) -> None:
    """joblib's: what it makes steps on with the same bytes, and says that its arrays are its own."""
    joblib = pytest.importorskip("joblib")
    optimizer = make()
    optimizer.step(params())
    joblib.dump(optimizer, tmp_path / "optimizer")
    with pytest.warns(RuntimeWarning, match=f"^{type(optimizer).__name__}: got arrays that were written once for each"):
        again = joblib.load(tmp_path / "optimizer")
    optimizer.step(params())
    again.step(params())
    for slot, other in zip(optimizer._slots, again._slots, strict=True):
        assert slot.param.tobytes() == other.param.tobytes()
    shown = [leaf for group in again.param_groups for leaf in tree(group["params"], "params").leaves]
    assert all(any(leaf is slot.param for slot in again._slots) for leaf in shown)
    copy.deepcopy(again).step(params())
    state = again.__getstate__()
    state["_structures"] = [{"W": np.ones((2, 3), np.float32), "b": np.ones(3, np.float32)}]
    with pytest.raises(ValueError, match="_structures: got other arrays than the parameters"):
        again.__setstate__(state)
