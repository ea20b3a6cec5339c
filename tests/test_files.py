"""What is saved to a file comes back byte for byte, by name, and others can read it."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import pathlib
import pickle
import re
import threading
import types
import zipfile
import zlib
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, FLOAT16, FLOAT32, FLOAT64, ROWS, assert_same, copied, label, numbers, snapshot
from test_peak_memory import CHOICES, ROOM, SIZE, peak_beside, states_of
from test_saving import FORMATS, fits, grads, params

import fusedstep
from fusedstep import _core
from fusedstep.files import _arrays, _npz, _safetensors
from fusedstep.files._reading import Opened

fs: Any = fusedstep  # what is wrong on purpose must pass the type checker
KINDS = ["run.safetensors", "run.npz"]
kinds = pytest.mark.parametrize("name", KINDS)


def others(path: pathlib.Path) -> dict[str, Any]:
    """What the formats' own libraries read."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in file.files}
        assert json.loads(found.pop("fusedstep").tobytes())["version"] == 1
        return found
    return dict(pytest.importorskip("safetensors.numpy").load_file(path))


@kinds
@pytest.mark.parametrize(("dtype", "options"), FORMATS, ids=label)
@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_continued_is_uninterrupted(
    rule: str, dtype: Any, options: dict[str, Any], name: str, tmp_path: pathlib.Path
) -> None:
    kind, options = CLASSES[rule], fits(rule, options) | ROWS[rule].options[-1]
    path, whole = tmp_path / name, kind(params(dtype), **options)
    for t in range(3):
        whole.step(grads(dtype, t))
    assert fs.save(path, [slot.param for slot in whole._slots], whole) is None
    resumed = kind(fs.load(path).params, **(options | {"seed": 0}))
    resumed.load(path)
    assert_same(snapshot(resumed), snapshot(whole))
    filled = kind(params(dtype), **options)
    fs.load(path, [slot.param for slot in filled._slots], filled)
    for t in range(3, 6):
        for optimizer in (whole, resumed, filled):
            optimizer.step(grads(dtype, t))
    for optimizer in (resumed, filled):
        assert_same(snapshot(optimizer), snapshot(whole))
        assert_same(optimizer.state_dict(), whole.state_dict())
    there = others(path)
    assert_same(there["params[3]"].tobytes(), fs.load(path).params[3].tobytes())
    assert len(there) == 4 + sum(isinstance(v, np.ndarray) for view in whole.state for v in view.values())


@kinds
def test_others_read_every_array_by_its_name(name: str, tmp_path: pathlib.Path) -> None:
    tree: dict[str, Any] = {
        "a": numbers((3, 5), BFLOAT16),
        "ü\n": [numbers((), FLOAT64)],
        "": (np.arange(5)[::2], np.eye(3)[:, ::2]),
    }
    tree |= {"one": {kind: np.arange(3).astype(kind) for kind in _arrays.DTYPES if kind != "bfloat16"}}
    tree["empty"] = np.zeros((0, 2**40), FLOAT16)
    tree["big-endian"] = np.arange(70000).astype(">f4")
    fs.save(tmp_path / name, tree)
    there, back = others(tmp_path / name), fs.load(tmp_path / name).params
    expected = {'params["a"]': tree["a"], 'params["ü\n"][0]': tree["ü\n"][0], 'params["empty"]': tree["empty"]}
    expected |= {'params[""][0]': np.array([0, 2, 4]), 'params[""][1]': np.eye(3)[:, ::2]}
    expected |= {f'params["one"]["{kind}"]': array for kind, array in tree["one"].items()}
    expected['params["big-endian"]'] = tree["big-endian"].astype("<f4")
    assert there.keys() == expected.keys()
    for key, array in expected.items():
        assert there[key].tobytes() == array.tobytes() and there[key].shape == array.shape, key
        if array.dtype != BFLOAT16 or name.endswith("safetensors"):
            assert there[key].dtype == array.dtype, key
    assert_same(back, tree | {"big-endian": expected['params["big-endian"]']})


