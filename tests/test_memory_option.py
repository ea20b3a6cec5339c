"""``memory=``: states in files that are mapped, and in memory of the caller's own."""

from __future__ import annotations

import copy
import gc
import mmap
import os
import pathlib
import pickle
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, ROWS, assert_same, copied, label, snapshot
from isolated import linux, prints, python

import fusedstep as fs

FORMATS: list[dict[str, Any]] = [{}, {"state_format": "8bit", "min_quantized_size": 0, "ema_decay": 0.9}]


def arrays(dtype: Any = np.float32) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"w": rng.standard_normal((30, 50)).astype(dtype), "b": rng.standard_normal(7).astype(dtype)}


def mapped_from(folder: pathlib.Path) -> int:
    """How many mappings of files in a folder the process has."""
    gc.collect()
    return sum(str(folder) in line for line in pathlib.Path("/proc/self/maps").read_text().splitlines())


def kept(optimizer: Any) -> list[Any]:
    return [array for state in optimizer.state for array in state.values() if isinstance(array, np.ndarray)]


def lies_in(array: Any, kind: type) -> bool:
    """Whether an array is a view of memory of this kind."""
    base = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base.obj if isinstance(base, memoryview) else base, kind)


@pytest.mark.parametrize("rule", CLASSES.values(), ids=label)
def test_the_same_bytes_in_files(rule: Any, tmp_path: pathlib.Path) -> None:
    options = ROWS[rule.rule].options[-1]
    made = []
    for memory in (None, tmp_path):
        params = arrays()
        optimizer = rule(params, memory=memory, **options)
        for _ in range(3):
            optimizer.step(arrays())
        assert all(lies_in(array, mmap.mmap) for array in kept(optimizer)) or memory is None
        made.append([params, [dict(state) for state in optimizer.state]])
    assert_same(made[1], made[0])


@pytest.mark.parametrize("options", [*FORMATS, {"master": "split"}, {"master": "float32", "state_format": "bfloat16"}])
@pytest.mark.parametrize("way", ["folder", "function"])
def test_every_array_is_there(way: str, options: dict[str, Any], tmp_path: pathlib.Path) -> None:
    dtype = BFLOAT16 if "master" in options else np.float32
    memory: Any = tmp_path if way == "folder" else bytearray
    kind = mmap.mmap if way == "folder" else bytearray
    optimizer = fs.AdamW({"w": arrays(dtype)["w"]}, memory=memory, **options)
    optimizer.add_param_group({"params": arrays(dtype)["b"]})
    optimizer.step([{"w": arrays(dtype)["w"]}, arrays(dtype)["b"]])
    assert kept(optimizer)
    assert all(lies_in(array, kind) for array in kept(optimizer))
    assert list(tmp_path.iterdir()) == []


@linux
def test_files_end_with_their_optimizer(tmp_path: pathlib.Path) -> None:
    optimizer = fs.Adam(arrays(), memory=str(tmp_path))
    number = mapped_from(tmp_path)
    assert number > 0
    other = copy.deepcopy(optimizer)
    assert mapped_from(tmp_path) == 2 * number
    del other
    assert mapped_from(tmp_path) == number
    state = optimizer.state[0]["exp_avg"]
    del optimizer
    assert mapped_from(tmp_path) > 0, "somebody holds a state"
    assert state[0, 0] == 0
    del state
    assert mapped_from(tmp_path) == 0


@linux
def test_the_first_step_touches_new_states() -> None:
    """Not the thread that makes the optimizer: each page goes to the node of the thread that steps it."""
    told = prints("""
import numpy as np, fusedstep as fs
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
param, grad = np.ones(1 << 24, np.float32), np.ones(1 << 24, np.float32)
before = resident()
optimizer = fs.Adam(param)
made = resident()
optimizer.step(grad)
print(made - before < 1 << 25, resident() - before >= 1 << 27)
""")
    assert told == "True True"


@linux
def test_files_are_read_ahead_in_huge_pages(tmp_path: pathlib.Path) -> None:
    """In small pages a step over states on a disk reaches a quarter of the disk's rate."""
    optimizer = fs.Adam(arrays(), memory=str(tmp_path))
    maps = pathlib.Path("/proc/self/smaps").read_text().split(str(tmp_path))[1:]
    flags = [next(line for line in text.splitlines() if line.startswith("VmFlags")).split() for text in maps]
    assert flags and all("sr" in those for those in flags)
    if pathlib.Path("/sys/kernel/mm/transparent_hugepage").is_dir():  # not in every kernel
        assert all("hg" in those for those in flags)
    del optimizer


def test_loading_stays_in_the_files(tmp_path: pathlib.Path) -> None:
    first = fs.Adam(arrays())
    first.step(arrays())
    optimizer = fs.Adam(arrays(), memory=tmp_path)
    optimizer.load_state_dict(first.state_dict())
    assert all(lies_in(array, mmap.mmap) for array in kept(optimizer))
    assert_same(copied(kept(optimizer)), copied(kept(first)))
    saved = fs.Adam(arrays(), amsgrad=True).state_dict()
    optimizer.load_state_dict(saved)  # has a state that there was not
    assert len(kept(optimizer)) == 6
    assert all(lies_in(array, mmap.mmap) for array in kept(optimizer))


