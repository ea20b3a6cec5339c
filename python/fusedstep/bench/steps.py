"""What is measured: one step of one rule, dtype, storage and size, checked and then timed.

A result is checked twice before a figure is taken: at a sample size the native step and the reference must
leave the same bytes; at the timed size every element must hold the bytes of a second computation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import _core
from fusedstep.reference import RULES

from . import arrays
from .timing import Timing, alternate, runner

__all__ = ["STORAGES", "Case", "Storage", "WrongResult", "measure", "names", "prepare"]

Array = NDArray[Any]

CHECKED_STEPS = 3
SAMPLE = 4 * 1_024 + 4
"""Elements of the byte-for-byte comparison with the reference: above the 8-bit threshold, no multiple of a
block, and a matrix of 50 rows for the rules that need one."""

REFERENCE_CHECKED = 300_000
"""Elements up to which the second computation of the timed size may be the reference itself."""

REFERENCE_MOST = 30_000_000
"""Elements beyond which the NumPy reference is not timed: it would only cost minutes."""


class WrongResult(AssertionError):
    """A step left other bytes than its second computation."""


@dataclass(frozen=True)
class Storage:
    """How parameters, gradients and states are kept: the optimizer's options, and a dtype that they ask
    for."""

    options: dict[str, Any] = field(default_factory=dict)
    dtype: str | None = None


STORAGES: dict[str, Storage] = {
    "plain": Storage(),
    "bfloat16": Storage({"state_format": "bfloat16"}),
    "8bit": Storage({"state_format": "8bit"}),
    "master+8bit": Storage({"master": "float32", "state_format": "8bit"}, "bfloat16"),
    "split+8bit": Storage({"master": "split", "state_format": "8bit"}, "bfloat16"),
    "stochastic+8bit": Storage({"rounding": "stochastic", "state_format": "8bit"}, "bfloat16"),
}
"""``--formats``: states as float32 (plain), bfloat16 or 8-bit; bfloat16 parameters with a master or with
noise."""

EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "heavyball": ("SGD", {"momentum": 0.9}),
    "amsgrad": ("Adam", {"amsgrad": True}),
}
"""Names in the tables beside the classes' own: options that change what a step moves."""


@dataclass(frozen=True)
class Case:
    """One row: a rule's name in the tables, dtype of parameters and gradients, storage, elements."""

    rule: str
    dtype: str
    storage: str
    elements: int


def _class(rule: str) -> tuple[type[Any], dict[str, Any]]:
    nothing: dict[str, Any] = {}
    name, options = EXTRA.get(rule, (rule, nothing))
    for cls in fs.optimizers.__all__:
        if cls.lower() == name.lower():
            return getattr(fs, cls), options
    raise ValueError(f"rule: got {rule!r}, needs one of {', '.join(names())}")


def names() -> list[str]:
    """Return every name that ``--rules`` takes: the optimizers' in lower case, and those with other
    options."""
    rules = {cls: getattr(getattr(fs, cls), "rule", "") for cls in fs.optimizers.__all__}
    return [cls.lower() for cls, rule in rules.items() if rule and rule != "muon"] + list(EXTRA)  # muon.py measures it


def _optimizer(case: Case, params: list[Array], grads: list[Array] | None) -> Any:
    cls, options = _class(case.rule)
    return cls(params, grads=grads, **options, **STORAGES[case.storage].options)


def _dtype(case: Case) -> Any:
    if case.dtype in ("bfloat16",):
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(case.dtype)


def held(optimizer: Any, state: str = "") -> list[Array]:
    """Return every array that an optimizer keeps beside the parameters, or those of one state."""
    found = [item for view in optimizer.state for item in view.items() if isinstance(item[1], np.ndarray)]
    return [value for name, value in found if not state or name in (state, f"{state}_scales")]


def _bytes(value: Array) -> Array:
    """Return the bytes with one pattern for every NaN: payload bits are unspecified."""
    flat = np.ascontiguousarray(value).reshape(-1)
    if flat.dtype.kind in "fV":
        flat = np.where(flat != flat, np.array(np.nan, flat.dtype), flat)
    return flat.view(np.uint8)


def _shape(case: Case) -> tuple[int, ...]:
    """A vector; a matrix, as square as the number of elements allows, for rules whose states depend on the shape."""
    if not RULES[_class(case.rule)[0].rule].needs_shape:
        return (case.elements,)
    rows = next(rows for rows in range(math.isqrt(case.elements), 0, -1) if case.elements % rows == 0)
    return rows, case.elements // rows


def prepare(case: Case) -> tuple[Any, list[Array], list[Array]]:
    """Return an optimizer with bound gradients, its parameters and its gradients, filled from the tile."""
    dtype = _dtype(case)
    params = [arrays.fill(_shape(case), "param", dtype)]
    grads = [arrays.fill(_shape(case), "grad", dtype)]
    return _optimizer(case, params, grads), params, grads


