"""An optimizer whose states and steps are shared by several processes: how it is made, and its attributes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._arguments import choice
from .._base import Optimizer, Structure
from .._floats import default_floats
from .._hyper import did_you_mean
from .._step_options import GROUP_OPTIONS, MODEL_OPTIONS
from ..grouping import Grouping
from ..optimizers import SGD
from ..optimizers.numpy_rule import NumPyOptimizer
from ..reference import RULES
from ._alike import parameter_facts
from ._cut import Cut
from ._library import MPI
from ._part import part_class, piece_of
from ._ranks import Ranks
from ._stepping import Stepping

__all__ = ["Sharded"]

Array = NDArray[Any]

_SHARED = frozenset(
    (
        "accumulate_steps",
        "accumulated",
        "defaults",
        "grad_norm",
        "nonfinite_blocks",
        "param_groups",
        "skipped_steps",
        "state",
        "steps_taken",
        "training",
    )
)


class Sharded(Stepping):
    """An optimizer of this package over the processes of an MPI communicator (ZeRO stage 1).

    Every process has all parameters and its own gradients, as in data-parallel training. A step averages the
    gradients, each process steps its share of the elements and keeps the states of that share alone, and everyone gets
    all new parameters. They are, bit for bit, what one process alone would make of the averaged gradients, on any
    number of processes.

    Parameters
    ----------
    optimizer_class
        One of this package's optimizers for NumPy, such as ``fs.AdamW``.
    params
        As for that class, with the same names and shapes in every process. Rank 0's values are copied to all.
    comm
        The processes; by default ``MPI.COMM_WORLD``.
    bucket_bytes
        Gradients travel in buckets of about this many bytes. While one bucket is stepped, the next ones' gradients and
        the last ones' parameters are on their way: 16 MiB of them, but at least two and at most eight buckets.
    grad_dtype
        None sends gradients as they are; ``"bfloat16"`` rounds float32 gradients to bfloat16 first, for half the bytes.
    sum_dtype
        ``"float64"`` or ``"float32"``: in which gradients are added up, in the order of the ranks. float64 gradients
        are always added in float64.
    split
        Whether a parameter may be shared by several processes, cut between blocks of 2,048 elements. False keeps every
        parameter in one process, and shares are as even as the parameters' sizes allow; so does `Muon` always, which
        needs whole matrices.
    timeout
        Seconds after which a rank that does not answer is taken for dead.
    **options
        Arguments of the class.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong kind or value, as the class has it. Nothing has changed.
    RankError
        Another process raised one, or has other parameters or options. Nothing has changed.

    Notes
    -----
    All processes call all methods in the same order. Attributes of the optimizer class (``lr``, ``param_groups``,
    ``max_grad_norm``, ``grad_norm``, ...) are attributes here too; set them alike in every process: a step with
    different ones is a `RankError`. Arrays in ``param_groups`` and ``state`` are this process's pieces. Gradients of
    rows alone (`SparseRows`) are averaged by rows: those of all ranks, where a rank without a row adds nothing.

    Examples
    --------
    >>> import numpy as np
    >>> import fusedstep as fs
    >>> from fusedstep.mpi import Sharded
    >>> params = {"W": np.ones((2, 3), np.float32)}
    >>> opt = Sharded(fs.AdamW, params, lr=0.1)
    >>> opt.step({"W": np.ones((2, 3), np.float32)})
    True
    """

    def __init__(
        self,
        optimizer_class: type[Optimizer],
        params: Structure,
        *,
        comm: MPI.Intracomm | None = None,
        bucket_bytes: int = 1 << 23,
        grad_dtype: str | None = None,
        sum_dtype: str = "float64",
        split: bool = True,
        timeout: float = 600.0,
        **options: Any,
    ) -> None:
        if comm is not None and not isinstance(comm, MPI.Intracomm):
            raise TypeError(f"comm: got {type(comm).__name__}, needs an mpi4py.MPI.Intracomm")
        seconds = float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else 600.0
        self._ranks = ranks = Ranks(MPI.COMM_WORLD if comm is None else comm, seconds)
        self._one = threading.Lock()
        with self._together("Sharded()"):
            if not isinstance(timeout, (int, float)) or not timeout > 0:
                raise ValueError(f"timeout: got {timeout!r}, needs seconds above 0")
            if not isinstance(optimizer_class, type) or not issubclass(optimizer_class, Optimizer):
                raise TypeError(f"optimizer_class: got {optimizer_class!r}, needs an optimizer class such as fs.AdamW")
            if issubclass(optimizer_class, NumPyOptimizer):
                raise TypeError(
                    f"optimizer_class: got {optimizer_class.__name__}, whose rule is in NumPy, needs a class with a "
                    "native one, such as fs.AdamW"
                )
            if RULES[optimizer_class.rule].factored:
                raise TypeError(
                    f"optimizer_class: got {optimizer_class.__name__}, whose states are means over whole "
                    "matrices or blocks, needs one whose states have the parameters' shape, such as fs.AdamW"
                )
            if isinstance(bucket_bytes, bool) or not isinstance(bucket_bytes, (int, np.integer)) or bucket_bytes < 1:
                raise ValueError(f"bucket_bytes: got {bucket_bytes!r}, needs an integer of at least 1")
            if grad_dtype not in (None, "bfloat16"):
                raise ValueError(f'grad_dtype: got {grad_dtype!r}, needs None or "bfloat16"')
            choice("sum_dtype", sum_dtype, ("float64", "float32"))
            if not isinstance(split, bool):
                raise TypeError(f"split: got {split!r}, needs True or False")
            self._how = int(bucket_bytes), grad_dtype, sum_dtype
            self._check_whole(params, {name: options.pop(name) for name in ("grads", "cast_grads") if name in options})
            split = split and not RULES[optimizer_class.rule].matrices
            cut = self._cut = Cut([slot.param.size for slot in self._whole._slots], ranks.size, split)
            slots = self._whole._slots
            self._pieces = [piece_of(s.param, s.path, *cut.piece(ranks.rank, i)) for i, s in enumerate(slots)]
            self._make_traffic()
            self._make_part(optimizer_class, params, options)
            how = f"{bucket_bytes}, {grad_dtype}, {sum_dtype}, {split}"
            self._agree(
                None,
                lambda: [
                    ("number of parameters", str(len(slots))),
                    ("optimizer_class", type(self._part).__name__),
                    ("bucket_bytes, grad_dtype, sum_dtype, split", how),
                    *parameter_facts(slots),
                    *self._options(),
                ],
            )
            for param in self._params:
                ranks.copy_from_first(np.asarray(param).reshape(-1).view(np.uint8))
            with default_floats():
                for slot in self._part._slots:  # what begins at the parameter
                    group = self._part._groups[slot.group]
                    self._part._fill(slot, group, self._part._used(group))

    def _check_whole(self, params: Structure, options: dict[str, Any]) -> None:
        self._grouped = False
        if isinstance(params, Grouping):
            bare: Any = params.structure
        else:
            self._grouped = isinstance(params, (list, tuple)) and bool(params) and all(map(_is_group, params))
            bare = [{"params": group["params"]} for group in params] if self._grouped else params
        # It never steps: it has the structure of the parameters, and checks them and the gradients.
        self._whole = SGD(bare, lr=0.0, **options)
        self._note_whole()

    def _make_part(self, optimizer_class: type[Optimizer], params: Any, options: dict[str, Any]) -> None:
        """This rank's optimizer, of pieces in the groups of the whole."""
        slots = self._whole._slots
        kind = part_class(optimizer_class)
        part = kind.__new__(kind)
        part._pieces = {id(piece.array): piece for piece in self._pieces}
        part._share, part._structure = self._share, params
        given: Any = [piece.array for piece in self._pieces]
        if isinstance(params, Grouping):
            given = Grouping(given, params.members, params.options)
        elif self._grouped:
            groups: list[list[Array]] = [[] for _ in params]
            for slot, piece in zip(slots, self._pieces, strict=True):
                groups[slot.group].append(piece.array)
            given = [{**group, "params": arrays} for group, arrays in zip(params, groups, strict=True)]
        kind.__init__(part, given, **options)
        self._part = part
        self._lengths = [len(group["params"]) for group in given] if self._grouped else [len(slots)]

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "Sharded: got a call that copies or pickles it, needs save() and load(), as its states are on several ranks"
        )

    def _is_shared(self, name: str) -> bool:
        known = (_SHARED, GROUP_OPTIONS, MODEL_OPTIONS, *self._part._groups)
        held = name in vars(self._part) or hasattr(type(self._part), name)  # not evaluated: groups may differ
        return held and any(name in names for names in known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # also of one that is not made yet
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if self._is_shared(name):
            return getattr(self._part, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{did_you_mean(name, dir(self))}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        elif self._is_shared(name):
            setattr(self._part, name, value)
        else:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{did_you_mean(name, dir(self))}")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *filter(self._is_shared, dir(self._part))})

    def __repr__(self) -> str:
        return f"Sharded(rank {self._ranks.rank} of {self._ranks.size}, {self._part!r})"


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value