def test_pickled_copies_live_in_ordinary_memory(tmp_path: pathlib.Path) -> None:
    optimizer = fs.Adam(arrays(), memory=lambda size: bytearray(size))
    optimizer.step(arrays())
    other = pickle.loads(pickle.dumps(optimizer))
    assert not any(lies_in(array, bytearray) for array in kept(other))
    assert_same([dict(state) for state in other.state], [dict(state) for state in optimizer.state])


SHARED = bytearray(1 << 20)


def closed(size: int) -> mmap.mmap:
    made = mmap.mmap(-1, size)
    made.close()
    return made


def shared(size: int) -> SharedMemory:
    """Shared memory that is closed when the caller lets it go."""
    made = SharedMemory(create=True, size=size)
    made.unlink()
    return made


def in_shared(size: int) -> Any:
    made = shared(size)
    return np.ndarray(size, np.uint8, made.buf)


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        (3.5, TypeError, "^memory: got float, needs None, the path of a folder, or a function"),
        ("no such folder", NotADirectoryError, "^memory: got 'no such folder', needs the path of a folder that exists"),
        (__file__, NotADirectoryError, "^memory: got "),
        (lambda size: None, TypeError, "^memory: its function returned NoneType, needs a buffer of bytes"),
        (lambda size: bytearray(size - 1), ValueError, "^memory: its function returned a buffer of"),
        (lambda size: bytes(size), ValueError, "^memory: its function returned a read-only buffer"),
        (lambda size: memoryview(bytearray(2 * size))[::2], ValueError, "a strided buffer"),
        (lambda size: SHARED, ValueError, "^memory: its function returned memory that overlaps"),
        (lambda size: np.zeros(size, "M8[s]"), TypeError, "its function returned ndarray, needs a buffer of bytes"),
        (lambda size: closed(size), ValueError, "^memory: got memory that was closed, needs memory that stays"),
        (lambda size: shared(size).buf, ValueError, "^memory: got memory that was closed, needs memory that stays"),
        (lambda size: in_shared(size), ValueError, "^memory: got memory that was closed"),
        (lambda size: np.empty(size, object), TypeError, "^memory: its function returned a buffer of Python objects"),
        (lambda size: np.empty(size, [("a", "i8"), ("b", object)]), TypeError, "a buffer of Python objects"),
    ],
    ids=lambda value: None if callable(value) else str(value)[:20],
)
def test_bad_memory(memory: Any, error: type[Exception], message: str) -> None:
    params = arrays()
    with pytest.raises(error, match=message):
        fs.Adam(params, memory=memory)
    assert_same(params, arrays())


def test_parameters_in_shared_memory_that_is_closed() -> None:
    """NumPy would read what is there now, or end the process."""
    param = in_shared(36).view(np.float32)
    for make in (fs.Adam, fs.Muon):
        with pytest.raises(ValueError, match=r'^params\["b"\]: got memory that was closed, needs memory that stays'):
            make({"a": np.ones(3, np.float32), "b": param})


def test_memory_that_is_in_use() -> None:
    """Nothing is written over the parameters, of any group, or over states that there are."""
    block = np.ones(50_000, np.float32)
    params = [block[:1000], block[2000:3000]]

    def over(start: int) -> Any:
        return lambda size: block[start:].view(np.uint8)[:size]

    for start in (0, 500, 2000):
        groups: Any = [{"params": params[:1]}, {"params": params[1:]}]
        for structure in (params, groups):
            with pytest.raises(ValueError, match=r"^memory: its function returned memory that overlaps"):
                fs.Adam(structure, memory=over(start))
    assert (block == 1).all()

    buffers = [bytearray(1 << 20) for _ in range(4)]
    given = iter([buffers[0], buffers[1], buffers[0], buffers[1], buffers[2], buffers[3], buffers[0]])
    optimizer = fs.RMSprop(np.ones(2000, np.float32), centered=True, memory=lambda size: next(given))
    optimizer.step(np.ones(2000, np.float32))
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=r"^memory: its function returned memory that overlaps"):
        optimizer.add_param_group({"params": np.ones(2000, np.float32)})
    other = fs.RMSprop(np.ones(2000, np.float32), centered=True, momentum=0.9)
    other.step(np.ones(2000, np.float32))
    next(given)
    next(given)
    with pytest.raises(ValueError, match=r"^memory: its function returned memory that overlaps"):
        optimizer.load_state_dict(other.state_dict())
    assert_same(snapshot(optimizer), before)
    assert optimizer.step(np.ones(2000, np.float32))