def _reference_step(case: Case, optimizer: Any, params: list[Array], grads: list[Array]) -> Callable[[], object]:
    """Return the reference's step on the parameters and the states of ``optimizer``, which makes none
    itself."""
    rule = RULES[optimizer.rule]
    function = getattr(fs.reference, rule.name)
    group = optimizer.param_groups[0]
    hypers = {name: group[name] for name in rule.hypers}
    view = optimizer.state[0]
    arguments: dict[str, Any] = {}
    for state in rule.used(hypers):
        if state.name not in view:  # Adafactor's states of vectors alone
            continue
        scales = view.get(f"{state.name}_scales")
        arguments[state.name] = [view[state.name] if scales is None else (view[state.name], scales)]
    arguments |= {name: [np.array(view[name])] for name in rule.scalars}
    options: dict[str, Any] = {"rounding": group["rounding"]}
    if group["master"] is not None:
        options["master"] = [view["remainder" if group["master"] == "split" else "master"]]
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        function(params, grads, **arguments, step=count, **hypers, **options)

    return step


def check_sample(case: Case) -> None:
    """Compare native and reference byte by byte after a few steps at the sample size.

    Raises
    ------
    WrongResult
        They differ.
    """
    small = Case(case.rule, case.dtype, case.storage, SAMPLE)
    native, params, _ = prepare(small)
    other, wanted, grads = prepare(small)
    step = _reference_step(small, other, wanted, grads)
    for _ in range(CHECKED_STEPS):
        native.step()
        step()
    mine = [*params, *held(native)]
    theirs = [*wanted, *held(other)]
    for place, (got, want) in enumerate(zip(mine, theirs, strict=True)):
        wrong = int(np.count_nonzero(_bytes(got) != _bytes(want)))
        if wrong:
            raise WrongResult(f"{small}: {wrong} bytes of array {place} differ from the reference")


def check_timed(case: Case, params: list[Array]) -> None:
    """Compare parameters after a few steps at the timed size, every element, with a second computation.

    For element-wise rules on plain storage that is the reference on one tile, which every repetition must equal.
    Where places matter (trust ratios, sums of rows, blocks with a scale, noise) it is the reference on all elements,
    and from ``REFERENCE_CHECKED`` on the native step again on one thread and the lowest instruction set.

    Raises
    ------
    WrongResult
        They differ.
    """
    rule = RULES[_class(case.rule)[0].rule]
    plain = case.storage == "plain" and not rule.norms and not rule.needs_shape
    if plain or case.elements <= REFERENCE_CHECKED:
        second = replace(case, elements=arrays.TILE) if plain else case
        other, wanted, grads = prepare(second)
        step = _reference_step(second, other, wanted, grads)
        for _ in range(CHECKED_STEPS):
            step()
    else:
        threads, isa = fs.get_num_threads(), fs.isa()
        try:
            fs.set_num_threads(1)
            fs.set_isa(fs.available_isas()[0])
            other, wanted, _ = prepare(case)
            for _ in range(CHECKED_STEPS):
                other.step()
        finally:
            fs.set_num_threads(threads)
            fs.set_isa(isa)
    if plain:
        wrong = arrays.differing(params[0], wanted[0])
    else:
        wrong = int(np.count_nonzero(_bytes(params[0]) != _bytes(wanted[0])))
    if wrong:
        raise WrongResult(f"{case}: {wrong} elements or bytes differ from the second computation")


def stream(written: int, read: int, before: Sequence[int] = ()) -> Callable[[], object]:
    """Return a pass over float32 arrays that reads and writes ``written`` bytes and reads ``read`` more, after
    passes that read ``before`` bytes of these, one after the other.

    The written bytes lie in one array for each as long as the read one, as a step's do.
    """
    pieces = max(1, round(written / max(read, 1)))
    writes = [arrays.fill((max(16, written // pieces // 4),), "param", np.float32) for _ in range(pieces)]
    reads = [arrays.fill((max(16, read // 4),), "grad", np.float32)]
    first = [[*reads, *writes][: round(count / max(read, 1))] for count in before]

    def run() -> None:
        for passed in first:
            _core.stream([], passed)
        _core.stream(writes, reads)

    return run


def measure(case: Case, *, repeats: int = 9, reference: bool = True) -> tuple[dict[str, Timing], int]:
    """Check one case, then time it.

    Returns
    -------
    timings : dict of str to Timing
        ``native``, ``limit`` (the streaming limit of the same bytes) and, unless too large, ``reference``.
    moved : int
        Bytes that a step reads and writes.

    Raises
    ------
    WrongResult
        A result was wrong; nothing was timed.
    """
    check_sample(case)
    optimizer, params, grads = prepare(case)
    for _ in range(CHECKED_STEPS):
        optimizer.step()
    check_timed(case, params)
    written = sum(array.nbytes for array in [*params, *held(optimizer)])
    read = sum(array.nbytes for array in grads)
    rule = RULES[optimizer.rule]
    before = [read] * rule.needs_shape  # the sums of rows, before those of tensors
    if first := rule.norms:
        summed = read * ("grad" in first) + sum(array.nbytes for array in params) * ("param" in first)
        before.append(summed + sum(array.nbytes for name in first for array in held(optimizer, name)))
    runs = {"native": runner(optimizer.step), "limit": runner(stream(written, read, before))}
    if reference and case.elements <= REFERENCE_MOST:
        other, wanted, given = prepare(case)
        runs["reference"] = runner(_reference_step(case, other, wanted, given))
    return alternate(runs, repeats=repeats), sum(before) + 2 * written + read