@kinds
def test_names_that_differ_only_in_type(name: str, tmp_path: pathlib.Path) -> None:
    keys = [0, "0", True, "True", None, 1.5, "1.5", (0, "0"), ("0", 0), '0"]["x', "$array", "$dict", "\ud800"]
    tree: dict[Any, Any] = {key: np.full(2, i, FLOAT32) for i, key in enumerate(keys)}
    tree["nested"] = {0: {"$tuple": np.ones(2, FLOAT32)}, "0": {"x": np.zeros(2, FLOAT32)}}
    optimizer = fs.Momentum(tree, lr=0.5)
    optimizer.step(copied(tree))
    fs.save(tmp_path / name, tree, optimizer, extra=tree)
    back = fs.load(tmp_path / name)
    for found in (back.params, back.extra):
        assert [*map(repr, found)] == [*map(repr, tree)]
        assert_same(found, tree)
    backwards = {key: np.zeros_like(tree[key]) for key in reversed(keys)} | {"nested": copied(tree["nested"])}
    resumed = fs.Momentum(backwards)
    fs.load(tmp_path / name, backwards, resumed)
    assert_same({key: backwards[key] for key in tree}, tree)
    for one, view in zip(resumed._slots, resumed.state, strict=True):
        other = next(i for i, slot in enumerate(optimizer._slots) if slot.path == one.path)
        assert_same(view["exp_avg"], optimizer.state[other]["exp_avg"])


@kinds
def test_numbers_of_numpy_as_keys(name: str, tmp_path: pathlib.Path) -> None:
    """They are the keys that Python's numbers are, whichever a program counts with, and whatever NumPy prints."""
    tree = {i: {(i, "W"): np.full(2, float(i), FLOAT32)} for i in np.arange(3)}
    optimizer = fs.Momentum(tree, lr=0.5)
    optimizer.step(copied(tree))
    fs.save(tmp_path / name, tree, optimizer)
    assert optimizer.state_dict()["param_groups"][0]["param_names"][1] == "[1][(1, 'W')]"
    plain = {i: {(i, "W"): np.zeros(2, FLOAT32)} for i in reversed(range(3))}
    resumed = fs.Momentum(plain)
    fs.load(tmp_path / name, plain, resumed)
    assert_same(plain, tree)
    older = optimizer.state_dict()
    older["param_groups"][0]["param_names"] = [f"[np.int64({i})][(np.int64({i}), 'W')]" for i in range(3)]
    resumed.load_state_dict(older)
    assert_same([view["exp_avg"] for view in reversed(list(resumed.state))], [v["exp_avg"] for v in optimizer.state])


@dataclasses.dataclass
class Layer:
    W: Any
    b: Any = None


@kinds
def test_structures_of_other_classes(name: str, tmp_path: pathlib.Path) -> None:
    """Names are those of the optimizer; made anew, such parameters are in dicts."""
    rest: list[Any] = [Layer(numbers(5)), types.MappingProxyType({"x": numbers(1)})]
    first = Layer(numbers(3), numbers(2))
    model = {"first": first, "rest": rest}
    optimizer = fs.Adam(model)
    optimizer.step(copy.deepcopy({"first": first, "rest": [rest[0], {"x": numbers(1)}]}))
    fs.save(tmp_path / name, model, optimizer)
    there = others(tmp_path / name).keys()
    assert {'params["first"].W', 'optimizer["first"].W["exp_avg"]', 'params["rest"][1]["x"]'} <= there
    plain = {"first": {"W": first.W, "b": first.b}, "rest": [{"W": rest[0].W, "b": None}, {"x": rest[1]["x"]}]}
    assert_same(fs.load(tmp_path / name).params, plain)
    other = {"first": copy.deepcopy(first), "rest": [copy.deepcopy(rest[0]), {"x": numbers(1, seed=9)}]}
    resumed = fs.Adam(other)
    fs.load(tmp_path / name, other, resumed)
    assert_same(snapshot(resumed), snapshot(optimizer))


