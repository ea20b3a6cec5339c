"""A whole training in one file: parameters, optimizer, mini-batches, and what the user adds."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _loading
from ._arguments import overlapping
from ._base import Optimizer
from ._bounds import bounds, overlaps_itself
from ._names import positions
from ._stored import Stored
from ._structures import contents, tree
from .files._reading import Opened
from .files._writing import Saving
from .files._writing import save as write
from .formats import is_bfloat16
from .minibatch import minibatches, random_state, set_random_state

if TYPE_CHECKING:
    from .minibatch import RandomState

__all__ = ["Checkpoint", "Saving", "load", "save"]


class Checkpoint(NamedTuple):
    """What `load` returns: parameters, and what was saved as `extra`."""

    params: Any
    extra: Any


def save(
    path: str | os.PathLike[str],
    params: Any = None,
    optimizer: Optimizer | None = None,
    *,
    batches: minibatches | RandomState | None = None,
    extra: Any = None,
    keep: int = 1,
    background: bool = False,
) -> Saving | None:
    """Save a training to a file, so that it goes on from there with the same bytes.

    The file is there whole or not at all: it is written beside the old one, flushed to the disk and renamed. Every
    byte is under a checksum. There is no pickle in it, and no copy of the states is made.

    Parameters
    ----------
    path
        ``"run.safetensors"``, which the package ``safetensors`` reads as well, or ``"run.npz"``, which ``numpy.load``
        reads. Arrays are called ``params["W1"]`` and ``optimizer["W1"]["exp_avg"]`` there; 16-bit and 8-bit states
        are stored as they are.
    params
        Parameters, as optimizers take them. Keys of dicts are text, numbers, None or tuples of them.
    optimizer
        An optimizer of this package: its states, step counts, options and what its schedules remember.
    batches
        Mini-batches, or a NumPy generator: the epoch goes on behind the batch that was the last.
    extra
        Anything of the user's that is made of dict, list, tuple, None, bool, int, float, str and arrays.
    keep
        How many files are kept: ``run.safetensors``, the one before as ``run.1.safetensors``, and so on.
    background
        Return once all is copied, and let a thread write the copy. One such copy exists at a time: a call waits for
        the file before it.

    Returns
    -------
    Saving or None
        With `background`, an object whose ``result()`` waits until the file is on the disk, and raises what went
        wrong.

    Raises
    ------
    TypeError, ValueError
        Something that files have no place for.
    OSError
        The folder is missing or read-only, or the disk is full. The file that was there is whole.
    RuntimeError
        Another thread is in the middle of a step.

    Examples
    --------
    >>> import tempfile, fusedstep as fs
    >>> params = {"W": np.ones((2, 2), np.float32)}
    >>> opt = fs.Adam(params, lr=0.1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/run.npz", params, opt, extra={"epoch": 3})
    ...     load(f"{folder}/run.npz", params, opt).extra
    {'epoch': 3}
    """
    held: dict[str, Any] = {}
    names: dict[tuple[Any, ...], str] = {}
    with contextlib.ExitStack() as claim:
        if params is not None:
            shape = tree(params, "params")
            for leaf, where in zip(shape.leaves, shape.paths, strict=True):
                if not isinstance(leaf, np.ndarray):
                    raise TypeError(f"params{where}: got {type(leaf).__name__}, needs a NumPy array")
            arrays, places = _plain(params)
            held["params"] = {"names": shape.paths, "arrays": arrays}
            names = {place: f"params{where}" for place, where in zip(places, shape.paths, strict=True)}
            names.setdefault(("params", "arrays"), "params")  # in messages
        if optimizer is not None:
            claim.enter_context(_checked(optimizer)._model.exclusive("save()"))
            held["optimizer"], more = optimizer._for_file()
            names |= more
        if batches is not None:
            held["batches"] = _batches(batches)
        if extra is not None:
            held["extra"] = extra
        if not held:
            raise ValueError("save: got nothing to save, needs params, optimizer, batches or extra")
        return write(path, held, names, keep=keep, background=background)


def load(
    path: str | os.PathLike[str],
    params: Any = None,
    optimizer: Optimizer | None = None,
    *,
    batches: minibatches | RandomState | None = None,
) -> Checkpoint:
    """Load what `save` saved.

    What is given is filled in place, by name. The file is checked as a whole, and against all that is given, before
    anything is changed.

    Parameters
    ----------
    path
        The file.
    params
        Arrays of the names, shapes and dtypes that were saved, each with memory of its own; one array may have several
        names where the same elements were saved for them. With None, the saved ones are made anew, in dicts where they
        were in dataclasses, other mappings or registered classes.
    optimizer
        An optimizer of the same rule over parameters of the same names; see `Optimizer.load_state_dict`.
    batches
        What was given to `save`: mini-batches of the same data and size, or a generator of the same kind.

    Returns
    -------
    Checkpoint
        ``.params``, the given or the new ones (None if none were saved), and ``.extra``.

    Raises
    ------
    OSError
        The file cannot be read. Nothing has changed, unless another program cut it off after the check.
    TypeError, ValueError
        It was not saved here, was cut off or changed, or does not fit. Nothing has changed.
    """
    with Opened(path) as file, contextlib.ExitStack() as undo, file.named():
        extra = file.tree("extra", read=True) if "extra" in file.sections else None
        pairs: list[tuple[Any, Any]] = []
        if params is not None:
            pairs = _pairs(params, file.tree("params"))
        elif "params" in file.sections:
            saved = file.tree("params", read=True)
            if not isinstance(saved, dict) or "arrays" not in saved:
                raise ValueError("params: got a file of another form, needs a name for every array")
            params = saved["arrays"]

        def fill() -> None:
            for target, stored in pairs:
                if isinstance(stored, Stored):
                    stored.read_into(target)
                else:
                    target.view(stored.dtype)[...] = stored

        if batches is not None:
            undo.callback(_set_batches, batches, _batches(batches))
            _set_batches(batches, file.tree("batches", read=True))
        if optimizer is None:
            fill()
        else:
            with _checked(optimizer)._model.exclusive("load()"):
                _loading.load(optimizer, file.tree("optimizer"), fill)
        undo.pop_all()
    return Checkpoint(params, extra)


def _checked(optimizer: Any) -> Optimizer:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"optimizer: got {type(optimizer).__name__}, needs one of fusedstep; those of fusedstep.torch have "
            "save() and load() of their own"
        )
    return optimizer


def _batches(batches: Any) -> dict[str, Any]:
    return batches.state_dict() if isinstance(batches, minibatches) else random_state(batches)


def _set_batches(batches: Any, state: Any) -> None:
    if isinstance(batches, minibatches):
        batches.load_state_dict(state)
    else:
        set_random_state(batches, state, "batches")


def _plain(structure: Any, place: tuple[Any, ...] = ("params", "arrays")) -> tuple[Any, list[tuple[Any, ...]]]:
    """The structure in dicts, lists and tuples, and the places of its arrays in a file's tree."""
    if structure is None or isinstance(structure, np.ndarray):
        return structure, [] if structure is None else [place]
    found = contents(structure)
    entries = [_plain(entry, (*place, key)) for key, entry in found.items()]
    places = [inner for _, more in entries for inner in more]
    if isinstance(structure, (list, tuple)):
        return (tuple if isinstance(structure, tuple) else list)(entry for entry, _ in entries), places
    return {key: entry for key, (entry, _) in zip(found, entries, strict=True)}, places


def _leaves(saved: Any) -> list[Any]:
    """The leaves of a nesting of dicts, lists and tuples, in order."""
    if isinstance(saved, (dict, list, tuple)):
        inner = saved.values() if isinstance(saved, dict) else saved
        return [leaf for entry in inner for leaf in _leaves(entry)]
    return [] if saved is None else [saved]


def _pairs(params: Any, saved: Any) -> list[tuple[Any, Any]]:
    """Each of the given arrays and the saved one of its name, checked."""
    given = tree(params, "params")
    names = saved.get("names") if isinstance(saved, dict) else None
    leaves = _leaves(saved["arrays"]) if isinstance(saved, dict) and "arrays" in saved else []
    if not isinstance(names, list) or len(names) != len(leaves) or not all(isinstance(name, str) for name in names):
        raise ValueError("params: got a file of another form, needs a name for every array")
    found = []
    places = positions(names, given.paths, "params", "those that were saved; without params they are made anew")
    for target, where, place in zip(given.leaves, given.paths, places, strict=True):
        stored = leaves[place]
        if not isinstance(stored, (np.ndarray, Stored)):
            raise ValueError(f"params{where}: got a file with {type(stored).__name__} in its place, needs an array")
        if not isinstance(target, np.ndarray) or hasattr(target, "mask"):
            raise TypeError(f"params{where}: got {type(target).__name__}, needs a NumPy array")
        bfloat16 = is_bfloat16(target.dtype)
        if stored.dtype != (np.dtype("V2") if bfloat16 else target.dtype) or stored.shape != target.shape:
            saved_as = "bfloat16" if stored.dtype == np.dtype("V2") else stored.dtype
            raise ValueError(
                f"params{where}: got {target.dtype} of shape {target.shape}, needs {saved_as} of shape {stored.shape}, "
                "as was saved; load without params and convert"
            )
        if not target.flags.writeable:
            raise ValueError(f"params{where}: got a read-only array, needs a writeable one")
        found.append((target, stored))
    _check_apart(given.paths, found)
    return found


def _check_apart(paths: list[str], pairs: list[tuple[Any, Any]]) -> None:
    """Check that no array is filled over what another one was filled with."""
    before: list[tuple[int, int]] = []  # the ends of arrays that reach to where the next one begins, and their places
    for begin, end, i in sorted((*bounds(target), i) for i, (target, _) in enumerate(pairs) if target.size):
        target, stored = pairs[i]
        if overlaps_itself(target.strides, target.shape, target.itemsize):
            raise ValueError(
                f"params{paths[i]}: got an array whose elements share memory, needs one with memory of its own"
            )
        before = [(other_end, k) for other_end, k in before if other_end > begin]
        for _, k in before:
            other, other_stored = pairs[k]
            tied = (target.strides, target.shape) == (other.strides, other.shape) and begin == bounds(other)[0]
            if np.shares_memory(target, other) and not (tied and _equal(stored, other_stored)):
                first, second = sorted((i, k))
                raise overlapping(f"params{paths[second]}", f"params{paths[first]}")
        before.append((end, i))


def _equal(stored: Any, other: Any) -> bool:
    """Whether the elements of two arrays of one shape, which may be in a file, are the same bytes."""
    piece, stored, other = 2**20, stored.reshape(-1), other.reshape(-1)
    return all(stored[i : i + piece].tobytes() == other[i : i + piece].tobytes() for i in range(0, stored.size, piece))
