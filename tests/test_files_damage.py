"""Files that were cut off, changed or made to do harm: an error that says what is wrong, and nothing has changed."""

from __future__ import annotations

import json
import os
import pathlib
import re
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, FLOAT32, assert_same, numbers, snapshot

import fusedstep
from fusedstep.files import _arrays, _npz, _safetensors, _tree
from fusedstep.files._reading import Opened, _entries

fs: Any = fusedstep
MODULES: dict[str, Any] = {"run.safetensors": _safetensors, "run.npz": _npz}
kinds = pytest.mark.parametrize("name", MODULES)


class Case:
    """A saved training, and arrays of the same names that hold something else."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        tree = {"W": numbers((2, 3), seed=1), "b": numbers(300, BFLOAT16, 1)}
        optimizer = fs.Adam(tree, state_format="8bit", min_quantized_size=8, lr=fs.schedules.reduce_on_plateau(0.1))
        optimizer.step({"W": numbers((2, 3), seed=2), "b": numbers(300, BFLOAT16, 2)})
        fs.save(path, tree, optimizer, batches=np.random.default_rng(1), extra={"epoch": 3})
        self.whole = path.read_bytes()
        self.params = {"W": numbers((2, 3), seed=3), "b": numbers(300, BFLOAT16, 3)}
        self.schedule = fs.schedules.reduce_on_plateau(0.5)
        self.optimizer = fs.Adam(self.params, state_format="8bit", min_quantized_size=8, lr=self.schedule)
        self.rng = np.random.default_rng(5)
        self.before = self.now()

    def now(self) -> Any:
        state = self.optimizer.state_dict()
        return [snapshot(self.optimizer), state, self.schedule.state_dict(), self.rng.bit_generator.state]

    def refused(self, data: bytes, match: str) -> None:
        """Loading it is a ValueError that names the file, and changes nothing."""
        self.path.write_bytes(data)
        with pytest.raises(ValueError, match=f"^{re.escape(str(self.path))}: .*{match}"):
            fs.load(self.path, self.params, self.optimizer, batches=self.rng)

    def unchanged(self) -> None:
        assert_same(self.now(), self.before)


@kinds
def test_bytes_that_changed(name: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    rng = np.random.default_rng(0)
    for place in range(0, len(case.whole), 4):  # all of them were tried once
        data = bytearray(case.whole)
        data[place] ^= 1 << int(rng.integers(8))
        case.refused(bytes(data), "")
    case.unchanged()


@kinds
def test_files_that_were_cut_off(name: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    for length in range(0, len(case.whole), 9):
        case.refused(case.whole[:length], "")
    case.refused(case.whole[:-1], "the file was cut off")
    case.refused(case.whole + b"\0", "the file has something behind its end")
    case.unchanged()


@kinds
def test_what_is_damaged_is_named(name: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    with Opened(case.path) as file:
        number = next(i for i, entry in enumerate(file._entries) if entry.name == 'params["b"]')
        place = file._starts[number]
    data = bytearray(case.whole)
    data[place] ^= 1
    case.refused(bytes(data), r'params\["b"\]: got the checksum [0-9a-f]{8}, needs [0-9a-f]{8}: the file was changed')
    case.unchanged()


@kinds
def test_files_of_others(name: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    arrays = {"a": np.ones(3, FLOAT32)}
    np.savez(tmp_path / "other.npz", a=arrays["a"])
    theirs = (tmp_path / "other.npz").read_bytes()
    case.refused(theirs, "another program, needs one saved here; numpy.load reads others")
    np.save(tmp_path / "other.npy", arrays["a"])
    case.refused((tmp_path / "other.npy").read_bytes(), "needs a .safetensors or .npz file")
    for junk in (b"", b"\0" * 100, b"\xff" * 100, b"PK\3\4", b"PK\3\4" + b"\xff" * 100, os.urandom(1000)):
        case.refused(junk, "")
    library = pytest.importorskip("safetensors.numpy")
    case.refused(library.save(arrays), "another program, needs one saved here; safetensors.numpy.load_file reads")
    case.refused(library.save(arrays, {"fusedstep": "{}"}), "got an index of another form")
    case.unchanged()


def made(module: Any, index: Any, data: bytes = b"", text: bytes | None = None) -> bytes:
    """A file whose frame and checksums are right, of any index."""
    text = json.dumps(index, separators=(",", ":")).encode() if text is None else text
    pieces = module.frame([], text)
    return b"".join(pieces) + data


ARRAY = ["x", "float32", [2], "00000000"]
INDEXES: list[tuple[Any, str]] = [
    ([], "another form"),
    ({}, "another form"),
    ({"version": 1}, "another form"),
    ({"version": True, "arrays": [], "tree": {}, "x": 1}, "another form"),
    ({"version": 2, "arrays": [], "tree": {}}, "version 2 of the format, needs 1"),
    ({"version": 1, "arrays": {}, "tree": {}}, "another form"),
    ({"version": 1, "arrays": [], "tree": []}, "another form"),
    *(
        ({"version": 1, "arrays": [array], "tree": {}}, what)
        for array, what in [
            ([], "array of another form"),
            ({}, "array of another form"),
            ([1, "float32", [2], "00000000"], "array of another form"),
            ([*ARRAY, 1], "array of another form"),
            (["x", "object", [2], "00000000"], "got dtype 'object'"),
            (["x", "float32", [2], "0000000"], "and checksum '0000000'"),
            (["x", "float32", [2], "+0000000"], "and checksum"),
            (["x", "float32", [-2], "00000000"], "got a shape that no array has"),
            (["x", "float32", [True], "00000000"], "got a shape that no array has"),
            (["x", "float32", [1.5], "00000000"], "got a shape that no array has"),
            (["x", "float32", [1 << 62], "00000000"], "got a shape that no array has"),
            (["x", "float32", [1] * 33, "00000000"], "got a shape that no array has"),
            (["x", "float32", [1 << 50, 1 << 9], "00000000"], "the file was cut off"),
            (["x", "float32", [1 << 40, 1 << 40, 0], "00000000"], "got a shape that no array has"),
            (["x", "float32", [(1 << 62) - 1] * 32, "00000000"], "got a shape that no array has"),
            (["x" * 100_000, "float32", [2], "00000000"], ""),
            (["\ud800", "float32", [2], "00000000"], ""),
        ]
    ),
    ({"version": 1, "arrays": [ARRAY, ARRAY], "tree": {}}, "two arrays of one name"),
]


@kinds
@pytest.mark.parametrize(("index", "what"), INDEXES, ids=range(len(INDEXES)))
def test_indexes_that_lie(name: str, index: Any, what: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    data = made(MODULES[name], index)
    tracemalloc.start()
    case.refused(data, what)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22  # of messages and regular expressions, mostly
    case.unchanged()


TEXTS: list[tuple[bytes, str]] = [
    (b"[" * 100_000, "damaged: got JSON of too many levels"),
    (b'{"a":' * 100_000, "damaged: got JSON of too many levels"),
    (b'{"version":1,"version":1}', "damaged: got JSON with 'version' twice"),
    (b'{"version":' + b"9" * 5000 + b"}", "damaged: got a whole number of 5000 digits"),
    (b'{"version":1', "damaged: "),
    (b"", "damaged: "),
]


@kinds
@pytest.mark.parametrize(("text", "what"), TEXTS, ids=range(len(TEXTS)))
def test_json_that_does_harm(name: str, text: bytes, what: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    case.refused(made(MODULES[name], None, text=text), what)
    case.unchanged()


TREES: list[tuple[Any, str]] = [
    ({"$array": 0}, r"array 0 twice or of none"),
    ({"$array": -1}, "array -1 twice or of none"),
    ({"$array": True}, r"an entry \$array of another form"),
    ({"$array": 0, "x": 1}, r"an entry \$array of another form"),
    ({"$tuple": {}}, r"an entry \$tuple of another form"),
    ({"$dict": [[1, 2], [1, 3]]}, r"an entry \$dict of another form"),
    ({"$dict": [[1]]}, r"an entry \$dict of another form"),
    ({"$dict": [[{}, 1]]}, "got a dict as a key"),
    ({"$dict": 3}, r"an entry \$dict of another form"),
    ([[]] * 2, "another form"),
    ("text", "another form"),
    (None, "another form"),
]


@kinds
@pytest.mark.parametrize(("tree", "what"), TREES, ids=range(len(TREES)))
def test_trees_of_another_form(name: str, tree: Any, what: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    index = {"version": 1, "arrays": [], "tree": {"extra": 0, "params": tree, "optimizer": tree, "batches": tree}}
    case.refused(made(MODULES[name], index), what)
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(str(case.path))}: "):
        case.optimizer.load(case.path)
    case.unchanged()


def deep(levels: int) -> Any:
    tree: Any = 0
    for _ in range(levels):
        tree = {0: [tree]}
    return tree


@kinds
def test_deep_nesting(name: str, tmp_path: pathlib.Path) -> None:
    fs.save(tmp_path / name, extra=deep(45))
    assert_same(fs.load(tmp_path / name).extra, deep(45))
    for tree in (deep(60), deep(5000)):
        with pytest.raises(ValueError, match=r"extra: nested more than 100 deep|nested too deeply"):
            fs.save(tmp_path / name, extra=tree)
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(ValueError, match=r"extra: nested more than 100 deep"):
        fs.save(tmp_path / name, extra=nested)
    plain: Any = 0
    for _ in range(150):
        plain = [plain]
    with pytest.raises(ValueError, match="more than 100 levels"):
        _tree.rebuilt(plain, lambda _: None, "extra")


def offsets_changed(whole: bytes) -> Iterator[bytes]:
    """Headers of .safetensors whose ranges lie elsewhere, overlap, leave holes or have other names."""
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    names = [key for key in header if key != "__metadata__"]
    changes: list[Callable[[Any], object]] = [
        lambda h: h[names[0]].update(data_offsets=[0, 1 << 60]),
        lambda h: h[names[0]].update(data_offsets=[-8, 16]),
        lambda h: h[names[1]].update(data_offsets=h[names[0]]["data_offsets"]),
        lambda h: h[names[0]].update(dtype="F64"),
        lambda h: h[names[0]].update(shape=[1 << 40]),
        lambda h: h.update({"another": h[names[0]]}),
        lambda h: h.pop(names[0]),
        lambda h: h.update({"renamed": h.pop(names[0])}),
    ]
    for change in changes:
        changed = json.loads(json.dumps(header))
        change(changed)
        text = json.dumps(changed, separators=(",", ":")).encode()
        yield len(text).to_bytes(8, "little") + text + whole[8 + length :]
        yield len(text).to_bytes(8, "little") + text.ljust(length) + whole[8 + length :]


def test_ranges_that_lie(tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / "run.safetensors")
    for data in offsets_changed(case.whole):
        case.refused(data, "")
    case.unchanged()


@kinds
def test_a_file_that_is_cut_off_after_the_check(name: str, tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    case, check = Case(tmp_path / name), Opened._check

    def cut(file: Opened) -> None:
        check(file)
        os.truncate(case.path, case.path.stat().st_size // 2)

    monkeypatch.setattr(Opened, "_check", cut)
    with pytest.raises(OSError, match="cut off meanwhile; what it was loaded into may have changed in part, so load"):
        fs.load(case.path, case.params, case.optimizer)


@kinds
def test_parameters_that_do_not_fit(name: str, tmp_path: pathlib.Path) -> None:
    case = Case(tmp_path / name)
    read_only = numbers((2, 3))
    read_only.flags.writeable = False
    W, b = case.params["W"], case.params["b"]
    for given, what in (
        ({"W": W}, r'params: unexpected params\["b"\]; needs those that were saved'),
        ({"W": W, "c": b}, r'params: missing params\["c"\]; unexpected params\["b"\]'),
        (
            {"W": W, "b": numbers(300)},
            r'params\["b"\]: got float32 of shape \(300,\), needs bfloat16 of shape \(300,\)',
        ),
        (
            {"W": numbers((3, 2)), "b": b},
            r'params\["W"\]: got float32 of shape \(3, 2\), needs float32 of shape \(2, 3\)',
        ),
        ({"W": read_only, "b": b}, r'params\["W"\]: got a read-only array, needs a writeable one'),
        ({"W": [1, 2], "b": b}, r"params: missing"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(str(case.path))}: {what}"):
            fs.load(case.path, given, case.optimizer, batches=case.rng)
    other = fs.SGD(numbers(3))
    with pytest.raises(
        ValueError, match=f"^{re.escape(str(case.path))}: state_dict: got one of adam, needs one of sgd"
    ):
        fs.load(case.path, case.params, other, batches=case.rng)
    case.unchanged()
    other.save(case.path)
    with pytest.raises(ValueError, match="got a file of optimizer, needs one with params"):
        fs.load(case.path, case.params)
    assert fs.load(case.path) == (None, None)


@kinds
def test_fuzz(name: str, tmp_path: pathlib.Path) -> None:
    fuzz(tmp_path / name, 300, 0)


def fuzz(path: pathlib.Path, count: int, seed: int) -> int:
    """Random damage; with `made`, damage of the index under right checksums. Returns how many indexes still loaded."""
    case, rng, loaded = Case(path), np.random.default_rng(seed), 0
    with Opened(path) as file:
        index = {
            "version": 1,
            "arrays": [[e.name, e.dtype, list(e.shape), f"{e.crc:08x}"] for e in file._entries],
            "tree": file.sections,
        }
        order = _arrays.in_file_order(file._entries)
        arrays = b"".join(case.whole[file._starts[i] :][: file._entries[i].nbytes] for i in order)
    text = json.dumps(index, separators=(",", ":")).encode()
    for number in range(count):
        data = bytearray(case.whole if number % 2 else text)
        for _ in range(int(rng.integers(1, 4))):
            place, kind = int(rng.integers(len(data))), int(rng.integers(4))
            other = int(rng.integers(len(data)))
            if kind == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                del data[place : place + int(rng.integers(1, 9))]
            elif kind == 2:
                data[place:place] = data[other : other + int(rng.integers(1, 40))]
            else:
                data[place : place + 8] = data[other : other + 8]
        path.write_bytes(data if number % 2 else reframed(MODULES[path.name], bytes(data), arrays))
        try:
            if number % 4 == 0:
                fs.load(path)
            else:
                fs.load(path, case.params, case.optimizer, batches=case.rng)
        except (TypeError, ValueError) as error:
            assert str(error).startswith(f"{path}: "), error
            if number % 50 == 1:
                case.unchanged()
        else:
            assert bytes(data) in (case.whole, text) or number % 2 == 0
            loaded += 1
            case.before = case.now()
    case.unchanged()
    return loaded


def reframed(module: Any, text: bytes, arrays: bytes) -> bytes:
    """The index `text` in a frame of its own making, if it can be read, else in one of no arrays."""
    try:
        entries, _ = _entries(_tree.loads(text))
        entries = [entries[i] for i in _arrays.in_file_order(entries)]
        pieces = module.frame(entries, text.decode("ascii").encode())
    except (ValueError, RecursionError):
        pieces, entries = module.frame([], text.decode("ascii", "replace").replace("\ufffd", "?").encode()), []
    out, place = pieces[0], 0
    for entry, piece in zip(entries, pieces[1:], strict=True):
        out += arrays[place : place + entry.nbytes] + piece
        place += entry.nbytes
    return out
