"""The optimizer that every rule's class is: parameter groups, states, steps, saving and loading."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from . import _saving, formats
from ._core import Model, Tree
from ._hyper import check_hyper, check_hypers
from ._rows import check_row_gradient
from ._settings import MODEL_OPTIONS, Settings, check_settings
from ._slots import STATE_FORMATS, Slot, StateView, gather, store_values
from .reference import RULES
from .sparse import SparseRows

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Number", "Optimizer", "Options"]

Array = NDArray[Any]
Number: TypeAlias = float | Callable[[int], float]  # a hyper-parameter: its value, or a schedule of the steps completed
Structure = Any  # an array, or any nesting of dict, list and tuple of arrays

MASTERS = (None, "float32", "split")
ROUNDINGS = ("nearest", "stochastic")


class Options(TypedDict, total=False):
    """Options that every optimizer takes by keyword (see `Optimizer`)."""

    grads: Structure
    maximize: bool
    state_format: Literal["float32", "bfloat16", "8bit"]
    min_quantized_size: int
    master: Literal["float32", "split"] | None
    rounding: Literal["nearest", "stochastic"]
    max_grad_norm: float | None
    clip_value: float | None
    skip_nonfinite: bool
    ema_decay: float | None
    zero_grads: bool
    seed: int


# Options that a parameter group may have for itself, and those of the whole optimizer.
GROUP_OPTIONS: dict[str, Any] = {
    "maximize": False,
    "clip_value": None,
    "ema_decay": None,
    "state_format": "float32",
    "min_quantized_size": 4096,
    "master": None,
    "rounding": "nearest",
}


class Optimizer(Settings):
    """What all optimizers share; make one of its subclasses.

    Parameters
    ----------
    params
        The parameters, changed in place by every step: a C-contiguous array of float32, float64, float16 or
        bfloat16 (``ml_dtypes``), or any nesting of dict, list and tuple of them; or a list of parameter groups,
        ``[{"params": ..., "lr": 1e-4}, {"params": ...}]``, each with options of its own.
    defaults
        Hyper-parameters of the rule, for groups that do not give theirs.
    grads
        Gradients bound once, of the structure of `params`; then ``step()`` takes no argument. Fill the same arrays
        before each step.
    maximize
        Ascend instead of descend.
    state_format
        How states are stored: ``"float32"`` (float64 for float64 parameters), ``"bfloat16"`` or ``"8bit"``.
    min_quantized_size
        Parameters of fewer elements keep their states in the compute type whatever `state_format` says.
    master
        For 16-bit parameters: ``"float32"`` keeps a float32 copy that is the truth, ``"split"`` (bfloat16) a 16-bit
        remainder that restores the float32 value exactly, None neither.
    rounding
        How 16-bit parameters without a master are rounded, ``"nearest"`` or ``"stochastic"``.
    max_grad_norm
        The gradients of the whole model together are scaled down to this norm.
    clip_value
        Every gradient element is cut off at plus and minus this value, after the scaling.
    skip_nonfinite
        A step whose gradients hold an infinity or NaN changes nothing and counts in `skipped_steps`.
    ema_decay
        Keeps an exponential moving average of the parameters, with this weight of the old average.
    zero_grads
        Set the gradients to zero in the same pass.
    seed
        Of the noise of stochastic rounding.

    Notes
    -----
    A hyper-parameter may be a callable of the number of steps completed, a schedule: ``lr=lambda t: 0.1 / (t + 1)``.

    Raises
    ------
    TypeError
        An argument of the wrong kind or dtype.
    ValueError
        A wrong value, shape or layout, or arrays that overlap in memory. Nothing has changed.
    """

    rule: ClassVar[str]
    """Name of the update rule."""

    param_groups: list[dict[str, Any]]
    """One dict per group: ``"params"`` and its hyper-parameters, which may be changed between steps."""

    _model: Model

    def __init__(self, params: Structure, defaults: dict[str, Any], options: Options) -> None:
        given: dict[str, Any] = dict(options)
        grads = given.pop("grads", None)
        unknown = sorted(given.keys() - GROUP_OPTIONS.keys() - MODEL_OPTIONS.keys())
        if unknown:
            raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {unknown[0]!r}")
        self.defaults = defaults | {name: given.get(name, value) for name, value in GROUP_OPTIONS.items()}
        _check_group(self.rule, self.defaults, "{}")
        self._settings = check_settings({name: given.get(name, value) for name, value in MODEL_OPTIONS.items()})

        grouped = isinstance(params, (list, tuple)) and bool(params) and all(_is_group(p) for p in params)
        self._grouped = grouped
        self.param_groups = []
        self.skipped_steps = 0
        self._slots: list[Slot] = []
        for group in params if grouped else [{"params": params}]:
            self._append_group(group)
        self._grads = grads
        self._build()

    # ---- making the native model ----

    def _append_group(self, given: Mapping[str, Any]) -> None:
        number = len(self.param_groups)
        unknown = sorted(given.keys() - self.defaults.keys() - {"params"})
        if unknown:
            raise ValueError(f"param_groups[{number}] has an unknown option {unknown[0]!r}")
        group = {"params": given["params"]} | self.defaults | {k: v for k, v in given.items() if k != "params"}
        _check_group(self.rule, group, f'param_groups[{number}]["{{}}"]')
        where = f'params[{number}]["params"]' if self._grouped else "params"
        tree = Tree(given["params"], where)
        if not tree.leaves:
            raise ValueError(f"{where}: holds no arrays, needs at least one")
        slots = []
        for leaf, path in zip(tree.leaves, tree.paths, strict=True):
            slots.append(self._make_slot(leaf, where + path, number, group))
        gather(slots)
        self.param_groups.append(group)
        self._slots.extend(slots)

    def _make_slot(self, param: Any, where: str, number: int, group: dict[str, Any]) -> Slot:
        if not isinstance(param, np.ndarray):
            raise TypeError(f"{where}: got {type(param).__name__}, needs a NumPy array")
        if param.dtype not in (np.float32, np.float64, np.float16) and not formats.is_bfloat16(param.dtype):
            raise TypeError(
                f"{where}: got dtype {param.dtype}, needs float32, float64, float16 or bfloat16 (ml_dtypes) in this "
                "machine's byte order; array.astype(numpy.float32) converts"
            )
        path = f"[{number}]" * self._grouped + where.partition('["params"]' if self._grouped else "params")[2]
        slot = Slot(param, path, number)
        brief = param.dtype == np.float16 or formats.is_bfloat16(param.dtype)
        if group["master"] is not None and not brief:
            raise TypeError(
                f"{where}: got {param.dtype} with master={group['master']!r}, needs "
                + ("bfloat16" if group["master"] == "split" else "float16 or bfloat16")
            )
        if group["master"] == "split" and not formats.is_bfloat16(param.dtype):
            raise TypeError(f"{where}: got {param.dtype} with master='split', needs bfloat16")
        if group["master"] == "float32":
            slot.master = param.astype(np.float32)
        elif group["master"] == "split":
            slot.master = np.zeros(param.shape, dtype=np.int16)
        small = param.size < group["min_quantized_size"]
        about = RULES[self.rule]
        for state in about.used({name: group[name] for name in about.hypers}):
            values = self._initial_state(state.name, slot, group)
            if values is None:
                values = np.zeros(param.shape, dtype=slot.compute)
            slot.states[state.name] = store_values(values, state.kind, group["state_format"], slot.compute, small)
        if group["ema_decay"] is not None:
            slot.ema = param.astype(slot.compute)
        return slot

    def _initial_state(self, name: str, slot: Slot, group: dict[str, Any]) -> Array | None:
        """The first values of a state, for rules that do not start from zeros."""
        return None

    def _initial_scalars(self, group: dict[str, Any]) -> list[float]:
        """The first values of the rule's scalar states."""
        return []

    def _build(self, steps: list[int] | None = None, scalars: list[list[float]] | None = None) -> None:
        """Make the native model from the groups and slots."""
        this = weakref.ref(self)  # the model must not keep its optimizer alive

        def check(group: int, name: str, value: Any) -> Any:
            optimizer = this()
            assert optimizer is not None
            return check_hyper(name, optimizer._now(value), f'param_groups[{group}]["{name}"]', rule=optimizer.rule)

        def cross_check(group: int) -> None:
            optimizer = this()
            assert optimizer is not None
            optimizer._check_together(group)

        def rows(index: int, grad: Any) -> Any:
            optimizer = this()
            assert optimizer is not None
            return optimizer._check_rows(index, grad)

        model = Model(self.rule, check, cross_check)
        model.take_rows(rows, SparseRows, RULES[self.rule].rows_without)
        for group in self.param_groups:
            model.add_group(group)
        about = RULES[self.rule]
        for i, slot in enumerate(self._slots):
            group = self.param_groups[slot.group]
            whole = slot.master is not None and not slot.split
            model.add(
                slot.group,
                slot.master if whole else slot.param,
                [slot.states.get(state.name) for state in about.states],
                path=slot.path,
                copy=slot.param if whole else None,
                remainder=slot.master if slot.split else None,
                stochastic=group["rounding"] == "stochastic" and slot.master is None,
                ema=slot.ema,
                step=steps[i] if steps else 0,
                scalars=scalars[i] if scalars else self._initial_scalars(group),
            )
        model.finish()
        structures = [group["params"] for group in self.param_groups]
        self._tree = Tree(structures if self._grouped else structures[0], "params")
        self._model = model
        self._configure()
        if self._grads is not None:
            model.bind(self._tree, self._grads)

    def _check_rows(self, index: int, grad: Any) -> Any:
        slot = self._slots[index]
        group = self.param_groups[slot.group]
        about = RULES[self.rule]
        options = {n: self._now(group[n]) for n in about.hypers} | {n: group[n] for n in ("rounding", "ema_decay")}
        kept = [("params" + slot.path, slot.param), *slot.items()]
        zero = self._settings["zero_grads"]
        return check_row_gradient(about, options, grad, "grads" + slot.path, slot.param, slot.master, kept, zero)

    def _now(self, value: Any) -> Any:
        return value(self.steps_taken) if callable(value) else value

    def _check_together(self, number: int) -> None:
        about, group = RULES[self.rule], self.param_groups[number]
        values = {name: self._now(group[name]) for name in about.hypers}
        check_hypers(self.rule, values, f'param_groups[{number}]["{{}}"]')

    # ---- what a user does ----

    def step(self, grads: Structure = None, *, grad_scale: float = 1.0) -> bool:
        """Take one step, in place.

        Parameters
        ----------
        grads
            Gradients of the structure of the parameters (a list with one entry per group where there are groups),
            in the parameter's dtype or a narrower one. None for a parameter leaves it and its states alone. With no
            argument, the gradients that were bound when the optimizer was made.
        grad_scale
            Gradients are divided by it first; the arrays themselves are only read.

        Returns
        -------
        bool
            True when the step was taken, False when `skip_nonfinite` skipped it.

        Raises
        ------
        TypeError
            A gradient of the wrong kind or dtype.
        ValueError
            A structure, shape or layout that does not fit the parameters, or a hyper-parameter out of its range.
            Nothing has changed.
        """
        model = self._model
        if type(grad_scale) is not float:
            grad_scale = check_hyper("grad_scale", grad_scale)
        taken = model.step_bound(grad_scale) if grads is None else model.step_tree(self._tree, grads, grad_scale)
        if not taken:
            self.skipped_steps += 1
        return taken

    @property
    def steps_taken(self) -> int:
        """Steps completed; skipped ones do not count."""
        return self._model.steps_taken if hasattr(self, "_model") else 0

    @property
    def nonfinite_blocks(self) -> int:
        """Blocks of 8-bit states that held an infinity or NaN in the last step (they read as NaN since)."""
        return self._model.nonfinite_blocks

    @property
    def state(self) -> list[StateView]:
        """One mapping per parameter, in flattened order: ``{"step": 3, "exp_avg": array, ...}``."""
        scalars = RULES[self.rule].scalars
        return [StateView(slot, self._model, i, scalars) for i, slot in enumerate(self._slots)]

    def ema_params(self) -> Structure:
        """The moving averages in the structure of the parameters; the arrays are the live ones.

        Raises
        ------
        ValueError
            The optimizer, or one of its groups, was made without `ema_decay`.
        """
        averages = []
        for slot in self._slots:
            if slot.ema is None:
                raise ValueError(f"params{slot.path}: has no average, make the optimizer with ema_decay")
            averages.append(slot.ema)
        leaves = iter(averages)
        structures = [_rebuilt(group["params"], leaves) for group in self.param_groups]
        return structures if self._grouped else structures[0]

    def memory(self) -> dict[str, float]:
        """Bytes held per parameter (element), by kind: the parameters, each state, masters, averages.

        Examples
        --------
        >>> import numpy as np
        >>> import fusedstep as fs
        >>> fs.Adam(np.zeros(8192, np.float32), state_format="8bit").memory()
        {'params': 4.0, 'exp_avg': 1.015625, 'exp_avg_sq': 1.015625, 'total': 6.03125}
        """
        elements = sum(slot.param.size for slot in self._slots) or 1
        held: dict[str, int] = {"params": sum(slot.param.nbytes for slot in self._slots)}
        for slot in self._slots:
            for name, array in slot.items():
                kind = name.removesuffix("_scales")
                held[kind] = held.get(kind, 0) + array.nbytes
        held["total"] = sum(held.values())
        return {kind: size / elements for kind, size in held.items()}

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own, as ``torch.optim.Optimizer.add_param_group``.

        From then on gradients are a list with one entry per group.

        Raises
        ------
        ValueError
            Gradients were bound: their structure would no longer fit.
        """
        if not _is_group(group):
            raise TypeError(f'group: got {type(group).__name__}, needs a dict with an entry "params"')
        if self._grads is not None:
            raise ValueError("add_param_group: gradients are bound to the old groups; make a new optimizer")
        before = self._grouped, list(self.param_groups), list(self._slots), [s.path for s in self._slots]
        steps, scalars, taken = _saving.progress(self._model)
        if not self._grouped:
            for slot in self._slots:
                slot.path = "[0]" + slot.path
        self._grouped = True
        try:
            self._append_group(group)
            added = len(self._slots) - len(steps)
            first = self._initial_scalars(self.param_groups[-1])
            self._build([*steps, *[0] * added], [*scalars, *[first] * added])
        except Exception:
            self._grouped, self.param_groups, self._slots, paths = before
            for slot, path in zip(self._slots, paths, strict=True):
                slot.path = path
            raise
        self._model.steps_taken = taken

    def state_dict(self, *, state_format: str | None = None) -> dict[str, Any]:
        """Everything a resumed run needs, with the keys and layout of ``torch.optim``.

        Parameters
        ----------
        state_format
            Convert the states to this format first; None keeps each as it is.

        Returns
        -------
        dict
            ``"state"`` (by parameter number: ``"step"`` and copies of the arrays), ``"param_groups"`` (options, and
            the numbers of the parameters) and ``"fusedstep"`` (what torch has no place for). The parameters
            themselves are the caller's to save.
        """
        if state_format is not None:
            _check_choice("state_format", state_format, STATE_FORMATS)
        return _saving.save(self, state_format)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where a `state_dict`, or one of ``torch.optim``, was made.

        States are converted to this optimizer's own formats where they differ; the options of the groups are taken
        over, but for formats and for hyper-parameters that are schedules here.

        Raises
        ------
        TypeError, ValueError
            It is of another model or optimizer, or holds values that do not fit. Nothing has changed.
        """
        _saving.load(self, state_dict, check_settings)

    def __getstate__(self) -> dict[str, Any]:
        kept = {k: v for k, v in self.__dict__.items() if k not in ("_model", "_tree")}
        return kept | {"_progress": _saving.progress(self._model)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        steps, scalars, taken = state["_progress"]
        self.__dict__.update({k: v for k, v in state.items() if k != "_progress"})
        gather(self._slots)
        self._build(steps, scalars)
        self._model.steps_taken = taken

    def __copy__(self) -> Self:
        raise TypeError("two optimizers cannot share one set of states; use copy.deepcopy, or make a new one")

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for i, group in enumerate(self.param_groups):
            shown = {k: v for k, v in group.items() if k != "params" and v != GROUP_OPTIONS.get(k, ...)}
            size = sum(slot.param.size for slot in self._slots if slot.group == i)
            lines.append(f"  {size} parameters: " + ", ".join(f"{k}={v!r}" for k, v in shown.items()))
        return "\n".join([*lines, ")"])


def _is_group(value: Any) -> bool:
    return isinstance(value, Mapping) and "params" in value


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, needs one of {', '.join(map(repr, choices))}")


def _check_group(rule: str, group: Mapping[str, Any], where: str) -> None:
    """Check a group's options; values of schedules are checked when they are known."""
    names = [*RULES[rule].hypers, "maximize", "clip_value", "ema_decay"]
    check_hypers(rule, {n: group[n] for n in names if not callable(group[n])}, where)
    _check_choice(where.format("state_format"), group["state_format"], STATE_FORMATS)
    _check_choice(where.format("master"), group["master"], MASTERS)
    _check_choice(where.format("rounding"), group["rounding"], ROUNDINGS)
    size = group["min_quantized_size"]
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{where.format('min_quantized_size')}: got {size!r}, needs an integer of at least 0")
    narrow = group["state_format"] != "float32"
    if narrow and all(state.kind == "exact" for state in RULES[rule].states) and RULES[rule].states:
        able = sorted(r.name for r in RULES.values() if any(s.kind != "exact" for s in r.states))
        raise ValueError(
            f"{where.format('state_format')}: got {group['state_format']!r}, but the states of {rule} need the "
            f"compute type; rules that can store theirs so: {', '.join(able)}"
        )


def _rebuilt(structure: Structure, leaves: Any) -> Structure:
    """The same nesting with other leaves."""
    if isinstance(structure, dict):
        return {key: _rebuilt(value, leaves) for key, value in structure.items()}
    if isinstance(structure, (list, tuple)):
        entries = [_rebuilt(value, leaves) for value in structure]
        return type(structure)(*entries) if hasattr(structure, "_fields") else type(structure)(entries)
    return next(leaves)
