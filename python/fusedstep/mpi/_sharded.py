"""An optimizer whose states and steps are shared by several processes."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._arguments import choice
from .._base import Optimizer, Structure
from .._core import Model
from .._floats import default_floats
from .._hyper import did_you_mean
from .._rows import check_row_gradient
from .._step_options import GROUP_OPTIONS, MODEL_OPTIONS
from ..grouping import Grouping
from ..optimizers import SGD
from ..optimizers.numpy_rule import NumPyOptimizer
from ..reference import RULES
from ..sparse import SparseRows
from ._cut import Cut
from ._growing import Growing
from ._library import MPI
from ._part import part_class, piece_of
from ._ranks import Ranks

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


class Sharded(Growing):
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
        Gradients travel in buckets of about this many bytes. While one bucket is stepped, the next one's gradients and
        the last one's parameters are on their way.
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
            self._agree(None, lambda: self._description(f"{bucket_bytes}, {grad_dtype}, {sum_dtype}, {split}"))
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

    def _share(self, model: Model, around: list[tuple[int, int]]) -> None:
        if len(around) == len(self._params):
            model.share_tensors(around, self._ends, self._begin, self._receive, self._ranks.sum, self._traffic.send)

    # ---- steps ----

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Average the gradients of all ranks and take one step, in place, on all of them.

        Parameters
        ----------
        grads
            This rank's gradients (see `Optimizer.step`); None for a parameter on all ranks or on none. With no
            argument, the gradients that were bound when the optimizer was made.
        grad_scale
            Averaged gradients are divided by it; the same on all ranks.

        Returns
        -------
        bool
            True when the step was taken, False when `skip_nonfinite` skipped it: the same on all ranks.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As one process raises them. Nothing has changed on any rank.
        RankError
            Another rank raised an error, or its options or gradients' dtypes are others. Nothing has changed on any
            rank.
        LostRankError
            Another rank did not answer in time.
        """
        with self._together("step()"):
            self._grad_scale = grad_scale
            whole = self._whole
            given = whole._grads if grads is None else grads
            if given is None:
                raise ValueError(
                    "grads: got None, needs the gradients; only an optimizer that was made with grads= can step "
                    "without them"
                )
            with whole._model.exclusive("step()", step=True):
                leaves = whole._tree.flatten(given, "grads")
            zero = self._part.zero_grads  # a schedule or another thread may set it meanwhile
            if whole._casts is not None:
                return whole._casts.run(leaves, zero, lambda flat: self._step(flat, grad_scale, zero), whole._model)
            return self._step(leaves, grad_scale, zero)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "Sharded: got a call that copies or pickles it, needs save() and load(), as its states are on several ranks"
        )

    def _step(self, leaves: list[Array | None], grad_scale: float, zero_grads: bool) -> bool:
        whole, part = self._whole, self._part
        self._summing = part.accumulate_steps > 1
        none: list[None] = [None] * len(leaves)
        # Row gradients as they are now: another thread may give them other arrays or indices meanwhile.
        every: list[Any] = [_kept(grad) if isinstance(grad, SparseRows) else grad for grad in leaves]
        rows = {i: grad for i, grad in enumerate(every) if isinstance(grad, SparseRows)}
        self._dense = [None if i in rows else grad for i, grad in enumerate(leaves)]
        whole._settings["zero_grads"] = zero_grads
        whole._configure()
        try:
            whole._model.bind(self._flat, self._dense)  # checks the gradients
            for tensor, grad in rows.items():
                self._check_rows(tensor, grad)
            whole._model.step_list(none, 1.0)  # checks that the parameters are where they were
            self._stepping, part._told = every, {}
            # A rank without elements of a tensor counts its steps too.
            flat: list[Any] = [None if grad is None else mine for grad, mine in zip(leaves, self._reduced, strict=True)]
            if rows:
                self._agree(None, self._facts)
                for tensor, grad in rows.items():
                    flat[tensor] = self._rows.receive(tensor, grad, whole._slots[tensor].compute)
                self._agreed = False  # the step itself may still fail
            given: Any = flat
            if part._grouped:
                leaf = iter(flat)
                given = [[next(leaf) for _ in range(length)] for length in self._lengths]
            if self._summing:
                self._exchange()
            taken = part.step(given, grad_scale=grad_scale)
            if not self._agreed:  # there was no native step, as gradients are still being summed up
                self._agree(None, lambda: [])
            if taken:
                self._rows.send()
        except BaseException as error:
            self._spread(error)
            raise
        finally:
            whole._model.bind(self._flat, none)  # lets go of the gradients
            self._stepping, self._dense, part._told = [], [], None
            self._rows.forget()
            if self._agreed and self._ranks.lost is None:
                self._traffic.finish()
        if (taken or self._summing) and zero_grads:
            for grad_ in every:
                if grad_ is not None:
                    (grad_.values if isinstance(grad_, SparseRows) else grad_)[...] = 0
        return taken

    def _check_rows(self, tensor: int, grad: SparseRows) -> None:
        """Check a gradient of rows before anything is sent."""
        slot, part = self._whole._slots[tensor], self._part
        if part.accumulate_steps > 1:
            raise TypeError(
                f"grads{slot.path}: got SparseRows with accumulate_steps={part.accumulate_steps}, needs an array"
            )
        for name in ("max_grad_norm", "skip_nonfinite"):
            if getattr(part, name):
                raise ValueError(f"{name}: got {getattr(part, name)!r} and SparseRows on several ranks, needs arrays")
        group = part._groups[slot.group]
        rule = RULES[part._rule_of(group)]
        options = {n: part._now(group[n]) for n in rule.hypers} | {n: group[n] for n in ("rounding", "ema_decay")}
        kept = [("params" + slot.path, slot.param), *part._slots[tensor].items()]
        check_row_gradient(
            rule, options, grad, "grads" + slot.path, slot.param, None, kept, bool(part._settings["zero_grads"])
        )

    def _begin(self) -> None:
        """Called by the native step when nothing is left that could fail on this rank alone."""
        if self._summing:
            self._agree(None, self._options)
            return
        self._agree(None, self._facts)
        self._traffic.start(self._dense, [grad is not None for grad in self._dense])

    def _receive(self, bucket: int) -> None:
        if not self._summing:
            self._traffic.receive(bucket)

    def _exchange(self) -> None:
        """With `accumulate_steps` gradients are averaged over the ranks first, and then added up by their owners."""
        self._agree(None, self._facts)
        received = self._part._summed.received
        self._traffic.start(self._dense, [g is not None or i in received for i, g in enumerate(self._stepping)])
        for bucket in range(len(self._traffic.buckets)):
            self._traffic.receive(bucket)
        self._agreed = False  # the step itself may still fail

    def _facts(self) -> list[tuple[str, str]]:
        """What must be the same on all ranks in a step."""
        found = [
            (f"grads{slot.path}", _described(grad))
            for slot, grad in zip(self._whole._slots, self._stepping, strict=True)
        ]
        return [*found, ("grad_scale", repr(self._grad_scale)), *self._options()]

    def _options(self) -> list[tuple[str, str]]:
        found = [
            (f'param_groups[{i}]["{name}"]', self._part.described(value))
            for i, group in enumerate(self._part._groups)
            for name, value in group.items()
            if name != "params"
        ]
        summed = ("accumulate_steps", f"{self._part.accumulate_steps} with {self._part.accumulated} summed")
        return [*found, summed, *((name, repr(value)) for name, value in self._part._settings.items())]

    def _description(self, how: str) -> list[tuple[str, str]]:
        """What must be the same on all ranks when an optimizer is made."""
        params = [
            (f"params{piece.path}", f"{param.dtype.name} of shape {shape}")
            for piece, param, shape in zip(self._pieces, self._params, self._shapes, strict=True)
        ]
        return [
            ("number of parameters", str(len(params))),
            ("optimizer_class", type(self._part).__name__),
            ("bucket_bytes, grad_dtype, sum_dtype, split", how),
            *params,
            *self._options(),
        ]

    # ---- attributes of the optimizer class ----

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


def _kept(grad: SparseRows) -> SparseRows:
    indices = grad.indices
    return SparseRows(indices.copy() if isinstance(indices, np.ndarray) else indices, grad.values)


def _described(grad: Any) -> str:
    if isinstance(grad, SparseRows):
        return f"SparseRows of dtype {grad.values.dtype.name}"
    return "None" if grad is None else f"dtype {grad.dtype.name}"


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value
