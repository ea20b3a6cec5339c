"""Checkpoints of several ranks: a file of each, and an index that says which files belong together."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.typing import NDArray

from .. import formats
from .._names import match
from .._pieces import BLOCK_8BIT
from ..files._replace import replace
from ._part import Part, Piece
from ._ranks import Ranks

__all__ = ["read_part", "write"]

Array = NDArray[Any]
Agree = Callable[[BaseException | None, Callable[[], list[tuple[str, str]]]], None]

INDEX: Final = "index.json"
FORMAT: Final = "fusedstep.mpi checkpoint"
VERSION: Final = 2  # 1 had no mark
PARAM: Final = "param"
ORIGIN: Final = "origin"  # the member that says of which checkpoint and rank a file is
KINDS: Final = {"number": int, "files": list, "params": list, "param_groups": list, "fusedstep": dict}


def write(
    part: Part, pieces: Sequence[Piece], params: Sequence[Array], ranks: Ranks, agree: Agree, folder: str
) -> None:
    """Write a checkpoint (see `Sharded.save`)."""

    def together(work: Callable[[], Any]) -> Any:
        """What `work` returns, unless it fails on some rank."""
        error, result = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        agree(error, lambda: [])
        return result

    first = ranks.rank == 0
    own = part.state_dict()
    number, mark = ranks.exchange(together(lambda: (_next_number(folder), secrets.token_hex(16)) if first else None))[0]
    name = f"{number:08d}.rank-{ranks.rank:05d}-of-{ranks.size:05d}.npz"
    path = os.path.join(folder, name)
    own_runs = [(t, piece.begin, piece.begin + piece.array.size) for t, piece in enumerate(pieces) if piece.array.size]

    def fill() -> int:
        plain: dict[str, Any] = {ORIGIN: np.array(_origin(mark, ranks.rank))}
        for tensor, _, _ in own_runs:
            plain[f"{tensor}.{PARAM}"] = _plain(pieces[tensor].array)
            for key, value in own["state"][part._slots[tensor].number].items():
                if isinstance(value, np.ndarray):
                    plain[f"{tensor}.{key}"] = _plain(value)
        size = sum(array.nbytes for array in plain.values())
        _written(path, size, lambda file: np.savez(file, **plain))
        return os.path.getsize(path)

    try:
        size = together(fill)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(path)
        raise
    files = ranks.exchange({"name": name, "bytes": size, "pieces": own_runs})

    def finish() -> None:
        index = _index(part, params, own, files, number) | {"mark": mark}
        text = json.dumps(index, indent=1, default=_number).encode()
        _written(os.path.join(folder, INDEX), len(text), lambda file: file.write(text))

    together(lambda: finish() if first else None)
    if first:
        _remove_others(folder, {file["name"] for file in files})


def _index(part: Part, params: Sequence[Array], own: dict[str, Any], files: list[Any], number: int) -> dict[str, Any]:
    described = []
    for slot, param in zip(part._slots, params, strict=True):
        state = own["state"][slot.number]
        described.append(
            {
                "number": slot.number,
                "path": slot.path,
                "shape": np.shape(param),
                "dtype": param.dtype.name,
                "arrays": {key: value.dtype.name for key, value in state.items() if isinstance(value, np.ndarray)},
                "numbers": {key: value for key, value in state.items() if not isinstance(value, np.ndarray)},
            }
        )
    kept = {key: own[key] for key in ("param_groups", "fusedstep")}
    return {"format": FORMAT, "version": VERSION, "number": number, "files": files, "params": described, **kept}


def _origin(mark: str, rank: int) -> str:
    return f"{mark} {rank}"


def _number(value: Any) -> Any:
    """NumPy's numbers as Python's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"save: got {type(value).__name__} among the options or in a schedule's state, needs plain numbers")


def _next_number(folder: str) -> int:
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, INDEX)
    return int(_read_index(folder)["number"]) + 1 if os.path.exists(path) else 0


def _written(path: str, size: int, fill: Callable[[BinaryIO], Any]) -> None:
    """Write a file of about so many bytes that is there whole or not at all."""

    def write(file: BinaryIO) -> None:
        buffered = io.BufferedWriter(cast(io.RawIOBase, file))
        fill(buffered)
        buffered.detach()  # flushed; its owner closes it

    replace(path, size, write, keep=1)


def _remove_others(folder: str, kept: set[str]) -> None:
    """Remove the files of earlier checkpoints, and what crashes have left."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = os.listdir(folder)
    for name in names:
        if ".rank-" in name and name not in kept:
            with contextlib.suppress(OSError):
                os.remove(os.path.join(folder, name))


def _plain(array: Array) -> Array:
    """Flat, and bfloat16 as its bits, which every NumPy reads."""
    flat = np.asarray(array).reshape(-1)
    return flat.view(np.uint16) if formats.is_bfloat16(flat.dtype) else flat


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(formats.bfloat16()) if name == "bfloat16" else np.dtype(name)


# ------------------------------------------------------------------------------------------------------------- reading


def _read_index(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, INDEX)
    with open(path, "rb") as file:
        try:
            index = json.load(file)
        except (RecursionError, ValueError) as error:
            raise ValueError(f"{path}: is damaged ({error}), needs the file that save() wrote") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT or index.get("version") not in (1, VERSION):
        raise ValueError(f"{path}: got another format, needs a checkpoint of fusedstep.mpi, version {VERSION} or 1")
    for name, kind in (KINDS | ({"mark": str} if index["version"] > 1 else {})).items():
        if type(index.get(name)) is not kind:
            raise ValueError(f"{path}: is damaged ({name}), needs the file that save() wrote")
    return index


def _check_pieces(places: Any) -> None:
    """Check where an index says that a file's pieces begin and end."""
    for place in places:
        if type(place) is not list or [type(n) for n in place] != [int] * 3 or not 0 <= place[1] <= place[2]:
            raise TypeError(f"got a piece {place!r}")


