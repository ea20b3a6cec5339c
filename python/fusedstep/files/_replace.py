"""A file takes the place of the one before it, whole, whatever happens meanwhile.

It is written under another name in the same folder, flushed to the disk and renamed, and the folder is flushed. A
process that ends in between, by whatever signal, leaves the old file and one whose name begins with a point, which the
next saving removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["older", "replace"]

ENDING = ".part"


def replace(path: str, size: int, write: Callable[[BinaryIO], object], keep: int) -> None:
    """Let `write` fill a file that takes the place of `path`.

    Parameters
    ----------
    path
        The file. A symbolic link stays, and its target is replaced.
    size
        Bytes that will be written, for messages.
    write
        Gets the new file, open for writing, unbuffered.
    keep
        Files that are kept, the new one among them; see `older`.

    Raises
    ------
    OSError
        The folder is missing or read-only, or the disk is full. The old file is as it was.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    with _explained(path, folder, size):
        mode = _mode(target)
        _clean(folder, name)
        file, part = _created(folder, name)
        try:
            with file:
                if mode is not None and hasattr(os, "fchmod"):
                    os.fchmod(file.fileno(), mode)
                write(file)
                _flush(file.fileno())
                if os.name == "nt":
                    file.close()  # Windows renames no open file
                _shift(target, keep)
                os.replace(part, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.remove(part)
            raise
    _flush_folder(folder)


def older(path: str, number: int) -> str:
    """The name of the file that was `number` savings before: ``run.safetensors``, ``run.1.safetensors``, ..."""
    start, ending = os.path.splitext(path)
    return f"{start}.{number}{ending}" if number else path


def _shift(target: str, keep: int) -> None:
    """Make room: each file up to the first gap becomes one older, and the oldest goes."""
    kept = next((i for i in range(keep - 1) if not os.path.exists(older(target, i))), keep - 1)
    if kept and os.path.exists(older(target, 1)) and os.path.samefile(target, older(target, 1)):
        return  # a process was killed right behind this
    for number in range(kept, 1, -1):
        os.replace(older(target, number - 1), older(target, number))
    if kept:
        # The file itself gets a second name, so that it is there at every moment.
        link = f"{older(target, 1)}{ENDING}"
        with contextlib.suppress(FileNotFoundError):
            os.remove(link)
        try:
            os.link(target, link)
        except (OSError, AttributeError):  # a file system without links
            os.replace(target, older(target, 1))
        else:
            os.replace(link, older(target, 1))


def _mode(target: str) -> int | None:
    """The permissions of the old file, if there is one."""
    try:
        old = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, "got a folder, needs the name of a file")
    if not stat.S_ISREG(old.st_mode):
        raise OSError(errno.EINVAL, "got a device or pipe, needs the name of a file")
    return stat.S_IMODE(old.st_mode)


def _created(folder: str, name: str) -> tuple[BinaryIO, str]:
    """A new file beside `name`, and its path. It is locked: that tells it from one whose process has ended."""
    while True:
        part = os.path.join(folder, f".{name[:40]}.{secrets.token_hex(4)}{ENDING}")
        file: Any = open(part, "xb", buffering=0)  # noqa: SIM115  (its caller's `with` closes it)
        try:
            if fcntl is not None:
                with contextlib.suppress(OSError):  # file systems without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            if os.name == "nt" or os.fstat(file.fileno()).st_nlink:
                return file, part
        except BaseException:
            file.close()
            raise
        file.close()  # another process took it for a leftover before it was locked


def _clean(folder: str, name: str) -> None:
    """Remove what processes left that were killed while they saved this file."""
    start = f".{name[:40]}."
    for found in os.listdir(folder):
        if found.startswith(start) and found.endswith(ENDING) and len(found) == len(start) + 8 + len(ENDING):
            part = os.path.join(folder, found)
            with contextlib.suppress(OSError):  # in use, or gone; Windows removes no open file
                if fcntl is None:
                    os.remove(part)
                    continue
                with open(part, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.remove(part)


def _flush(descriptor: int) -> None:
    """Have everything written reach the disk."""
    if hasattr(fcntl, "F_FULLFSYNC"):  # macOS: fsync leaves it in the disk's own cache
        with contextlib.suppress(OSError):  # not on every file system
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _flush_folder(folder: str) -> None:
    """Have the renaming reach the disk. Windows opens no folders; there NTFS logs a renaming by itself."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems flush no folders
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path: str, folder: str, size: int) -> Iterator[None]:
    """Say what is wrong, what is needed, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        number = error.errno
        if number is None:  # not the system's: a handler of signals may raise TimeoutError
            raise
        if number in (errno.ENOENT, errno.ENOTDIR) and not os.path.isdir(folder):
            what = f"got a folder {folder!r} that is not there, needs one; os.makedirs makes it"
        elif number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = f"got a full disk ({os.strerror(number)}), needs {size} bytes in {folder!r} beside the old file"
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            what = f"got a folder {folder!r} that cannot be written ({os.strerror(number)}), needs one that can"
        else:
            what = error.strerror or str(error)
        raise OSError(number, f"{path}: {what}; what was saved before is whole") from error
