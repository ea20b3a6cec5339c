"""Saving that is killed, runs out of disk or is not allowed: what was saved before is whole."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pathlib
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
from cases import FLOAT32, assert_same, numbers
from isolated import linux, prints

import fusedstep
from fusedstep.files import _replace, _writing

fs: Any = fusedstep
kinds = pytest.mark.parametrize("name", ["run.safetensors", "run.npz"])
posix = pytest.mark.skipif(os.name == "nt", reason="permissions, links and limits of POSIX")


def names(folder: pathlib.Path) -> list[str]:
    return sorted(os.listdir(folder))


def saving(path: str, keep: int, background: bool, size: int, seed: int) -> None:
    """What a process does until it is killed: every file holds one number throughout."""
    params = [np.zeros(size, FLOAT32), np.zeros(7, FLOAT32)]
    optimizer = fs.Momentum(params, lr=1.0)
    count = 0
    while True:
        count += 1
        for array in params:
            array[...] = count
        optimizer.state[0]["exp_avg"][...] = count
        fs.save(path, params, optimizer, extra=count, keep=keep, background=background)


def count_in(path: pathlib.Path) -> int:
    """The number in a file, the same everywhere."""
    saved = fs.load(path)
    optimizer = fs.Momentum([np.zeros_like(array) for array in saved.params])
    optimizer.load(path)
    for array in (*saved.params, optimizer.state[0]["exp_avg"]):
        assert (array == saved.extra).all()
    return int(saved.extra)


def kill_often(folder: pathlib.Path, name: str, times: int, seed: int, size: int = 30_000) -> dict[str, int]:
    """Kill processes that save in a loop; after each, every file is whole. What was found is counted."""
    rng = random.Random(seed)
    found = {"saved": 0, "killed while a file was written": 0, "between": 0}
    context = multiprocessing.get_context("fork")
    path, last = folder / name, 0
    for attempt in range(times):
        keep = rng.choice([1, 3])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
            process = context.Process(target=saving, args=(str(path), keep, rng.random() < 0.3, size, attempt))
            process.start()
        before = os.stat(path).st_ino if path.exists() else 0
        while process.is_alive() and (os.stat(path).st_ino if path.exists() else 0) == before:
            time.sleep(0.0005)  # its first file is there
        time.sleep(rng.random() * 0.02)
        assert process.pid is not None and process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        parts = [part for part in names(folder) if part.endswith(".part")]
        assert len(parts) <= 2, parts
        found["killed while a file was written" if parts else "between"] += 1
        last = count_in(path)
        found["saved"] += last
        for number in (1, 2):
            if (older := pathlib.Path(_replace.older(str(path), number))).exists():
                count_in(older)
    assert last >= 1
    fs.save(path, numbers(3))
    assert not [part for part in names(folder) if part.startswith(".")]
    return found


@linux
def test_killed_at_random_moments(tmp_path: pathlib.Path) -> None:
    """In an interpreter of its own: a fork of this one, with what other tests have imported, might not live."""
    folders = [str(pathlib.Path(fusedstep.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
    command = [sys.executable, __file__, str(tmp_path), "24"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found = [int(number) for number in re.findall(r"'saved': (\d+)", done.stdout)]
    assert len(found) == 2 and min(found) >= 12, done.stdout


@posix
@kinds
def test_too_large_for_the_disk(name: str, tmp_path: pathlib.Path) -> None:
    """By a limit of the process, which fails as a full disk does: in the middle of writing."""
    code = f"""
import resource
params = np.zeros(10_000, np.float32)
fs.save({str(tmp_path / name)!r}, params, extra="old")
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
for background in (False, True):
    try:
        saving = fs.save({str(tmp_path / name)!r}, params, extra="new", background=background)
        saving.result()
    except OSError as error:
        print(error)
        print(type(error).__name__, fs.load({str(tmp_path / name)!r}).extra)
"""
    first, kind, *again = prints(code).splitlines()
    assert re.fullmatch(
        r".*run\.\w+: got a full disk \(File too large\), needs 4\d{4} bytes in '.*' beside the old file; "
        "what was saved before is whole",
        first,
    )
    assert kind == "OSError old" and again == [first, kind]
    assert names(tmp_path) == [name]


@linux
def test_a_full_disk(tmp_path: pathlib.Path) -> None:
    code = f"""
import os
path = {str(tmp_path / "run.safetensors")!r}
fs.save(path, np.zeros(150_000, np.float32), extra="old")
try:
    fs.save(path, np.zeros(150_000, np.float32), extra="new")
except OSError as error:
    print(error.errno, fs.load(path).extra, os.listdir({str(tmp_path)!r}))
