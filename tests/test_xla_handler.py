"""The step as XLA calls it, with call frames made by hand: what JAX itself never passes must be refused too."""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import _core
from fusedstep.reference import RULES

Array = NDArray[Any]
CODES = {"u1": 6, "i2": 3, "i4": 4, "i8": 5, "u4": 8, "f2": 10, "f4": 11, "f8": 12, "c8": 15}
NO_RANGES: Any = np.zeros(0)


def struct(name: str, *fields: tuple[str, Any], headed: bool = True) -> type[Any]:
    """A structure of the interface; most begin with their size and a list of extensions."""
    head = [("size_of", c.c_size_t), ("extensions", c.c_void_p)] if headed else []
    return type(name, (c.Structure,), {"_fields_": [*head, *fields]})


Version = struct("Version", ("major", c.c_int), ("minor", c.c_int))
Buffer = struct("Buffer", ("dtype", c.c_int), ("data", c.c_void_p), ("rank", c.c_int64), ("dims", c.c_void_p))
Buffers = struct("Buffers", ("count", c.c_int64), ("kinds", c.c_void_p), ("items", c.c_void_p))
Attributes = struct(
    "Attributes", ("count", c.c_int64), ("kinds", c.c_void_p), ("names", c.c_void_p), ("items", c.c_void_p)
)
Span = struct("Span", ("data", c.c_void_p), ("length", c.c_size_t), headed=False)
Number = struct("Number", ("dtype", c.c_int), ("value", c.c_void_p), headed=False)
Numbers = struct("Numbers", ("dtype", c.c_int), ("length", c.c_size_t), ("data", c.c_void_p), headed=False)
Mistake = struct("Mistake", ("message", c.c_char_p), ("code", c.c_int))
CREATE = c.CFUNCTYPE(c.c_void_p, c.POINTER(Mistake))
Api = struct("Api", ("version", Version), ("internal", c.c_void_p), ("create", CREATE))
Frame = struct(
    "Frame",
    ("api", c.POINTER(Api)),
    ("context", c.c_void_p),
    ("stage", c.c_int),
    ("arguments", Buffers),
    ("results", Buffers),
    ("attributes", Attributes),
    ("future", c.c_void_p),
)
Extension = struct("Extension", ("kind", c.c_int), ("next", c.c_void_p), headed=False)
Metadata = struct("Metadata", ("version", Version), ("traits", c.c_uint32), headed=False)


def handler() -> Callable[[Any], Any]:
    get = c.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = c.c_void_p, [c.py_object, c.c_char_p]
    found: Callable[[Any], Any] = c.CFUNCTYPE(c.c_void_p, c.c_void_p)(get(_core.xla_step(), None))
    return found


HANDLER = handler()


@dataclass
class Call:
    """A call of Adam on two parameters, to be changed before it is made."""

    in_place: list[Array] = field(default_factory=list)
    gradients: list[Array] = field(default_factory=list)
    traced: list[Array] = field(default_factory=list)
    results: list[Array] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    version: tuple[int, int] = (0, 3)

    def __call__(self) -> str | None:
        """The message of the error, if any."""
        kept: list[Any] = []
        said: list[str] = []

        def keep(value: Any) -> int:
            kept.append(value)
            return c.addressof(value)

        def create(mistake: Any) -> int:
            said.append(mistake.contents.message.decode())
            return 1

        def pointers(addresses: list[int]) -> int:
            return keep((c.c_void_p * max(1, len(addresses)))(*addresses))

        def buffers(arrays: list[Array]) -> Any:
            made = []
            for array in arrays:
                dims = keep((c.c_int64 * max(1, array.ndim))(*array.shape))
                made.append(keep(Buffer(c.sizeof(Buffer), None, code(array), array.ctypes.data, array.ndim, dims)))
            kinds = keep((c.c_int * max(1, len(made)))(*[1] * len(made)))
            return Buffers(c.sizeof(Buffers), None, len(made), kinds, pointers(made))

        def attribute(value: Any) -> tuple[int, int]:
            if isinstance(value, str):
                return 4, keep(Span(keep(c.create_string_buffer(value.encode())), len(value.encode())))
            array = np.ascontiguousarray(value)
            kept.append(array)
            if array.ndim == 0 or np.isscalar(value):
                return 3, keep(Number(code(array), array.ctypes.data))
            return 1, keep(Numbers(code(array), array.size, array.ctypes.data))

        items = [(name, *attribute(value)) for name, value in sorted(self.attributes.items())]
        names = [keep(Span(keep(c.create_string_buffer(name.encode())), len(name))) for name, _, _ in items]
        attributes = Attributes(
            c.sizeof(Attributes),
            None,
            len(items),
            keep((c.c_int * max(1, len(items)))(*[kind for _, kind, _ in items])),
            pointers(names),
            pointers([item for _, _, item in items]),
        )
        function = CREATE(create)
        api = Api(c.sizeof(Api), None, Version(c.sizeof(Version), None, *self.version), None, function)
        arguments = buffers([*self.traced, *self.in_place, *self.gradients])
        results = buffers(self.in_place if self.results is None else self.results)
        frame = Frame(c.sizeof(Frame), None, c.pointer(api), None, 3, arguments, results, attributes, None)
        HANDLER(c.addressof(frame))
        return said[0] if said else None