def read_part(
    part: Part, pieces: Sequence[Piece], params: Sequence[Array], folder: str
) -> tuple[dict[str, Any], list[Array]]:
    """This rank's share of a checkpoint: a state dict, and the values of its pieces of the parameters."""
    index = _read_index(folder)
    try:
        return _read_indexed(part, pieces, params, folder, index)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError) as error:
        raise ValueError(
            f"{os.path.join(folder, INDEX)}: is damaged ({type(error).__name__}: {error}), needs the file that save() "
            "wrote"
        ) from error


def _read_indexed(
    part: Part, pieces: Sequence[Piece], params: Sequence[Array], folder: str, index: dict[str, Any]
) -> tuple[dict[str, Any], list[Array]]:
    saved = {entry["number"]: (tensor, entry) for tensor, entry in enumerate(index["params"])}
    where_saved: dict[int, list[tuple[int, int, int]]] = {}
    for rank, file in enumerate(index["files"]):
        _check_pieces(file["pieces"])
        for tensor, begin, end in file["pieces"]:
            where_saved.setdefault(tensor, []).append((rank, begin, end))
    numbers = match(part._slots, part._names(), index["param_groups"], True)
    states, values = {}, []
    with contextlib.ExitStack() as stack:
        opened: dict[int, Any] = {}

        def member(rank: int, name: str) -> Array:
            if rank not in opened:
                opened[rank] = stack.enter_context(_opened(folder, index["files"][rank]))
                if index["version"] > 1 and str(opened[rank][ORIGIN]) != _origin(index["mark"], rank):
                    raise ValueError("of another checkpoint or rank")
            array: Array = opened[rank][name]
            return array

        for number, piece, param in zip(numbers, pieces, params, strict=True):
            tensor, entry = saved[number]
            if tuple(entry["shape"]) != np.shape(param) or entry["dtype"] != param.dtype.name:
                raise ValueError(
                    f"{os.path.join(folder, INDEX)}: has {entry['dtype']} of shape {tuple(entry['shape'])}, needs "
                    f"{param.dtype.name} of shape {np.shape(param)}, as params{piece.path} has"
                )
            found = {}
            for key, dtype in {**entry["arrays"], PARAM: entry["dtype"]}.items():
                found[key] = _assembled(piece, f"{tensor}.{key}", dtype, where_saved.get(tensor, []), member, folder)
            values.append(found.pop(PARAM))
            shaped = {k: a if k.endswith("_scales") else a.reshape(piece.array.shape) for k, a in found.items()}
            states[number] = {**entry["numbers"], **shaped}
    return {"state": states, "param_groups": index["param_groups"], "fusedstep": index["fusedstep"]}, values


def _assembled(
    piece: Piece,
    name: str,
    dtype: str,
    where: Sequence[tuple[int, int, int]],
    member: Callable[[int, str], Array],
    folder: str,
) -> Array:
    """A piece of one array, of the saved pieces that it overlaps."""
    unit = BLOCK_8BIT if name.endswith("_scales") else 1
    first, last = piece.begin, piece.begin + piece.array.size
    made = np.empty(-(-piece.array.size // unit), _dtype(dtype))
    bits = _plain(made)
    there = first
    for rank, begin, end in sorted(where, key=lambda run: run[1:]):
        low, high = max(first, begin), min(last, end)
        if low >= high:
            continue
        if low != there or (low - begin) % unit:
            break
        try:
            array = member(rank, name)
            if (array.shape, array.dtype.newbyteorder("=")) != ((-(-(end - begin) // unit),), bits.dtype):
                raise ValueError(f"{name}: got {array.dtype} of shape {array.shape}")
            part = array[(low - begin) // unit : -(-(high - begin) // unit)]
            bits[(low - first) // unit : -(-(high - first) // unit)] = part
        except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, NotImplementedError) as error:
            raise ValueError(
                f"{folder}: the file of rank {rank} is damaged ({error}), needs those that save() wrote"
            ) from error
        there = high
    if there != last:
        raise ValueError(f"{folder}: got an index without all of {name!r}, needs an undamaged one")
    return made


@contextlib.contextmanager
def _opened(folder: str, file: dict[str, Any]) -> Iterator[Any]:
    path = os.path.join(folder, os.path.basename(file["name"]))
    size = os.path.getsize(path)
    if size != file["bytes"]:
        raise ValueError(f"{path}: got {size} bytes, needs {file['bytes']}")
    if not zipfile.is_zipfile(path):
        raise ValueError("got another kind of file")
    with np.load(path, allow_pickle=False) as loaded:
        if any(member.file_size > size for member in loaded.zip.infolist()):
            raise ValueError("got members larger than the file")
        yield loaded
