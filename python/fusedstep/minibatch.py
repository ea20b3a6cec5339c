"""Mini-batches: arrays cut along their examples, shuffled in step."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._arguments import same, whole
from ._restoring import restoring

__all__ = ["minibatches", "random_state", "set_random_state"]

if TYPE_CHECKING:  # numpy.random takes longer to import than the rest of the package
    RandomState: TypeAlias = np.random.Generator | np.random.RandomState


class minibatches:
    """Mini-batches of one or several arrays, in a random order that is the same for all of them.

    Iterating once is one epoch: every example comes exactly once, in batches of `batch_size`, the last one
    smaller where the number of examples does not divide. Iterating again is the next epoch, in a new order.
    The data set itself is neither copied nor changed: each batch is taken from it when its turn comes, as new
    C-contiguous arrays of that batch alone.

    Parameters
    ----------
    *arrays : ndarray
        The data: any number of arrays of any dtype (memory-mapped ones too, masked ones not) with the same number
        of examples.
    batch_size : int, default 64
        Examples per batch, >= 1. With all of them it is batch gradient descent, with 1 stochastic gradient
        descent.
    rng : None, int, numpy.random.Generator or numpy.random.RandomState, default None
        Where the orders come from. An int seeds a generator of this object's own: the same int gives the same
        sequence of epochs. A generator is used as it stands and advanced by one permutation per epoch, so
        several objects that share one draw from it in turn. None: different in every run.
    axis : int or sequence of int, default 0
        The axis of the examples: 0 when examples are rows, 1 when they are columns, -1 for the last; or one
        per array.
    shuffle : bool, default True
        False keeps the order of the data and draws nothing from `rng`.
    drop_last : bool, default False
        True leaves out a last batch that is not full.

    Yields
    ------
    tuple of ndarray
        One batch of every array, also when there is only one array.

    Raises
    ------
    TypeError
        If an array is not a NumPy array or is a masked one, or another argument is of the wrong kind.
    ValueError
        If there is no array, the numbers of examples differ, or an axis does not exist.

    Examples
    --------
    >>> X, Y = np.zeros((12288, 148)), np.zeros((1, 148))  # examples in columns
    >>> batches = minibatches(X, Y, batch_size=64, rng=0, axis=1)
    >>> len(batches)
    3
    >>> [(x.shape, y.shape) for x, y in batches]
    [((12288, 64), (1, 64)), ((12288, 64), (1, 64)), ((12288, 20), (1, 20))]
    """

    def __init__(
        self,
        *arrays: NDArray[Any],
        batch_size: int = 64,
        rng: int | RandomState | None = None,
        axis: int | Sequence[int] = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ) -> None:
        for i, array in enumerate(arrays):
            if not isinstance(array, np.ndarray):
                raise TypeError(f"arrays[{i}]: got {type(array).__name__}, needs a NumPy array; use numpy.asarray")
            if isinstance(array, np.ma.MaskedArray):
                raise TypeError(
                    f"arrays[{i}]: got a masked array, whose mask a batch would not have, needs a plain NumPy array; "
                    "use array.filled(value), or leave masked examples out"
                )
        if not arrays:
            raise ValueError("arrays: got none, needs at least one")
        for name, flag in (("shuffle", shuffle), ("drop_last", drop_last)):
            if not isinstance(flag, (bool, np.bool_)):
                raise TypeError(f"{name}: got {type(flag).__name__}, needs a bool")
        self.arrays = tuple(np.asarray(array) for array in arrays)
        self.axes = _axes(axis, self.arrays)
        self.batch_size = whole("batch_size", batch_size, low=1)
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        counts = [array.shape[a] for array, a in zip(self.arrays, self.axes, strict=True)]
        self.examples: int = counts[0]
        for i, count in enumerate(counts):
            if count != self.examples:
                shape = self.arrays[i].shape
                raise ValueError(
                    f"arrays[{i}]: got {count} examples along axis {self.axes[i]} (shape {shape}), "
                    f"needs {self.examples} as arrays[0] has"
                )
        self._rng = _generator(rng)
        self._begun: Any = None  # the generator's state when the epoch began that is under way
        self._given = 0  # batches of it that were given out
        self._rest: tuple[NDArray[np.intp] | None, int] | None = None  # of a loaded one: its order, what was given out

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        full, rest = divmod(self.examples, self.batch_size)
        return full if rest == 0 or self.drop_last else full + 1

    def __iter__(self) -> Iterator[tuple[NDArray[Any], ...]]:
        """Start an epoch: draw its order now, take its batches one by one."""
        # the order is drawn here and not at the first batch, so epochs are in step with the calls of iter()
        if self._rest is None:
            self._begun = random_state(self._rng) if self.shuffle else None
            self._rest = self._rng.permutation(self.examples) if self.shuffle else None, 0
        (order, self._given), self._rest = self._rest, None
        return self._batches(order, self._given)

    def _batches(self, order: NDArray[np.intp] | None, first: int) -> Iterator[tuple[NDArray[Any], ...]]:
        for i in range(first, len(self)):
            self._given = i + 1
            start = i * self.batch_size
            stop = min(start + self.batch_size, self.examples)
            chosen = np.arange(start, stop) if order is None else order[start:stop]
            yield tuple(_taken(array, chosen, axis) for array, axis in zip(self.arrays, self.axes, strict=True))
        self._begun, self._given = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the epochs are: the generator's state, and how much of the epoch under way was given out.

        Returns
        -------
        dict
            Plain values, and arrays where the generator has some. `load_state_dict` takes it, also in the middle of an
            epoch: the next loop gives the batches that were left.

        Notes
        -----
        One loop at a time counts. The data is not saved.
        """
        return {
            "rng": random_state(self._rng),
            "begun": self._begun,
            "given": self._given,
            "examples": self.examples,
            "batch_size": self.batch_size,
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Continue where `state_dict` was called.

        Raises
        ------
        TypeError, ValueError
            It is of another generator, or of other data or another batch size in the middle of an epoch. Nothing has
            changed.
        """
        if not isinstance(state, Mapping) or set(state) != {"rng", "begun", "given", "examples", "batch_size"}:
            raise ValueError(f"state: got {type(state).__name__}, needs what minibatches.state_dict() returns")
        given = whole('state["given"]', state["given"], high=len(self))
        sizes = tuple(whole(f'state["{name}"]', state[name]) for name in ("examples", "batch_size"))
        if given and sizes != (self.examples, self.batch_size):
            raise ValueError(
                f"state: got an epoch of {sizes[0]} examples in batches of {sizes[1]}, needs {self.examples} in "
                f"batches of {self.batch_size}"
            )
        copied = copy.deepcopy(self._rng)
        order = None
        if given and self.shuffle:
            set_random_state(copied, state["begun"], 'state["begun"]')
            order = copied.permutation(self.examples)
        set_random_state(self._rng, state["rng"], 'state["rng"]')
        self._begun, self._given = (state["begun"], given) if given else (None, 0)
        self._rest = (order, given) if given else None

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = ("batch_size", "shuffle", "drop_last")
        with restoring(self, state, (*names, "arrays", "axes", "_rng", "_begun", "_given", "_rest")):
            options = {name: state[name] for name in names}
            made = minibatches(*state["arrays"], axis=state["axes"], rng=state["_rng"], **options)
            vars(self).update({**state, **vars(made)})
            self._begun, self._given = state["_begun"], whole("_given", state["_given"], high=len(self))
            if state["_rest"] is not None:
                order, given = state["_rest"]
                if order is not None and not np.array_equal(np.sort(order), np.arange(self.examples)):
                    raise ValueError("_rest: got other numbers than those of the examples, needs each once")
                self._rest = order, whole("_rest", given, high=len(self))

    def __repr__(self) -> str:
        return f"<minibatches: {len(self)} of {self.batch_size} out of {self.examples} examples>"


def _axes(axis: object, arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
    given = list(axis) if isinstance(axis, (tuple, list)) else [axis] * len(arrays)
    if len(given) != len(arrays):
        raise ValueError(f"axis: got {len(given)} integers, needs one integer or one per array ({len(arrays)})")
    axes = []
    for i, (value, array) in enumerate(zip(given, arrays, strict=True)):
        number = whole("axis", value, low=-sys.maxsize)
        if not -array.ndim <= number < array.ndim:
            raise ValueError(f"axis: got {number}, needs an axis of arrays[{i}], whose shape is {array.shape}")
        axes.append(number % array.ndim)
    return tuple(axes)


def _taken(array: NDArray[Any], chosen: NDArray[np.intp], axis: int) -> NDArray[Any]:
    if array.flags.c_contiguous and array.flags.aligned:
        return np.take(array, chosen, axis)
    # of any other array, numpy.take copies the whole before it takes a batch
    return np.ascontiguousarray(array[(slice(None),) * axis + (chosen,)])


def _generator(rng: object) -> RandomState:
    if isinstance(rng, (np.random.Generator, np.random.RandomState)):
        return rng
    if rng is None:
        return np.random.default_rng()
    if isinstance(rng, bool) or not isinstance(rng, (int, np.integer)):
        raise TypeError(f"rng: got {type(rng).__name__}, needs None, an integer seed or a NumPy generator")
    return np.random.default_rng(whole("rng", rng, high=None))


def random_state(rng: RandomState) -> dict[str, Any]:
    """The state of a NumPy generator.

    Raises
    ------
    TypeError
        It is none.
    """
    if isinstance(rng, np.random.RandomState):
        state: Any = rng.get_state(legacy=False)
    elif isinstance(rng, np.random.Generator):
        state = rng.bit_generator.state
    else:
        raise TypeError(f"batches: got {type(rng).__name__}, needs fusedstep.minibatches or a NumPy generator")
    return dict(state)


def set_random_state(rng: RandomState, state: Any, name: str) -> None:
    """Put a NumPy generator into a state; nothing changes when it is not accepted.

    Raises
    ------
    TypeError, ValueError
        `state`, called `name`, is none of this kind of generator.
    """
    now = random_state(rng)
    if not isinstance(state, Mapping) or not same(state.get("bit_generator"), now["bit_generator"]):
        got = state.get("bit_generator") if isinstance(state, Mapping) else type(state).__name__
        raise ValueError(f"{name}: got a state of {got!r}, needs one of {now['bit_generator']!r}")
    # NumPy looks up numbers at these places without a check.
    for place, inner, high in (("pos", "state", 624), ("buffer_pos", None, 4)):
        values = state.get(inner) if inner else state
        if isinstance(values, Mapping) and place in values:
            whole(f'{name}["{place}"]', values[place], high=high)
    try:
        for generator in (copy.deepcopy(rng), rng):
            if isinstance(generator, np.random.Generator):
                generator.bit_generator.state = dict(state)
            else:
                generator.set_state(dict(state))
    except Exception as error:  # of any kind, as it comes from what the entries do when they are made numbers
        raise ValueError(f"{name}: got a state that NumPy refuses ({error}), needs one of this generator") from None
