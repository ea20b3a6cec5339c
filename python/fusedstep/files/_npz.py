"""The frame of an ``.npz`` file: a ZIP archive of stored ``.npy`` members, the first of which holds the index.

``numpy.load`` reads it, and needs no pickle. Members have no compression: moments hardly shrink, and a step would wait.
The format is PKWARE's APPNOTE.TXT 6.3, sections 4.3 and 4.5.3 (ZIP64, where sizes need it).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ._arrays import DTYPES, LIMIT, Entry, crc32

__all__ = ["MAGIC", "first_crc", "frame", "index_in"]

MAGIC = b"PK\3\4"
INDEX = "fusedstep"
UTF8, DATE = 1 << 11, 0x21  # names are UTF-8; 1980-01-01, so that equal states give equal files
FULL = 0xFFFFFFFF  # "see the ZIP64 field"
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")


def first_crc(entry: Entry) -> int:
    """The checksum before an array's own bytes: that of the header of its .npy."""
    return crc32(_npy(entry))


def frame(entries: Sequence[Entry], index: bytes) -> list[bytes]:
    """The bytes before each array, and those behind the last."""
    if len(index) > LIMIT:
        raise ValueError(f"header: got {len(index)} bytes of names and values, needs at most {LIMIT}")
    first = Entry(INDEX, "uint8", (len(index),))
    members = [first._replace(crc=crc32(index, first_crc(first))), *entries]
    pieces, directory, offset = [], [], 0
    for member in members:
        name, npy = f"{member.name}.npy".encode(), _npy(member)
        if len(name) > 0xFFFF:
            raise ValueError(f"{member.name[:60]}...: got a name of {len(name)} bytes, needs at most 65535 in .npz")
        size = len(npy) + member.nbytes
        extra = struct.pack("<2H2Q", 1, 16, size, size) if size >= FULL else b""
        short = min(size, FULL)
        common = (UTF8, 0, 0, DATE, member.crc, short, short, len(name))
        pieces.append(LOCAL.pack(MAGIC, _needed(extra), *common, len(extra)) + name + extra + npy)
        if offset >= FULL:
            extra = struct.pack("<2H", 1, 8 + len(extra[4:])) + extra[4:] + struct.pack("<Q", offset)
        needed = _needed(extra)
        rest = (len(extra), 0, 0, 0, 0, min(offset, FULL))
        directory.append(CENTRAL.pack(b"PK\1\2", needed, needed, *common, *rest) + name + extra)
        offset += len(pieces[-1]) + member.nbytes
    # The index, being small, is part of the frame.
    before = [pieces[0] + index + pieces[1], *pieces[2:]] if entries else []
    listing = b"".join(directory)
    ending = listing + _end(len(members), len(listing), offset)
    return [*before, ending] if entries else [pieces[0] + index + ending]


def index_in(head: bytes, size: int, more: Any) -> bytes:
    """The index of a file that begins with `head`; see `_safetensors.index_in`."""
    start = head + more(LOCAL.size - len(head))
    if len(start) < LOCAL.size:
        raise ValueError(f"got {size} bytes, needs a whole .npz file")
    *_, length, _, name, extra = LOCAL.unpack(start)
    if more(name) != f"{INDEX}.npy".encode() or extra:
        raise ValueError("got an .npz file of another program, needs one saved here; numpy.load reads others")
    if not 64 <= length <= min(LIMIT + 128, size):
        raise ValueError(f"got an index of {length} bytes in {size}, needs a whole .npz file")
    member: bytes = more(length)
    return member[10 + int.from_bytes(member[8:10], "little") :]


def _needed(extra: bytes) -> int:
    """The version of the format that a member needs."""
    return 45 if extra else 20


def _npy(entry: Entry) -> bytes:
    """The header of a .npy file, version 1.0 (numpy.lib.format)."""
    shape = ", ".join(map(str, entry.shape)) + "," * (len(entry.shape) == 1)
    text = f"{{'descr': '{DTYPES[entry.dtype].npy}', 'fortran_order': False, 'shape': ({shape}), }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text


def _end(count: int, size: int, offset: int) -> bytes:
    """The end of the archive, behind the directory of `size` bytes at `offset`."""
    large = b""
    if count >= 0xFFFF or size >= FULL or offset >= FULL:
        large = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
        large += struct.pack("<4sIQI", b"PK\6\7", 0, offset + size, 1)
    few = min(count, 0xFFFF)
    return large + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, few, few, min(size, FULL), min(offset, FULL), 0)