def test_keys_that_print_alike(tmp_path: pathlib.Path) -> None:
    class Key:
        def __repr__(self) -> str:
            return "key"

    tree = {Key(): numbers(3, seed=i) for i in range(3)}
    optimizer = fs.Adam(tree)
    optimizer.step(copied(tree))
    optimizer.save(tmp_path / "run.npz")
    resumed = fs.Adam({Key(): array.copy() for array in tree.values()})
    resumed.load(tmp_path / "run.npz")
    assert_same(snapshot(resumed), snapshot(optimizer))
    with pytest.raises(TypeError, match=r"params: got a key key \(Key\), needs text"):
        fs.save(tmp_path / "run.npz", tree)


def training(seed: int) -> dict[str, Any]:
    """All that a training has."""
    tree = {"W": numbers((5, 3), seed=seed), "b": numbers(3, BFLOAT16, seed)}
    schedule = fs.schedules.reduce_on_plateau(0.1, patience=0)
    optimizer = fs.AdamW(
        [{"params": tree["W"]}, {"params": tree["b"], "lr": 0.5}],
        lr=schedule,
        master=None,
        rounding="stochastic",
        seed=seed,
    )
    data = np.arange(20.0)
    batches = fs.minibatches(data, batch_size=3, rng=np.random.Generator(np.random.MT19937(seed)))
    return {"params": tree, "optimizer": optimizer, "batches": batches, "schedule": schedule, "loss": []}


def epoch(run: dict[str, Any], stop: int = 99) -> None:
    for i, (batch,) in enumerate(run["batches"]):
        grads = [(array.astype(FLOAT32) * batch.mean()).astype(array.dtype) for array in run["params"].values()]
        run["optimizer"].step(grads)
        run["loss"].append(float(batch.sum()))
        if i + 1 == stop:
            return
    run["schedule"].update(run["loss"][-1])


@kinds
@pytest.mark.parametrize("stop", [1, 4, 7, 99])
def test_a_whole_training(name: str, stop: int, tmp_path: pathlib.Path) -> None:
    """Saved in the middle of an epoch, in its last batch and between two."""
    one, other, whole = training(1), training(2), training(1)
    for run in (one, whole):
        epoch(run)
        epoch(run, stop)
    path = tmp_path / name
    extra = {
        "epoch": 1,
        "note": "naïve\n\ud800",
        "nan": float("nan"),
        "inf": -float("inf"),
        "big": -(2**200),
        "t": (1, [2]),
    }
    extra |= {"history": np.array(one["loss"]), "np": np.float32(0.5), "none": None, "flag": np.True_}
    extra |= {"empty": {}, "t": (1, [2])}
    fs.save(path, one["params"], one["optimizer"], batches=one["batches"], extra=extra)
    back = fs.load(path, other["params"], other["optimizer"], batches=other["batches"])
    assert back.params is other["params"]
    assert_same(back.extra, extra | {"np": 0.5, "flag": True})
    assert type(back.extra["flag"]) is bool and type(back.extra["np"]) is float
    assert other["schedule"] == one["schedule"]
    other["loss"] = list(one["loss"])
    for run in (one, other):
        run["rest"] = None
    # the interrupted loop of `one` is gone as if its process had ended; `whole` goes on in its own
    if stop < 99:
        epoch(other)
        whole = training(1)
        epoch(whole)
        epoch(whole)
    for run in (other, whole):
        epoch(run)
    assert_same(snapshot(other["optimizer"]), snapshot(whole["optimizer"]))
    assert other["loss"] == whole["loss"] and other["schedule"] == whole["schedule"]


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64", "RandomState"])
@kinds
def test_generators(name: str, kind: str, tmp_path: pathlib.Path) -> None:
    def made(seed: int) -> Any:
        return (
            np.random.RandomState(seed)
            if kind == "RandomState"
            else np.random.Generator(getattr(np.random, kind)(seed))
        )

    one, other = made(1), made(2)
    one.normal(size=3)
    fs.save(tmp_path / name, batches=one)
    fs.load(tmp_path / name, batches=other)
    assert_same(one.normal(size=700), other.normal(size=700))
    wrong = np.random.Generator(np.random.SFC64(3) if kind != "SFC64" else np.random.Philox(3))
    before = wrong.bit_generator.state
    with pytest.raises(ValueError, match=r"run.*: batches: got a state of '.*', needs one of '"):
        fs.load(tmp_path / name, batches=wrong)
    assert_same(wrong.bit_generator.state, before)