"""
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=1m none "$0" && exec "$@"', str(tmp_path)]
    if shutil.which("unshare") is None or subprocess.run([*mount, "true"], capture_output=True).returncode:
        pytest.skip("needs unshare, and to be allowed to mount a file system of its own")
    assert prints(code, *mount) == f"{errno.ENOSPC} old ['run.safetensors']"


def test_a_timeout_of_a_signal_handler_stays_one(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    def late(descriptor: int) -> None:
        raise TimeoutError("too late")  # an OSError, but not the system's

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(TimeoutError, match=r"^too late$"):
        fs.save(tmp_path / "run.npz", numbers(3))
    assert names(tmp_path) == []


@posix
@kinds
def test_folders_that_take_no_file(name: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"got a folder '.*none' that is not there, needs one; os.makedirs"):
        fs.save(tmp_path / "none" / name, numbers(3))
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"got a folder '.*file' that is not there"):
        fs.save(tmp_path / "file" / name, numbers(3))
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(IsADirectoryError, match=r"got a folder, needs the name of a file"):
        fs.save(tmp_path / "folder.npz", numbers(3))
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(OSError, match="got a device or pipe, needs the name of a file"):
        fs.save(tmp_path / "pipe.npz", numbers(3))
    with pytest.raises(ValueError, match="got no ordinary file"):
        fs.load(tmp_path / "pipe.npz")
    with pytest.raises(FileNotFoundError):
        fs.load(tmp_path / "none.npz")
    folder = tmp_path / "locked"
    folder.mkdir()
    fs.save(folder / name, numbers(3), extra="old")
    folder.chmod(0o555)
    forbidden = folder if os.geteuid() else pathlib.Path("/sys/kernel")  # which not even root may write
    if forbidden.exists():
        with pytest.raises(PermissionError, match=r"got a folder '.*' that cannot be written .*, needs one that can"):
            fs.save(forbidden / name, numbers(3))
    folder.chmod(0o755)
    assert fs.load(folder / name).extra == "old" and names(folder) == [name]


def test_arguments(tmp_path: pathlib.Path) -> None:
    optimizer = fs.Adam(numbers(3))
    path = tmp_path / "run.npz"
    calls: list[tuple[Any, str, dict[str, Any]]] = [
        (
            ValueError,
            r"path: got '.*run.bin', needs a name that ends in .safetensors or .npz",
            {"path": tmp_path / "run.bin"},
        ),
        (TypeError, "path: got bytes, needs text", {"path": os.fsencode(path)}),
        (TypeError, "path: got NoneType, needs text", {"path": None}),
        (ValueError, r"path: got '.*' with a null character, needs", {"path": "a\0.npz"}),
        (ValueError, "keep: got 0, needs >= 1", {"keep": 0}),
        (TypeError, "keep: got float, needs an integer", {"keep": 1.0}),
        (TypeError, "background: got int, needs a bool", {"background": 1}),
    ]
    for error, match, call in calls:
        with pytest.raises(error, match=match):
            optimizer.save(**({"path": path} | call))
        with pytest.raises(error, match=match):
            fs.save(**({"path": path, "optimizer": optimizer} | call))
    calls = [
        (ValueError, "got nothing to save, needs params, optimizer, batches or extra", {}),
        (TypeError, r'params\["a"\]: got float, needs a NumPy array', {"params": {"a": 1.0}}),
        (TypeError, r"params: got dtype complex128, needs an array of float64", {"params": np.zeros(2, complex)}),
        (TypeError, "params: got a masked array", {"params": np.ma.ones(3)}),
        (TypeError, "optimizer: got dict, needs one of fusedstep", {"optimizer": {}}),
        (TypeError, "batches: got int, needs fusedstep.minibatches or a NumPy generator", {"batches": 3}),
        (TypeError, r'extra\["a"\]\[0\]: got object, needs an array, or None', {"extra": {"a": [object()]}}),
        (TypeError, "extra: got complex", {"extra": 1j}),
        (TypeError, "extra: got dtype object", {"extra": np.array([{}])}),
        (TypeError, "extra: got dtype datetime64", {"extra": np.zeros(2, "M8[s]")}),
        (ValueError, "extra: got a whole number of 100001 bits, needs at most 12000", {"extra": 1 << 100_000}),
    ]
    for error, match, call in calls:
        with pytest.raises(error, match=match):
            fs.save(path, **call)
    assert names(tmp_path) == []


@posix
def test_links_and_permissions_stay(tmp_path: pathlib.Path) -> None:
    real, link = tmp_path / "real.npz", tmp_path / "link.npz"
    fs.save(real, numbers(3))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(real.stat().st_mode) == 0o666 & ~umask
    real.chmod(0o640)
    link.symlink_to(real.name)
    fs.save(link, numbers(3), extra="new")
    assert link.is_symlink() and fs.load(real).extra == "new" and stat.S_IMODE(real.stat().st_mode) == 0o640
    os.chdir(tmp_path)
    fs.save("here.npz", numbers(3))
    assert names(tmp_path) == ["here.npz", "link.npz", "real.npz"]


@kinds
def test_the_last_files_are_kept(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    held = [path, *(tmp_path / name.replace(".", f".{i}.") for i in (1, 2, 3))]

    def extras() -> list[Any]:
        return [fs.load(file).extra if file.exists() else None for file in held]

    for count in range(6):
        fs.save(path, extra=count, keep=3)
        assert extras() == [count, *(count - i if count >= i else None for i in (1, 2)), None]
    fs.save(path, extra=6)
    assert extras() == [6, 4, 3, None]
    held[1].unlink()
    fs.save(path, extra=7, keep=4)
    assert extras() == [7, 6, 3, None]  # up to the gap
    held[1].unlink()
    os.link(path, held[1])  # as a process leaves it that is killed before the last step
    fs.save(path, extra=8, keep=4)
    assert extras() == [8, 7, 3, None]
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(errno.EPERM, "no links here")))
    fs.save(path, extra=9, keep=4)
    assert extras() == [9, 8, 7, 3]
    assert names(tmp_path) == sorted(file.name for file in held)


def test_leftovers_are_removed_and_files_in_use_are_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "run.npz"
    other = tmp_path / ".other.npz.01234567.part"
    stale = tmp_path / ".run.npz.01234567.part"
    for file in (other, stale):
        file.write_text("x")
    used, used_path = _replace._created(str(tmp_path), "run.npz")
    fs.save(path, extra=1)
    assert not stale.exists() and other.exists() and (os.path.exists(used_path) or os.name == "nt")
    used.close()
    fs.save(path, extra=1)
    assert names(tmp_path) == [other.name, path.name]


@kinds
def test_in_the_background(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params, path = numbers(1000), tmp_path / name
    optimizer = fs.Adam(params)
    optimizer.step(numbers(1000, seed=1))
    goes, write = threading.Event(), _writing._write

    def slowly(*args: Any) -> None:
        assert goes.wait(30)
        write(*args)

    monkeypatch.setattr(_writing, "_write", slowly)
    before = params.copy()
    monkeypatch.chdir(tmp_path)
    saving = fs.save(name, params, optimizer, extra=1, background=True)
    monkeypatch.chdir("/")
    assert not saving.done() and not path.exists() and "being written" in repr(saving)
    with pytest.raises(TimeoutError, match=r"is not written yet after 0\.01 seconds"):
        saving.result(0.01)
    optimizer.step(numbers(1000, seed=2))
    goes.set()
    assert saving.result() == str(path) and saving.done() and "done" in repr(saving)
    assert_same(fs.load(path).params, before)
    for count in range(5):  # in the order of the calls, those that wait among them
        fs.save(path, extra=count, background=count % 2 == 0)
    fs.save(path, extra=5, background=True)
    optimizer.save(tmp_path / "other.npz", background=True).result()
    assert fs.load(path).extra == 5


def test_errors_in_the_background_are_not_lost(tmp_path: pathlib.Path) -> None:
    saving = fs.save(tmp_path / "none" / "run.npz", extra=1, background=True)
    with pytest.raises(FileNotFoundError, match="is not there"):
        saving.result()
    del saving
    unseen = fs.save(tmp_path / "none" / "run.npz", extra=1, background=True)
    while not unseen.done():
        time.sleep(0.001)
    with pytest.warns(RuntimeWarning, match=r"could not be saved: .*none/run.npz: got a folder"):
        del unseen


def test_the_program_waits_for_its_files(tmp_path: pathlib.Path) -> None:
    prints(f"fs.save({str(tmp_path / 'run.npz')!r}, np.zeros(3_000_000), background=True)")
    assert fs.load(tmp_path / "run.npz").params.shape == (3_000_000,)


@linux
def test_saving_in_a_forked_child(tmp_path: pathlib.Path) -> None:
    code = f"""
