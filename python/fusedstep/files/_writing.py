"""Files that are written: at once, or by a thread from a snapshot."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .._arguments import flag, path_text, real, whole
from . import _npz, _safetensors
from ._arrays import Entry, Output, entry_of, in_file_order
from ._reading import VERSION
from ._replace import replace
from ._tree import Tree, dumps

__all__ = ["Saving", "save"]

Array = NDArray[Any]

KINDS: dict[str, Any] = {".safetensors": _safetensors, ".npz": _npz}


class Saving:
    """A file that is being written by a thread, from a snapshot of what was to be saved.

    An error that nobody asks for with `result` is a RuntimeWarning. At the end of the program Python waits for the
    thread.
    """

    def __init__(self, path: str, write: Any) -> None:
        self.path = path
        self._write = write
        self._error: BaseException | None = None
        self._told = False
        # An event, as Ctrl-C in `Thread.join` makes Python before 3.13 take the thread for one that has ended.
        self._ended, self._process = threading.Event(), os.getpid()
        thread = threading.Thread(target=self._run, name=f"saving {path}", daemon=False)
        try:
            thread.start()
        except RuntimeError as error:
            raise RuntimeError(
                f"{path}: got no thread to write it in, needs one, or background=False: {error}"
            ) from error
        _running.append(self._ended)

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:
            for each in (error, error.__cause__, error.__context__):
                if each is not None:
                    each.__traceback__ = None  # its frames would keep this object and the snapshot
            self._error = error
        self._write = None  # and the snapshot with it
        self._ended.set()

    def done(self) -> bool:
        """Whether the file is there, or could not be written."""
        return self._ended.is_set()

    def result(self, timeout: float | None = None) -> str:
        """Wait until the file is on the disk, and return its path.

        Parameters
        ----------
        timeout
            Seconds to wait at most.

        Raises
        ------
        TimeoutError
            It is not written yet.
        OSError
            It could not be written; the old file is whole.
        RuntimeError
            This process was forked while another one wrote the file.
        """
        if timeout is not None:
            timeout = min(max(real("timeout", timeout), 0.0), threading.TIMEOUT_MAX)
        if self._process != os.getpid() and not self.done():
            raise RuntimeError(f"{self.path}: got a process that was forked meanwhile, needs the one that writes it")
        if not self._ended.wait(timeout):
            raise TimeoutError(f"{self.path}: is not written yet after {timeout} seconds")
        if self._error is not None:
            self._told = True
            raise self._error
        return self.path

    def __del__(self) -> None:
        if getattr(self, "_error", None) is not None and not self._told:
            warnings.warn(f"could not be saved: {self._error}", RuntimeWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<Saving {self.path!r}: {'done' if self.done() else 'being written'}>"


_running: list[threading.Event] = []  # set when a file is written
_turn = threading.RLock()  # files are written in the order of the calls; a signal's handler may save during a save


def _forked() -> None:
    """In a forked child the thread that held the lock is gone, and so are those that write."""
    global _turn
    _turn = threading.RLock()
    _running.clear()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_forked)


def save(
    path: str | os.PathLike[str],
    tree: Mapping[str, Any],
    names: Mapping[tuple[Any, ...], str],
    *,
    keep: int,
    background: bool,
) -> Saving | None:
    """Write a file of what `tree` holds; see `_tree.Tree` for `names`, and `fusedstep.save` for the rest."""
    path = path_text("path", path)
    kind = KINDS.get(os.path.splitext(path)[1].lower())
    if kind is None:
        raise ValueError(f"path: got {path!r}, needs a name that ends in .safetensors or .npz")
    flag("background", background)
    keep = whole("keep", keep, low=1)
    path = os.path.abspath(path)  # a thread may come to it after os.chdir
    try:
        held = Tree(tree, names)
        entries = [entry_of(name, array) for name, array in held.arrays]
        _frame(kind, entries, held.plain)
    except RecursionError:
        raise ValueError(f"{path}: got values nested too deeply, needs fewer levels") from None
    arrays = [array for _, array in held.arrays]
    with _turn:
        while _running:  # there is one snapshot at a time
            ended = _running[0]
            ended.wait()
            if ended in _running:  # else a signal's handler has saved meanwhile
                _running.remove(ended)
        if not background:
            _write(path, kind, entries, arrays, held.plain, keep)
            return None
        arrays = [np.array(array, order="C") for array in arrays]
        return Saving(path, lambda: _write(path, kind, entries, arrays, held.plain, keep))


def _frame(kind: Any, entries: Sequence[Entry], plain: Any) -> list[bytes]:
    """The bytes around the arrays: as many, whatever the checksums are."""
    arrays = [[entry.name, entry.dtype, list(entry.shape), f"{entry.crc:08x}"] for entry in entries]
    index = dumps({"version": VERSION, "arrays": arrays, "tree": plain})
    pieces: list[bytes] = kind.frame([entries[i] for i in in_file_order(entries)], index)
    return pieces


def _write(path: str, kind: Any, entries: list[Entry], arrays: list[Array], plain: Any, keep: int) -> None:
    """Write everything once, and the frame again with the checksums of what was written."""
    order = in_file_order(entries)
    blank = _frame(kind, entries, plain)

    def fill(file: BinaryIO) -> None:
        output = Output(lambda data: _write_all(file, data))
        for number, piece in zip(order, blank, strict=False):
            output.put(piece)
            crc = output.put_array(arrays[number], kind.first_crc(entries[number]))
            entries[number] = entries[number]._replace(crc=crc)
        output.put(blank[-1])
        output.flush()
        place = 0
        sizes = [*(entries[number].nbytes for number in order), 0]
        for size, piece in zip(sizes, _frame(kind, entries, plain), strict=True):
            file.seek(place)
            _write_all(file, piece)
            place += len(piece) + size

    replace(path, sum(map(len, blank)) + sum(entry.nbytes for entry in entries), fill, keep)


def _write_all(file: BinaryIO, data: Any) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
