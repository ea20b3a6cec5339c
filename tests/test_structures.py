"""Parameters and gradients in any structure: the same steps as from a plain dict, the same structure back, names."""

from __future__ import annotations

import collections
import copy
import dataclasses
import gc
import pickle
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from cases import assert_same, snapshot

import fusedstep as fs
from fusedstep import _structures

F32 = np.float32


def ones(*shape: int) -> Any:
    return np.ones(shape, F32)


@dataclasses.dataclass
class Layer:
    """A dataclass with a field that holds no parameter, and one that may hold none."""

    W: Any
    b: Any = None
    activation: str = dataclasses.field(default="relu", metadata={"static": True})
    size: int = dataclasses.field(default=3, metadata={"pytree_node": False})


@dataclasses.dataclass(frozen=True)
class Frozen:
    """As equinox and flax make them; a constructor that must not be called again."""

    W: Any
    b: Any = None

    def __post_init__(self) -> None:
        assert isinstance(self.W, np.ndarray), "made anew by the constructor"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    """A dataclass without a dict."""

    W: Any
    b: Any = None


class View(Mapping[str, Any]):
    """A mapping that is no dict, as flax's FrozenDict."""

    def __init__(self, **entries: Any) -> None:
        self.entries = entries

    def __getitem__(self, key: str) -> Any:
        return self.entries[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class Module:
    """A class of one's own, registered."""

    def __init__(self, W: Any, b: Any = None) -> None:
        self.W, self.b = W, b


class Submodule(Module):
    """Registered by its base."""


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_structures, "_registered", {})
    fs.register_structure(Module, vars, lambda node, entries: type(node)(**entries))


def named(cls: Any) -> Callable[[Any, Any], Any]:
    return lambda W, b: cls(W=W, b=b)


Pair = collections.namedtuple("Pair", ["W", "b"])
MAKERS: dict[str, tuple[Callable[[Any, Any], Any], str, str]] = {
    "dict": (named(dict), '["W"]', '["b"]'),
    "OrderedDict": (named(collections.OrderedDict), '["W"]', '["b"]'),
    "mapping": (named(View), '["W"]', '["b"]'),
    "proxy": (lambda W, b: types.MappingProxyType({"W": W, "b": b}), '["W"]', '["b"]'),
    "list": (lambda W, b: [W, b], "[0]", "[1]"),
    "namedtuple": (named(Pair), "[0]", "[1]"),
    "dataclass": (named(Layer), ".W", ".b"),
    "frozen": (named(Frozen), ".W", ".b"),
    "slotted": (named(Slotted), ".W", ".b"),
    "registered": (named(Module), ".W", ".b"),
    "subclass": (named(Submodule), ".W", ".b"),
}


def values(node: Any) -> tuple[Any, Any]:
    if isinstance(node, Mapping):
        return node["W"], node["b"]
    return tuple(node) if isinstance(node, (list, tuple)) else (node.W, node.b)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bound", [True, False])
def test_step_averages_names_and_states(kind: str, bias: bool, bound: bool) -> None:
    make, *names = MAKERS[kind]

    def model(value: float) -> Any:
        return {"layers": [make(np.full((3, 2), value, F32), np.full(2, value, F32) if bias else None)], "none": None}

    params, grads = model(1.0), model(0.5)
    plain = [[a.copy() for a in values(m["layers"][0]) if a is not None] for m in (params, grads)]
    opt = fs.Adam(params, grads=grads if bound else None, ema_decay=0.5, max_grad_norm=1.0)
    twin = fs.Adam(plain[0], ema_decay=0.5, max_grad_norm=1.0)
    for _ in range(2):
        assert opt.step(None if bound else grads)
        assert twin.step(plain[1])
    assert_same(snapshot(opt), snapshot(twin))

    averages = opt.ema_params()
    layer = averages["layers"][0]
    expected = dict if isinstance(params["layers"][0], Mapping) else type(params["layers"][0])
    assert type(layer) is expected and averages["none"] is None
    assert values(layer)[0] is opt.state[0]["ema"]
    assert values(layer)[1] is (opt.state[1]["ema"] if bias else None)

    paths = [f'["layers"][0]{name}' for name in names[: 1 + bias]]
    saved = opt.state_dict()
    assert saved["param_groups"][0]["param_names"] == paths
    other = fs.Adam(model(1.0), ema_decay=0.5)
    other.load_state_dict(saved)
    assert_same(list(other.state_dict()["state"].values()), list(saved["state"].values()))
    with pytest.raises(ValueError) as caught:
        opt.step({"layers": [make(ones(2, 3), ones(2) if bias else None)], "none": None})
    assert str(caught.value) == f"grads{paths[0]}: got shape (2, 3), needs (3, 2), the shape of params{paths[0]}"


