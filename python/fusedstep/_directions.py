"""The directions of rules of matrices: memory for them, and what becomes of them in the middle of a step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._floats import default_floats
from ._hyper import check_hyper
from .reference._newton_schulz import check_matrices, lr_factor, newton_schulz

__all__ = ["Directions", "Matrices", "NumPyDirections"]

A = TypeVar("A")  # an array of the library whose matrix product is used


@dataclass(frozen=True)
class Matrices:
    """A parameter that is one matrix or a batch of them.

    Attributes
    ----------
    index
        Its number in the native model.
    group
        Number of its parameter group.
    count, rows, columns
        How many matrices it is, and their shape.
    dtype
        Of its direction.
    turned
        Whether it is the transpose that lies in memory row by row: `rows` are the parameter's columns.
    shared
        Whether several processes have parts of it, so that it has no memory for the whole.
    total
        How many matrices the parameter is, where these are some of them.
    """

    index: int
    group: int
    count: int
    rows: int
    columns: int
    dtype: Any
    turned: bool = False
    shared: bool = False
    total: int = 0

    @property
    def stacked(self) -> bool:
        """Whether the parameter is several matrices, of which each is divided by a norm of its own."""
        return max(self.count, self.total) > 1

    @property
    def kind(self) -> tuple[Any, ...]:
        """Those of one kind are worked on together."""
        return self.group, self.rows, self.columns, self.dtype, self.stacked, self.turned, self.shared

    @staticmethod
    def of(index: int, group: int, param: NDArray[Any], reshape: str | None, where: str) -> Matrices:
        """What a parameter is; ValueError if no matrix."""
        dtype = np.dtype(np.float64 if param.dtype == np.float64 else np.float32)
        return Matrices(index, group, *check_matrices(param.shape, reshape, where), dtype)


@dataclass
class Block(Generic[A]):
    """All matrices of one group, shape and dtype, one after the other."""

    memory: A  # of shape [k, rows, columns]
    members: list[Matrices] = field(default_factory=list)

    def runs(self, norms: Mapping[int, float]) -> Iterator[tuple[int, list[Matrices]]]:
        """Members that take part in a step, neighbours together, and where the first of them begins."""
        start, begin, run = 0, 0, list[Matrices]()
        for member in self.members:
            if member.index in norms:
                begin = begin if run else start
                run.append(member)
            elif run:
                yield begin, run
                run = []
            start += member.count
        if run:
            yield begin, run


class Directions(Generic[A]):
    """Directions of all matrices of a model, and the Newton-Schulz iterations on them.

    The native step writes a direction here, calls this object, and reads what has become of it. Equal matrices are
    worked on together. All memory is kept from step to step.

    Parameters
    ----------
    matrices
        Those of the model.
    options
        Returns the options of a parameter group, by its number.
    where
        A format string that gives an option of a group its name in messages.
    """

    together: ClassVar[int] = 1 << 22
    """Elements of the matrices that are worked on together, if not one alone has more."""

    def __init__(
        self, matrices: Iterable[Matrices], options: Callable[[int], Mapping[str, Any]], where: str = "{1}"
    ) -> None:
        self._options = options
        self._where = where
        members: dict[tuple[Any, ...], list[Matrices]] = defaultdict(list)
        for one in matrices:
            members[one.kind].append(one)
        self._groups = sorted({group for group, *_ in members})
        self._blocks: list[Block[A]] = []
        self._memory: dict[int, A] = {}
        sizes: dict[Any, list[int]] = defaultdict(lambda: [0, 0])
        for (_, rows, columns, dtype, *_), found in members.items():
            count = sum(one.count for one in found)
            together, small = min(count, self._together(rows, columns)), min(rows, columns)
            size = sizes[dtype]
            size[:] = max(size[0], together * rows * columns), max(size[1], together * small * small)
            if found[0].shared:
                continue
            block = Block(self._empty((count, rows, columns), dtype), found)
            self._blocks.append(block)
            start = 0
            for one in found:
                self._memory[one.index] = block.memory[start : start + one.count]  # type: ignore[index]
                start += one.count
        self._work: dict[Any, tuple[A, ...]] = {
            dtype: (self._empty((wide,), dtype), self._empty((2, narrow), dtype))
            for dtype, (wide, narrow) in sizes.items()
        }

    def of(self, index: int, shape: tuple[int, ...]) -> A | None:
        """The memory of a parameter's direction in its shape; None if it is no matrix."""
        found: Any = self._memory.get(index)
        return None if found is None else found.reshape(shape)

    @property
    def arrays(self) -> list[A]:
        """All memory that is held."""
        work = [array for pair in self._work.values() for array in pair]
        return [block.memory for block in self._blocks] + work

    def _together(self, rows: int, columns: int) -> int:
        """How many matrices of a shape are worked on together."""
        return max(1, self.together // max(1, rows * columns))

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> A:
        raise NotImplementedError

    def _iterate(
        self,
        matrices: A,
        work: tuple[A, A, A],
        factor: float,
        lowest: NDArray[np.float64] | None,
        steps: int,
        coefficients: tuple[float, float, float],
    ) -> None:
        """Newton-Schulz in place (see `newton_schulz`)."""
        raise NotImplementedError

    @default_floats()
    def __call__(self, active: list[tuple[int, float]]) -> None:
        """Make the directions of these parameters orthogonal.

        Parameters
        ----------
        active
            Numbers of the parameters that take part in the step, and the norms their directions had.
        """
        norms, checked = dict(active), self._checked()
        for block in self._blocks:
            for start, run in block.runs(norms):
                self._orthogonalize(block.memory, start, run, norms, checked[run[0].group])

    def _checked(self) -> dict[int, dict[str, Any]]:
        """The options of every group, checked."""
        return {
            group: {
                name: check_hyper(name, value, self._where.format(group, name), rule="muon")
                for name, value in self._options(group).items()
            }
            for group in self._groups
        }

    def _orthogonalize(
        self, memory: Any, start: int, run: list[Matrices], norms: Mapping[int, float], options: Mapping[str, Any]
    ) -> None:
        rows, columns, eps = run[0].rows, run[0].columns, options["eps"]
        together, small = self._together(rows, columns), min(rows, columns)
        count, lowest = sum(one.count for one in run), None
        if run[0].stacked:
            each = [eps / max(norms[one.index], eps) for one in run]
            lowest = np.repeat(each, [one.count for one in run])
        wide, narrow, *_ = self._work[run[0].dtype]
        for first in range(0, count, together):
            n = min(together, count - first)
            other: Any = wide[: n * rows * columns]  # type: ignore[index]
            grams: Any = narrow[:, : n * small * small]  # type: ignore[index]
            gram, poly = grams[0].reshape(n, small, small), grams[1].reshape(n, small, small)
            self._iterate(
                memory[start + first : start + first + n],
                (other.reshape(n, rows, columns), gram, poly),
                lr_factor(options["adjust_lr_fn"], *((columns, rows) if run[0].turned else (rows, columns))),
                None if lowest is None else lowest[first : first + n],
                options["ns_steps"],
                options["ns_coefficients"],
            )


class NumPyDirections(Directions[NDArray[Any]]):
    """Directions as NumPy's arrays, with its matrix product."""

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return np.empty(shape, dtype)

    def _iterate(
        self,
        matrices: NDArray[Any],
        work: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
        factor: float,
        lowest: NDArray[np.float64] | None,
        steps: int,
        coefficients: tuple[float, float, float],
    ) -> None:
        newton_schulz(matrices, steps=steps, coefficients=coefficients, factor=factor, lowest=lowest, work=work)