def test_a_folder_that_is_gone(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "states"
    folder.mkdir()
    optimizer = fs.Adam(arrays(), memory=folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError, match=r"memory: got a folder where no file of \d+ bytes can be made"):
        optimizer.add_param_group({"params": np.ones(3, np.float32)})
    assert optimizer.step(arrays())


def test_a_relative_folder_is_that_of_the_beginning(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "states").mkdir()
    monkeypatch.chdir(tmp_path)
    optimizer = fs.Adam(arrays(), memory="states")
    monkeypatch.chdir("/")
    optimizer.add_param_group({"params": np.ones(3, np.float32)})
    assert copy.deepcopy(optimizer).step([arrays(), np.ones(3, np.float32)])


@linux
def test_one_file_for_many_arrays(tmp_path: pathlib.Path) -> None:
    """Every file takes a descriptor, of which a process has 1,024 unless told otherwise."""
    code = """
import resource
params = [np.ones(5, np.float32) for _ in range(300)] + [np.ones(1 << 20, np.float32) for _ in range(12)]
optimizer, other = fs.Adam(params, memory=FOLDER), fs.Adam([p.copy() for p in params], amsgrad=True)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 6, 64))
optimizer.load_state_dict(other.state_dict())
for each in (optimizer, other):
    each.step([np.full_like(p, 0.5) for p in params])
print(all((a == b).all() for x, y in zip(optimizer.state, other.state) for a, b in zip(x.values(), y.values())
          if isinstance(a, np.ndarray)), len(optimizer.state[0]))
""".replace("FOLDER", repr(str(tmp_path)))
    done = python("import os\n" + code)
    assert (done.returncode, done.stdout) == (0, "True 4\n"), done.stderr


def test_errors_of_the_function_are_its_own() -> None:
    def none_left(size: int) -> Any:
        raise MemoryError(f"no {size} bytes left")

    with pytest.raises(MemoryError, match="bytes left"):
        fs.Adam(arrays(), memory=none_left)


@linux
def test_a_full_disk_is_an_error_at_once(tmp_path: pathlib.Path) -> None:
    """Without the space reserved, the process would end when a page that has no place is written."""
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
param = np.ones(100_000, np.float32)
try:
    fs.Adam(param, memory=sys.argv[1] if len(sys.argv) > 1 else FOLDER)
except OSError as error:
    print(type(error).__name__, param.min())
""".replace("FOLDER", repr(str(tmp_path)))
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "OSError 1.0\n"), done.stderr
    assert os.listdir(tmp_path) == []


@linux
def test_a_forked_process_does_not_step_the_states_of_its_parent(tmp_path: pathlib.Path) -> None:
    code = """
import os
optimizer = fs.Adam(np.ones(3000, np.float32), memory=FOLDER)
other = fs.Adam(np.ones(3000, np.float32))
for each in (optimizer, other):
    each.step(np.ones(3000, np.float32))
before = optimizer.state[0]["exp_avg"].copy()
child = os.fork()
if child == 0:
    calls = [lambda: optimizer.step(np.ones(3000, np.float32)), optimizer.state_dict, lambda: optimizer.steps_taken]
    for call in calls:
        try:
            call()
        except RuntimeError as error:
            assert "forked, needs the one that made" in str(error)
        else:
            os._exit(1)
    other.step(np.ones(3000, np.float32))
    os._exit(0)
status = os.waitpid(child, 0)[1]
same = (optimizer.state[0]["exp_avg"] == before).all()
print(status, same, optimizer.step(np.ones(3000, np.float32)), optimizer.steps_taken)
""".replace("FOLDER", repr(str(tmp_path)))
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "0 True True 2\n"), done.stderr


@linux
def test_optimizers_that_compare_in_their_own_way_are_told_apart_by_a_fork(tmp_path: pathlib.Path) -> None:
    code = """
import os
class Same(fs.Adam):
    __hash__ = None
    def __eq__(self, other):
        return True
both = [Same(np.ones(3, np.float32), memory=FOLDER) for _ in range(2)]
if os.fork() == 0:
    refused = 0
    for each in both:
        try:
            each.step(np.ones(3, np.float32))
        except RuntimeError:
            refused += 1
    os._exit(refused)
print(os.waitstatus_to_exitcode(os.wait()[1]), [each.step(np.ones(3, np.float32)) for each in both])
""".replace("FOLDER", repr(str(tmp_path)))
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "2 [True, True]\n"), done.stderr


def test_a_function_that_adds_a_group_while_one_is_added() -> None:
    made: list[Any] = []

    def give(size: int) -> bytearray:
        if made:
            made.pop().add_param_group({"params": np.ones(3, np.float32)})
        return bytearray(size)

    optimizer = fs.Adam(np.ones(2, np.float32), memory=give)
    made.append(optimizer)
    with pytest.raises(RuntimeError, match=r"^add_param_group\(\): got a call from within itself, needs"):
        optimizer.add_param_group({"params": np.ones(4, np.float32)})
    optimizer.add_param_group({"params": np.ones(5, np.float32)})
    assert [group["params"].size for group in optimizer.param_groups] == [2, 3, 5]
    assert optimizer.step([np.ones(size, np.float32) for size in (2, 3, 5)])
    assert [state["step"] for state in optimizer.state] == [1, 1, 1]