import os, threading
path = {str(tmp_path / "run.npz")!r}
for background in (True, False):
    fs.save(path, np.zeros(2_000_000), background=True)
    child = os.fork()
    if child == 0:
        fs.save(path + ".npz", np.ones(10), background=background)
        os._exit(0 if not background else 0)
    assert os.waitpid(child, 0)[1] == 0
"""
    prints("import warnings; warnings.simplefilter('ignore')\n" + code)
    assert fs.load(tmp_path / "run.npz").params.shape == (2_000_000,)


@kinds
def test_not_during_a_step(name: str, tmp_path: pathlib.Path) -> None:
    """The optimizer is held while it is saved: a step in another thread is an error, and not torn."""
    params = np.zeros(3_000_000, FLOAT32)
    optimizer, grad = fs.Momentum(params, lr=1.0, beta=0.0), np.ones(3_000_000, FLOAT32)
    stop, refused = threading.Event(), []

    def steps() -> None:
        while not stop.is_set():
            try:
                optimizer.step(grad)
            except RuntimeError as error:
                refused.append(error)
            time.sleep(0.005)

    thread = threading.Thread(target=steps)
    thread.start()
    try:
        saved, end = 0, time.monotonic() + 30
        while saved < 3:
            assert time.monotonic() < end
            time.sleep(0.001)
            try:
                fs.save(tmp_path / name, params, optimizer)
            except RuntimeError as error:
                assert "save()" in str(error)
                continue
            saved += 1
            found = fs.load(tmp_path / name).params
            assert found.min() == found.max()
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":  # python tests/test_files_crash.py FOLDER 1000
    for ending in ("run.safetensors", "run.npz"):
        print(ending, kill_often(pathlib.Path(sys.argv[1]), ending, int(sys.argv[2]) // 2, seed=0))


SLOWLY = """
import os, signal, threading, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a program in the background ignores it
from fusedstep.files import _writing
goes, write = threading.Event(), _writing._write
def slowly(*args):
    goes.wait(30)
    write(*args)