def test_states_of_generators_that_would_read_elsewhere() -> None:
    cases: list[tuple[Any, Any]] = [
        (np.random.MT19937(0), lambda state: state["state"].update(pos=10**6)),
        (np.random.MT19937(0), lambda state: state["state"].update(pos=-1)),
        (np.random.MT19937(0), lambda state: state["state"].update(key=[1, 2])),
        (np.random.Philox(0), lambda state: state.update(buffer_pos=-(10**6))),
        (np.random.PCG64(0), lambda state: state.update(state={})),
        (np.random.PCG64(0), lambda state: state.update(state=3)),
    ]
    for generator, change in cases:
        batches = fs.minibatches(np.arange(9), rng=np.random.Generator(generator))
        state = copy.deepcopy(batches.state_dict())
        change(state["rng"])
        before = copy.deepcopy(batches.state_dict())
        with pytest.raises((TypeError, ValueError), match="state"):
            batches.load_state_dict(state)
        assert_same(batches.state_dict(), before)


def test_savez_of_a_state_dict_is_an_error(tmp_path: pathlib.Path) -> None:
    optimizer = fs.Adam(numbers(3))
    saved = optimizer.state_dict()
    with pytest.raises(TypeError, match=r'optimizer.save\("run.npz"\) writes a file'):
        np.savez(tmp_path / "run.npz", **saved)
    for copied_one in (copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        assert type(copied_one["fusedstep"]) is dict
        assert_same(copied_one, saved)
    assert json.loads(json.dumps(saved["fusedstep"]))["rule"] == "adam"


@kinds
def test_peak_memory(name: str, tmp_path: pathlib.Path) -> None:
    """Neither saving nor loading holds a copy of the states, whatever they are converted to."""
    path = tmp_path / name
    for dtype, options in CHOICES:
        optimizer = fs.Adam(np.ones(SIZE, dtype), **options)
        assert peak_beside(lambda o=optimizer: o.save(path), lambda _: 0) < ROOM  # type: ignore[misc]
        for other, changed in CHOICES:
            if other == dtype:
                target = fs.Adam(np.ones(SIZE, dtype), **changed)
                held = states_of(target)
                peak = peak_beside(lambda o=target: o.load(path), lambda _, o=target: states_of(o))  # type: ignore[misc]
                assert peak + held < ROOM


@kinds
def test_an_array_that_changes_meanwhile(name: str, tmp_path: pathlib.Path) -> None:
    """What is checked is what was written."""
    tree, stop = np.zeros(1_000_000, FLOAT32), threading.Event()

    def change() -> None:
        while not stop.is_set():
            np.add(tree, 1, out=tree)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(5):
            fs.save(tmp_path / name, tree)
            fs.load(tmp_path / name)
    finally:
        stop.set()
        thread.join()


def test_checksums_are_zlibs() -> None:
    data: Any = np.random.default_rng(0).integers(0, 256, 100_003, np.uint8)
    for function in {_arrays.crc32, getattr(_core, "crc32", zlib.crc32)}:
        for size in (*range(150), 4096, 65_537, 100_000):
            for start, crc in ((0, 0), (1, 123), (3, 2**32 - 1)):
                part = data[start : start + size]
                assert function(part, crc) == zlib.crc32(part.tobytes(), crc)


def test_large_archives(tmp_path: pathlib.Path) -> None:
    """Members beyond 4 GiB and more than 65,535 of them, in files of holes."""
    sizes = [5 << 30, 1, 4 << 30, 3]
    many = [_arrays.Entry(f"a{i}", "uint8", (1,)) for i in range(70_000)]
    for entries in ([_arrays.Entry(f"a{i}", "uint8", (size,), 7) for i, size in enumerate(sizes)], many):
        path = tmp_path / "large.npz"
        with open(path, "wb") as file:
            for piece, entry in zip(_npz.frame(entries, b"{}"), [*entries, None], strict=True):
                file.write(piece)
                file.seek(entry.nbytes if entry else 0, os.SEEK_CUR)
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()[1:]
            assert [(m.filename, m.CRC) for m in members] == [(f"{e.name}.npy", e.crc) for e in entries]
            assert [m.file_size - len(_npz._npy(e)) for m, e in zip(members, entries, strict=True)] == [
                e.nbytes for e in entries
            ]
            if members[2].file_size > 4 << 30:
                with archive.open(members[2]) as member:
                    assert member.read(6) == b"\x93NUMPY"


def test_too_many_names() -> None:
    for kind in (_npz, _safetensors):
        with pytest.raises(ValueError, match=r"header: got 100.* bytes of names and values, needs at most 100000000"):
            kind.frame([], b"x" * (_arrays.LIMIT + 1))


def test_equal_states_give_equal_files(tmp_path: pathlib.Path) -> None:
    for name in KINDS:
        for folder in ("a", "b"):
            (tmp_path / folder).mkdir(exist_ok=True)
            fs.save(tmp_path / folder / name, numbers(1000), fs.Adam(numbers(7)), extra=[1])
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        with Opened(tmp_path / "a" / name) as file:
            assert list(file.sections) == ["params", "optimizer", "extra"]


def test_without_ml_dtypes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States of bfloat16 are read without the package that has the dtype; parameters are not."""
    optimizer = fs.Adam(numbers(3, FLOAT32), state_format="bfloat16", min_quantized_size=0)
    fs.save(tmp_path / "run.npz", numbers(3, BFLOAT16), optimizer)
    assert ml_dtypes is not None
    monkeypatch.setattr("fusedstep.formats.bfloat16", lambda: (_ for _ in ()).throw(ImportError("pip install")))
    fs.Adam(numbers(3, FLOAT32)).load(tmp_path / "run.npz")
    with pytest.raises(ImportError, match="pip install"):
        fs.load(tmp_path / "run.npz")


@kinds
def test_loading_over_arrays_that_share_memory(name: str, tmp_path: pathlib.Path) -> None:
    """Nothing is filled over what was filled before: an error that names both, and nothing has changed."""
    path = tmp_path / name
    fs.save(path, {"a": numbers(4, FLOAT32), "b": numbers(4, FLOAT32, 1)})
    memory = np.zeros(8, np.float32)
    windows = np.lib.stride_tricks.as_strided(memory, (4,), (0,))
    for a, b, said in (
        (memory[:4], memory[3:7], 'params["b"]: got memory that overlaps params["a"]'),
        (memory[4:], memory[3:7], 'params["b"]: got memory that overlaps params["a"]'),
        (memory[:4], memory[:4], 'params["b"]: got memory that overlaps params["a"]'),
        (memory[:4], memory[3::-1], 'params["b"]: got memory that overlaps params["a"]'),
        (memory[:7:2], memory[:4], 'params["b"]: got memory that overlaps params["a"]'),
        (memory[:4], windows, 'params["b"]: got an array whose elements share memory'),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            fs.load(path, {"a": a, "b": b})
        assert not memory.any()
    fs.load(path, {"a": memory[::2], "b": memory[7::-2]})  # in turns: no element is of both
    assert_same(memory[::2].copy(), numbers(4, FLOAT32))
    assert_same(memory[7::-2].copy(), numbers(4, FLOAT32, 1))


@kinds
def test_one_array_of_two_names(name: str, tmp_path: pathlib.Path) -> None:
    """Tied weights come back as such, and weights that were not tied cannot be loaded as such."""
    tied, path = numbers((3, 5), FLOAT32), tmp_path / name
    fs.save(path, {"in": tied, "out": tied})
    target = np.zeros((3, 5), np.float32)
    fs.load(path, {"in": target, "out": target})
    assert_same(target, tied)
    fs.save(path, {"in": tied, "out": numbers((3, 5), FLOAT32, 1)})
    with pytest.raises(ValueError, match=re.escape('params["out"]: got memory that overlaps params["in"]')):
        fs.load(path, {"in": target, "out": target})
    assert_same(target, tied)
