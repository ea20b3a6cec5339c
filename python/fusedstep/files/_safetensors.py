"""The frame of a ``.safetensors`` file: 8 bytes of length, a JSON header, and the arrays with nothing between them.

Written here, not by the package ``safetensors``: that is given the header first, so checksums in it would take another
pass over the arrays, which another thread may change in between; and it flushes nothing to the disk. Its readers, which
read these files, copy arrays or map them, and check no sums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ._arrays import DTYPES, LIMIT, Entry, crc32

__all__ = ["first_crc", "frame", "index_in"]


def first_crc(entry: Entry) -> int:
    """The checksum before an array's own bytes."""
    return 0


def frame(entries: Sequence[Entry], index: bytes) -> list[bytes]:
    """The bytes before each array, and those behind the last."""
    header: dict[str, Any] = {
        "__metadata__": {"checksum": f"{crc32(index):08x}", "fusedstep": index.decode("ascii")},
    }
    end = 0
    for entry in entries:
        begin, end = end, end + entry.nbytes
        header[entry.name] = {
            "dtype": DTYPES[entry.dtype].safetensors,
            "shape": list(entry.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-(len(text) + 8) % 64)  # the arrays begin at a cache line
    if len(text) > LIMIT:
        raise ValueError(f"header: got {len(text)} bytes of names and values, needs at most {LIMIT}")
    return [len(text).to_bytes(8, "little") + text, *[b""] * len(entries)]


def index_in(head: bytes, size: int, more: Any) -> bytes:
    """The index of a file that begins with `head`.

    Parameters
    ----------
    head
        Its first 8 bytes.
    size
        Bytes of the file.
    more
        Reads so many bytes behind them.

    Raises
    ------
    ValueError
        The message lacks the file's name.
    """
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= min(LIMIT, size - 8):
        raise ValueError(f"got {size} bytes that name a header of {length}, needs a .safetensors or .npz file")
    header = json.loads(more(length))
    about = header.get("__metadata__") if isinstance(header, dict) else None
    index = about.get("fusedstep") if isinstance(about, dict) else None
    if not isinstance(index, str) or not index.isascii():
        raise ValueError(
            "got a .safetensors file of another program, needs one saved here; safetensors.numpy.load_file reads others"
        )
    return index.encode("ascii")