def code(array: Array) -> int:
    return CODES[array.dtype.str[1:]]


def adam() -> Call:
    """Parameters of 5 and 7 elements; moments of both in one array."""
    rng = np.random.default_rng(0)
    params = [rng.normal(size=n).astype(np.float32) for n in (5, 7)]
    names = RULES["adam"].coefficients
    values = {"lr": 0.1, "betas.0": 0.9, "betas.1": 0.999, "eps": 1e-8}
    none = [-1, -1]
    rows = [
        [0, *none, *none, 0, 0, *none, 0, 64, *none, *none, *none, *none, *none],
        [0, *none, *none, 0, 128, *none, 0, 192, *none, *none, *none, *none, *none],
    ]
    return Call(
        in_place=[np.zeros((), np.int32), np.zeros(256, np.float32), *params],
        gradients=[rng.normal(size=n).astype(np.float32) for n in (5, 7)],
        attributes={
            "rule": "adam",
            "values": np.array([1.0, 0.0, np.inf, 0.0, *(values.get(name, 0.0) for name in names)]),
            "traced": np.zeros(0, np.int64),
            "ranges": NO_RANGES,
            "needs": "",
            "tensors": np.array(rows, np.int64).reshape(-1),
            "paths": '["a"]\n["b"]',
            "arrays": "float32",
            "flags": np.int64(0),
            "seed": np.int64(0),
        },
    )


def test_a_step() -> None:
    call = adam()
    params = [array.copy() for array in call.in_place[2:]]
    moments = [[np.zeros_like(p) for p in params] for _ in range(2)]
    for step in (1, 2):
        assert call() is None
        fs.reference.adam(params, call.gradients, *moments, step=step, lr=0.1)
    np.testing.assert_array_equal(call.in_place[2], params[0])
    np.testing.assert_array_equal(call.in_place[3], params[1])
    np.testing.assert_array_equal(call.in_place[1][192:199], moments[1][1])
    assert call.in_place[0] == 2 and not call.in_place[1][[63, 127, 199]].any()


def shared(call: Call, first: int, second: int) -> None:
    """Let two arguments overlap by one element."""
    memory = np.zeros(12, np.float32)
    call.in_place[first], call.in_place[second] = memory[:5], memory[4:11]


def off_by_a_byte(size: int) -> Array:
    return np.zeros(4 * size + 1, np.uint8)[1:].view(np.float32)


def with_row(call: Call, **changes: int) -> None:
    rows = call.attributes["tensors"].copy()
    for place, value in changes.items():
        rows[int(place[1:])] = value
    call.attributes["tensors"] = rows