_writing._write = slowly
def result(saving):
    try:
        return saving.result()
    except (KeyboardInterrupt, RuntimeError) as error:
        return f"{type(error).__name__} {error}"
"""


@linux
def test_ctrl_c_while_a_file_is_waited_for(tmp_path: pathlib.Path) -> None:
    code = f"""
path = {str(tmp_path / "run.npz")!r}
saving = fs.save(path, np.zeros(2_000_000), background=True)
def interrupt():
    while not saving._ended._cond._waiters:  # a signal that comes just before the wait is seen after it
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
assert "KeyboardInterrupt" in result(saving) and not saving.done()
threading.Thread(target=interrupt).start()
try:
    fs.save(path, extra=2)
except KeyboardInterrupt:
    assert not saving.done() and not os.path.exists(path)
goes.set()
assert saving.result() == path and os.path.exists(path)
"""
    prints(SLOWLY + code)


@linux
def test_a_forked_child_does_not_know_what_became_of_a_file(tmp_path: pathlib.Path) -> None:
    code = f"""
import warnings; warnings.simplefilter("ignore")
saving = fs.save({str(tmp_path / "run.npz")!r}, np.zeros(2_000_000), background=True)
child = os.fork()
if child == 0:
    os._exit(0 if "run.npz: got a process that was forked" in result(saving) and not saving.done() else 1)
assert os.waitpid(child, 0)[1] == 0
goes.set()
saving.result()
child = os.fork()
if child == 0:
    os._exit(0 if saving.done() and result(saving) == saving.path else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    prints(SLOWLY + code)


def test_threads_that_save_under_one_name(tmp_path: pathlib.Path) -> None:
    path, errors = tmp_path / "run.npz", []

    def saves(number: int) -> None:
        for count in range(20):
            try:
                fs.save(path, extra=(number, count), keep=3, background=count % 2 == number % 2)
            except BaseException as error:
                errors.append(error)

    threads = [threading.Thread(target=saves, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fs.save(path, extra="last", keep=3)
    assert not errors and fs.load(path).extra == "last"
    assert names(tmp_path) == ["run.1.npz", "run.2.npz", "run.npz"]


@pytest.mark.parametrize("timeout", ["1", float("nan"), True])
def test_seconds_to_wait_for_a_file(timeout: Any, tmp_path: pathlib.Path) -> None:
    saving = fs.save(tmp_path / "run.npz", extra=1, background=True)
    assert saving is not None
    saving.result()
    assert saving.result(-1) == saving.result(1e300)
    with pytest.raises((TypeError, ValueError), match="timeout: got "):
        saving.result(timeout)


def test_no_thread_to_write_in(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    path = tmp_path / "run.npz"
    with pytest.raises(
        RuntimeError, match=r"run.npz: got no thread to write it in, needs one, or background=False: can"
    ):
        fs.save(path, extra=1, background=True)
    assert fs.save(path, extra=2) is None and fs.load(path).extra == 2