@pytest.mark.parametrize("kind", MAKERS)
def test_copies_and_pickles(kind: str) -> None:
    if kind == "proxy":
        pytest.skip("Python cannot copy it")
    make, _, _ = MAKERS[kind]
    opt = fs.Adam(make(ones(3), None))
    opt.step(make(ones(3), None))
    for other in (copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.step(make(ones(3), None))
        assert other.steps_taken == 2 and opt.steps_taken == 1
        held = values(other.param_groups[0]["params"])
        assert held[0] is other._slots[0].param and held[1] is None


@pytest.mark.parametrize("kind", MAKERS)
def test_groups_hold_containers_of_their_own(kind: str) -> None:
    make, _, _ = MAKERS[kind]
    node = make(ones(3), ones(2))
    opt = fs.SGD([{"params": node, "lr": 1.0}, {"params": make(ones(1), None)}])
    shown = opt.param_groups[0]["params"]
    assert shown is not node and values(shown)[0] is values(node)[0]
    opt.param_groups[0]["params"] = node  # the same arrays
    with pytest.raises(ValueError, match="got other arrays"):
        opt.param_groups[0]["params"] = make(ones(3), ones(2))
    opt.add_param_group({"params": make(None, ones(4)) if kind != "frozen" else make(ones(4), None)})
    given = [make(ones(3), None), make(ones(1), None), None]
    assert opt.step(given)
    assert (values(node)[0] == 0).all() and (values(node)[1] == 1).all()


def test_mappings_and_dicts_stand_for_each_other() -> None:
    for params, grads in ((View(a=ones(2)), {"a": ones(2)}), ({"a": ones(2)}, View(a=ones(2)))):
        assert fs.SGD(params).step(grads)


def test_cast_grads_in_any_structure() -> None:
    opt = fs.SGD(Layer(ones(2, 2), None), lr=1.0, cast_grads=True)
    assert opt.step(Layer(np.ones((2, 2)).T, None))


def test_states_by_name_where_the_order_changes() -> None:
    def model(*order: str) -> Any:
        return View(**{name: Module(ones(2) if name == "a" else ones(3), None) for name in order})

    opt = fs.Adam(model("a", "b"))
    opt.step(View(a=Module(ones(2)), b=Module(2 * ones(3))))
    other = fs.Adam(model("b", "a"))
    other.load_state_dict(opt.state_dict())
    assert_same(other.state[0]["exp_avg"], opt.state[1]["exp_avg"])
    with pytest.raises(ValueError, match=r'missing params\["c"\]\.W; unexpected params\["b"\]\.W'):
        fs.Adam(model("a", "c")).load_state_dict(opt.state_dict())


# ---- errors ----


@dataclasses.dataclass
class Other:
    """Other fields."""

    V: Any
    b: Any = None


WRONG: list[tuple[Any, Any, str]] = [
    ({"b": None, "W": ones(2)}, {"b": ones(1), "W": ones(2)}, r'grads\["b"\]: got an array .*, needs None, as params'),
    ([ones(2), None], [ones(2), {}], r"grads\[1\]: got dict, needs None, as params\[1\] is"),
    ([ones(2), None], [ones(2)], r"grads: got list .*, there 2 entries, got 1"),
    ({"b": None, "W": ones(2)}, {"W": ones(2)}, r'grads: got no entry \["b"\]'),
    (Layer(ones(2)), {"W": ones(2), "b": None}, r"grads: got dict .*, there an object with fields"),
    (Layer(ones(2)), ones(2), r"grads: got an array .*, there an object with fields"),
    (Layer(ones(2)), Other(ones(2)), r"grads: got Other .*, there an object with the fields W, b"),
    (Layer(ones(2)), Layer(ones(2), ones(1)), r"grads\.b: got an array .*, needs None, as params\.b is"),
    (Module(ones(2)), Layer(ones(3)), r"grads\.W: got shape \(3,\), needs \(2,\)"),
    ({"W": ones(2)}, Layer(ones(2)), r"grads: got Layer .*, there a dict"),
    (View(W=ones(2)), [ones(2)], r"grads: got list .*, there a dict"),
    (View(W=ones(2)), View(V=ones(2)), r'grads: got no entry \["W"\]'),
    (View(W=ones(2)), View(W=ones(2), V=ones(2)), r'grads: got an entry \["V"\] that params does not have'),
]


@pytest.mark.parametrize(("params", "grads", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_other_structures(params: Any, grads: Any, text: str) -> None:
    opt = fs.SGD(params, lr=1.0)
    before = snapshot(opt)
    with pytest.raises((TypeError, ValueError), match="^" + text):
        opt.step(grads)
    assert_same(snapshot(opt), before)


def test_wrong_parameters() -> None:
    bad: list[tuple[Any, str]] = [
        (Other(ones(2), "relu"), r"params\.b: got str, needs a NumPy array"),
        ({"a": Layer(ones(2).astype(int))}, r'params\["a"\]\.W: got dtype int64'),
        (Layer(None), r"params: holds no arrays"),
        ([None, {}], r"params: holds no arrays"),
        (Layer, r"params: got type, needs a NumPy array"),
        (None, r"params: got NoneType, needs a NumPy array"),
        ([{"params": None}], r'params\[0\]\["params"\]: got NoneType, needs a NumPy array'),
    ]
    for params, text in bad:
        with pytest.raises((TypeError, ValueError), match="^" + text):
            fs.SGD(params)
    shared = ones(3)
    with pytest.raises(ValueError, match=r"^params\.W: got memory that overlaps params\.b"):
        fs.SGD(Layer(shared, shared))


def test_register_structure_checks() -> None:
    wrong: list[tuple[Any, ...]] = [(3, vars, vars), (Module, 3, vars), (Module, vars, None)]
    for arguments in wrong:
        with pytest.raises(TypeError, match=r"^(kind|flatten|unflatten): got .*, needs"):
            fs.register_structure(*arguments)
    for kind in (dict, list, tuple, np.ndarray, np.matrix, object, Pair, int, str, type(None), np.float64):
        with pytest.raises(ValueError, match=r"^kind: got .*, needs a class that is not a container"):
            fs.register_structure(kind, vars, lambda node, entries: node)
    for found in (None, [ones(2)], {1: ones(2)}):
        fs.register_structure(Module, lambda node, found=found: found, lambda node, entries: node)  # type: ignore[misc]
        with pytest.raises(TypeError, match=r"^register_structure: got .* of Module, needs a dict of names"):
            fs.SGD(Module(ones(2)))


# ---- hostile containers ----


class Odd(Mapping[str, Any]):
    """A mapping of which every method does as it is told."""

    def __init__(self, items: Callable[[], Any]) -> None:
        self.give = items

    def items(self) -> Any:
        return self.give()

    def __getitem__(self, key: str) -> Any:
        raise AssertionError

    def __iter__(self) -> Iterator[str]:
        raise AssertionError

    def __len__(self) -> int:
        return -3


def test_mappings_that_lie() -> None:
    array = ones(2)
    assert fs.SGD(Odd(lambda: [("a", array)])).step({"a": ones(2)})
    opt = fs.SGD({"a": ones(2)}, lr=1.0)

    def raises() -> Any:
        raise OSError("gone")

    for give, error in (
        (lambda: 3, TypeError),
        (lambda: [1], TypeError),
        (lambda: [("b", ones(2))], ValueError),
        (lambda: [([], ones(2))], TypeError),
        (raises, OSError),
        (lambda: [("a", Odd(raises))], TypeError),
    ):
        with pytest.raises(error):
            opt.step(Odd(give))
    assert opt.step(Odd(lambda: iter([("a", ones(2))])))
    assert opt.steps_taken == 1


def test_entries_that_change_while_they_are_checked() -> None:
    grads: Any = [None, ones(4), ones(4)]

    def clear() -> Any:
        grads.clear()
        gc.collect()
        return [("a", ones(4))]

    opt = fs.SGD([{"a": ones(4)}, ones(4), ones(4)], lr=1.0)
    grads[0] = Odd(clear)
    with pytest.raises(ValueError, match="grads: got a sequence that was changed in place"):
        opt.step(grads)
    assert opt.steps_taken == 0


def test_a_structure_that_uses_the_optimizer() -> None:
    opt: Any = None

    class Stepping:
        def __init__(self) -> None:
            self.W = ones(2)

    calls: list[Callable[[], Any]] = [
        lambda: opt.step(Module(ones(2))),
        lambda: opt.state_dict(),
        lambda: opt.add_param_group({"params": ones(2)}),
    ]

    def flatten(node: Stepping) -> dict[str, Any]:
        for call in calls:
            call()
        return vars(node)

    fs.register_structure(Stepping, flatten, lambda node, entries: node)
    opt = fs.SGD(Module(ones(2)))
    with pytest.raises(RuntimeError, match="during a step"):
        opt.step(Stepping())
    assert opt.steps_taken == 0 and opt.step(Module(ones(2)))


def test_structures_without_end() -> None:
    endless = Layer(None)
    endless.W = endless
    for params in (endless, Odd(lambda: [("a", Odd(endless_items))])):
        with pytest.raises(ValueError, match="nested more than 200 deep"):
            fs.SGD(params)
    opt = fs.SGD(Layer(ones(2)))
    with pytest.raises(TypeError, match="needs a NumPy array"):
        opt.step(endless)


def endless_items() -> Any:
    return [("a", Odd(endless_items))]


def test_fields_that_are_gone() -> None:
    layer = Layer(ones(2))
    opt = fs.SGD(layer)
    del layer.__dict__["W"]
    with pytest.raises(AttributeError, match="W"):
        opt.step(layer)
    with pytest.raises(AttributeError, match="W"):
        fs.SGD(layer)


def test_registered_names_of_other_lengths() -> None:
    class Changing:
        names = ("W",)
        array = ones(2)

    fs.register_structure(Changing, lambda node: dict.fromkeys(node.names, node.array), lambda node, entries: node)
    opt = fs.SGD(Changing())
    for names in ((), ("W", "b"), ("b",), ("caf\udce9",)):
        Changing.names = names  # type: ignore[assignment]
        with pytest.raises(TypeError, match="an object with the fields W"):
            opt.step(Changing())
    assert fs.Adam(Changing()).state_dict()["param_groups"][0]["param_names"] == [r".caf\udce9"]


def test_a_name_twice() -> None:
    class Twice(Module):
        pass

    fs.register_structure(Twice, lambda node: Odd(lambda: [("W", node.W), ("W", node.b)]), lambda node, entries: node)
    with pytest.raises(ValueError, match=r"^register_structure: got a name twice of Twice, needs different names"):
        fs.SGD(Twice(ones(2), ones(2)))


@dataclasses.dataclass
class Copying:
    """Its weights are a copy whenever somebody looks."""

    W: Any

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return found.copy() if name == "W" else found


def test_arrays_that_are_made_anew() -> None:
    """A step would change copies, and nobody would see it."""
    numbers = iter(range(9))
    swapped = type("Swapped", (Module,), {})
    fs.register_structure(
        swapped,
        lambda node: {"W": node.W, "b": node.b} if next(numbers) % 2 else {"W": node.b, "b": node.W},
        lambda node, entries: Module(**entries),
    )
    foreign = type("Foreign", (Module,), {})
    fs.register_structure(foreign, vars, lambda node, entries: foreign(ones(2), entries["b"]))
    for structure in (Copying(ones(2)), {"layer": [Copying(ones(2))]}, swapped(ones(2), ones(2)), foreign(ones(2))):
        with pytest.raises(ValueError, match=r"^params.*: got a new array each time it is read, needs one that stays"):
            fs.SGD(structure)


def test_views_made_anew() -> None:
    class Viewed(Module):
        pass

    fs.register_structure(Viewed, lambda node: {"W": node.W[1:]}, lambda node, entries: node)
    node = Viewed(ones(3))
    assert fs.SGD(node, lr=1.0).step(Viewed(ones(3)))
    assert node.W.tolist() == [1, 0, 0]


def test_structures_are_collected() -> None:
    node = Module(ones(2))
    opt = fs.SGD(node)
    opt.param_groups[0]["lr"] = lambda t, owner=(node, opt): 0.1
    opt.step(Module(ones(2)))
    node.b = opt  # a cycle
    watched = weakref.ref(node)
    del node, opt
    gc.collect()
    assert watched() is None


# ---- other libraries ----


def test_flax() -> None:
    core = pytest.importorskip("flax.core")
    params = core.freeze({"dense": {"kernel": ones(2, 3), "bias": ones(3)}})
    opt = fs.Adam(params, ema_decay=0.5)
    assert opt.step(core.freeze({"dense": {"kernel": ones(2, 3), "bias": ones(3)}}))
    assert opt.ema_params()["dense"]["bias"].shape == (3,)


def test_equinox() -> None:
    eqx, jax = pytest.importorskip("equinox"), pytest.importorskip("jax")
    model = eqx.nn.MLP(2, 1, 4, 2, key=jax.random.key(0))
    params, _ = eqx.partition(model, eqx.is_array)
    params = jax.tree.map(lambda leaf: np.array(leaf), params)
    grads = jax.tree.map(np.ones_like, params)
    before = [leaf.copy() for leaf in jax.tree.leaves(params)]
    opt = fs.SGD(params, lr=1.0, ema_decay=0.5)
    assert opt.step(grads)
    for leaf, start in zip(jax.tree.leaves(params), before, strict=True):
        np.testing.assert_array_equal(leaf, start - 1)
    assert jax.tree.structure(opt.ema_params()) == jax.tree.structure(params)
    assert opt.state_dict()["param_groups"][0]["param_names"][0] == ".layers[0].weight"