MISTAKES: list[tuple[Callable[[Call], Any], str]] = [
    (lambda x: shared(x, 2, 3), 'params["a"] and params["b"]: got memory in common'),
    (lambda x: x.gradients.__setitem__(0, x.in_place[3][:5]), "got memory in common, each needs memory of its own"),
    (lambda x: x.in_place.__setitem__(1, x.in_place[2]), "tensors: got a place beyond an array"),
    (lambda x: x.in_place.__setitem__(2, off_by_a_byte(5)), 'params["a"]: got memory that is not aligned'),
    (lambda x: x.gradients.__setitem__(1, off_by_a_byte(7)), 'grads["b"]: got memory that is not aligned'),
    (lambda x: x.gradients.__setitem__(1, np.zeros(6, np.float32)), 'grads["b"]: got 6 elements of float32, needs 7'),
    (lambda x: x.gradients.__setitem__(1, np.zeros(7)), 'grads["b"]: got 7 elements of float64, needs 7 of a float'),
    (lambda x: x.gradients.__setitem__(0, np.zeros(5, np.int32)), 'grads["a"]: got 5 elements of int32'),
    (lambda x: x.in_place.__setitem__(2, np.zeros(5, np.complex64)), 'params["a"]: got 5 elements of dtype 15, needs'),
    (lambda x: x.in_place.__setitem__(2, np.zeros(5)), 'exp_avg["a"]: got 5 elements of float32, needs a format'),
    (lambda x: x.in_place.__setitem__(1, np.zeros(256, np.uint8)), "tensors: got a place beyond an array"),
    (lambda x: x.in_place.__setitem__(0, np.zeros(2, np.int32)), "state.step: got 2 elements of int32, needs one"),
    (lambda x: x.in_place.__setitem__(0, np.zeros((), np.float32)), "state.step: got 1 elements of float32, needs"),
    (lambda x: x.in_place.__setitem__(0, np.array(-1, np.int32)), "state.step: got -1, needs 0"),
    (lambda x: x.in_place.__setitem__(0, np.array(2**63 - 1)), "state.step: got 9223372036854775807, needs"),
    (lambda x: setattr(x, "results", [a.copy() for a in x.in_place]), "state.step: got a result in memory of its own"),
    (lambda x: setattr(x, "results", [a.view(np.int32) for a in x.in_place]), "got a result unlike its argument"),
    (lambda x: setattr(x, "in_place", x.in_place[:1]), "got no such buffer"),
    (lambda x: setattr(x, "gradients", []), "tensors: got more than there are arguments"),
    (lambda x: with_row(x, r6=999), "tensors: got a place beyond an array"),
    (lambda x: with_row(x, r10=0), "tensors: got a place beyond an array or in another tensor's"),
    (lambda x: with_row(x, r9=2), "tensors: got a place beyond an array or in another tensor's"),
    (lambda x: with_row(x, r5=-1), 'exp_avg["a"]: got none, needs one'),
    (lambda x: with_row(x, r0=1), "tensors: got group 1, needs the number of one"),
    (lambda x: with_row(x, r1=0, r2=230), 'master["a"]: got 5 elements of float32, needs float32 for 16-bit'),
    (lambda x: x.attributes.pop("rule"), "rule: got no such attribute"),
    (lambda x: x.attributes.update(rule="none"), "rule: got 'none', needs the name of an update rule"),
    (lambda x: x.attributes.update(rule="muon"), "rule: got 'muon', needs the name of an update rule"),
    (lambda x: x.attributes.update(flags=np.int32(0)), "flags: got an attribute of int32, needs int64"),
    (lambda x: x.attributes.update(values=np.zeros(3)), "values: got 3, needs those of whole groups"),
    (lambda x: x.attributes.update(values=np.zeros(20, np.float32)), "values: got an attribute of float32"),
    (lambda x: x.traced.append(np.array(1.0)), "values: got"),
]


@pytest.mark.parametrize("case", range(len(MISTAKES)))
def test_calls_that_are_refused(case: int) -> None:
    """Nothing is written before the error."""
    change, message = MISTAKES[case]
    call = adam()
    change(call)
    before = [array.copy() for array in call.in_place]
    said = call()
    assert said is not None and message in said, said
    for array, old in zip(call.in_place, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_traced_numbers() -> None:
    call = adam()
    call.traced = [np.array(0.1)]
    call.attributes.update(traced=np.array([0, 4], np.int64), ranges=np.array([0.0, 1e300]), needs="lr\n>= 0")
    plain = adam()
    assert call() is None and plain() is None
    np.testing.assert_array_equal(call.in_place[2], plain.in_place[2])
    for bad in (-1.0, np.nan, np.inf):
        call.traced = [np.array(bad)]
        assert call() == f"lr: got {bad:g}, needs >= 0"
    call.traced = [np.array([0.1, 0.1])]
    assert call() == "lr: got 2 elements of float64, needs one float32 or float64"


VERSIONS = [((0, 1), True), ((0, 3), True), ((0, 9), True), (None, True), ((0, 0), False), ((1, 0), False)]


@pytest.mark.parametrize(("version", "known"), VERSIONS)
def test_the_version_of_the_interface_is_asked_for(version: tuple[int, int] | None, known: bool) -> None:
    """As `jax.ffi.register_ffi_target` does, by an extension of an otherwise empty frame; jaxlib 0.5 gives no API."""
    said: list[str] = []

    def create(mistake: Any) -> int:
        said.append(mistake.contents.message.decode())
        return 1

    function = CREATE(create)
    api = Api(c.sizeof(Api), None, Version(c.sizeof(Version), None, *(version or (0, 0))), None, function)
    metadata = (c.c_byte * 64)()
    extension = (c.c_void_p * 4)(32, 1, None, c.addressof(metadata))
    frame = Frame(c.sizeof(Frame), c.addressof(extension), c.pointer(api) if version else None, None, 3)
    HANDLER(c.addressof(frame))
    told = Version.from_buffer_copy(bytes(metadata)[c.sizeof(c.c_size_t) :])
    told_as = ".".join(map(str, version or ()))
    assert (told.major, told.minor) == ((version or (0, 1)) if known else (0, 0))
    assert bool(said) is not known and (known or f"jaxlib: got version {told_as} of XLA's" in said[0])


def test_the_structures_of_this_test_are_those_of_the_handler() -> None:
    assert c.sizeof(Frame) == 8 + 8 + 8 + 8 + 8 + 2 * 40 + 48 + 8 and c.sizeof(Buffer) == 48
