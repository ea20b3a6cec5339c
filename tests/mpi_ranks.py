"""What `test_mpi` runs on several ranks: ``mpiexec -n 3 python -m mpi4py mpi_ranks.py SCENARIO [ARGUMENTS]``.

Every rank steps alone beside the others, with the averaged gradients, and compares bytes with itself.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from cases import BFLOAT16, CAUTIOUS, CLASSES, ROWS, Array, assert_same, numbers
from mpi4py import MPI

import fusedstep as fs
from fusedstep.mpi import LostRankError, RankError, Sharded, _files
from fusedstep.sparse import SparseRows

RANK, SIZE = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size
SHAPES: dict[str, tuple[int, ...]] = {"a": (3,), "b": (67, 130), "c": (), "none": (0, 4), "d": (5000,), "e": (2048,)}
SMALL = 1 << 14  # bytes of a bucket: several of them


def model(seed: int, dtype: Any = np.float32) -> dict[str, Array]:
    return {name: numbers(shape, dtype, seed + i) for i, (name, shape) in enumerate(SHAPES.items())}


def mean(grads: list[Array], dtype: Any = np.float64) -> Array:
    """The definition: added up in the order of the ranks, divided, rounded once."""
    total = grads[0].astype(dtype)
    for grad in grads[1:]:
        total = total + grad.astype(dtype)
    with np.errstate(all="ignore"):
        return np.asarray(total / dtype(len(grads)))


def averaged(step: int, dtype: Any, compute: Any, special: float = 0.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """This rank's gradients of a step, and the mean of all ranks'."""
    every: list[dict[str, Any]] = [
        {name: numbers(shape, dtype, 1000 * step + 10 * rank + i) for i, (name, shape) in enumerate(SHAPES.items())}
        for rank in range(SIZE)
    ]
    if special:  # on one rank alone
        every[step % SIZE]["d"][step] = special
    wide = np.float64 if compute == np.float64 else np.float32
    return every[RANK], {name: mean([grads[name] for grads in every]).astype(wide) for name in SHAPES}


def compare(
    cls: Any, dtype: Any = np.float32, special: float = 0.0, steps: int = 3, how: Any = None, **options: Any
) -> Sharded:
    """Some steps of all ranks together, and of one process alone, bit for bit."""
    mine, alone = model(100 + RANK, dtype), model(100, dtype)
    sharded = Sharded(cls, mine, bucket_bytes=SMALL, timeout=60, **(how or {}), **options)
    single = cls(alone, **options)
    compute = np.float64 if dtype == np.float64 else np.float32
    for step in range(steps):
        grads, reduced = averaged(step, dtype, compute, special)
        if step == 1:
            grads["d"] = reduced["d"] = None
        assert sharded.step(grads, grad_scale=2.0) == single.step(reduced, grad_scale=2.0)
        assert_same(mine, alone, f"{cls.__name__}, {dtype}, {options}, step {step}")
    whole, expected = sharded.state_dict(), single.state_dict()
    assert_same(whole["state"], expected["state"], f"states of {cls.__name__}, {dtype}, {options}")
    assert whole["fusedstep"] == expected["fusedstep"]
    assert sharded.grad_norm == single.grad_norm or sharded.grad_norm != sharded.grad_norm
    if options.get("ema_decay"):
        assert_same(sharded.ema_params(), single.ema_params())
    return sharded


def rules() -> None:
    """Every rule with every set of its options."""
    for rule, row in ROWS.items():
        for options in (*row.options, *CAUTIOUS.get(rule, ())):
            compare(CLASSES[rule], steps=2, **{"max_grad_norm": 0.5, **options} if len(options) % 2 else options)


def storage() -> None:
    """Formats, masters, rounding, step options, dtypes."""
    for state_format in ("bfloat16", "8bit"):
        for cls in (fs.AdamW, fs.LAMB, fs.SGD):
            more: dict[str, Any] = {"momentum": 0.9} if cls is fs.SGD else {}
            compare(cls, state_format=state_format, **more)
    for dtype in (BFLOAT16, np.float16):
        compare(fs.AdamW, dtype, rounding="stochastic", seed=7, max_grad_norm=1.0)
        compare(fs.AdamW, dtype, master="float32", state_format="8bit", ema_decay=0.9)
        compare(fs.LARS, dtype)
    compare(fs.AdamW, BFLOAT16, master="split", state_format="bfloat16")
    compare(fs.AdamW, np.float64, ema_decay=0.5, clip_value=0.1)
    step_options: list[dict[str, Any]] = [
        {"maximize": True},
        {"skip_nonfinite": True},
        {"clip_value": 0.01, "ema_decay": 0.9},
    ]
    for options in step_options:
        compare(fs.Adam, **options)
    for special in (np.inf, np.nan):
        assert compare(fs.Adam, special=special, skip_nonfinite=True, max_grad_norm=1.0).skipped_steps == 2
        compare(fs.Adam, special=special, max_grad_norm=1.0)
    compare(fs.LAMB, how={"split": False}, max_grad_norm=1.0)
    compare(fs.AdamW, how={"split": False}, state_format="8bit")


def traffic() -> None:
    """Dtypes of the way and of the sum; gradients that are bound, copied, cleared; groups; a model of one number."""
    for sum_dtype, grad_dtype in (("float32", None), ("float64", "bfloat16"), ("float32", "bfloat16")):
        mine, alone = model(5), model(5)
        sharded = Sharded(fs.Adam, mine, sum_dtype=sum_dtype, grad_dtype=grad_dtype, bucket_bytes=SMALL, timeout=60)
        single: fs.Optimizer = fs.Adam(alone)
        for step in range(2):
            every = [model(50 * step + 7 * rank) for rank in range(SIZE)]
            sent = [{k: g.astype(BFLOAT16) if grad_dtype else g for k, g in grads.items()} for grads in every]
            sharded.step(every[RANK])
            total: Any = np.float64 if sum_dtype == "float64" else np.float32
            single.step({k: mean([grads[k] for grads in sent], total).astype(np.float32) for k in SHAPES})
            assert_same(mine, alone, f"{sum_dtype}, {grad_dtype}, step {step}")

    # more buckets than are on their way at a time
    size = 20 * 2048 * SIZE + 5
    whole = [numbers((size,), np.float32, 60 + rank) for rank in range(SIZE)]
    for ahead, most in ((2, None), (8, None), (8, 0.5)):
        mine, alone = {"W": whole[0].copy()}, {"W": whole[0].copy()}
        sharded = Sharded(fs.AdamW, mine, bucket_bytes=1, max_grad_norm=most, timeout=60)
        assert sharded._traffic.ahead == 8 and len(sharded._traffic.buckets) > 2 * 8
        sharded._traffic.ahead = ahead
        single = fs.AdamW(alone, max_grad_norm=most)
        for _ in range(2):
            sharded.step({"W": whole[RANK]})
            single.step({"W": mean(whole).astype(np.float32)})
            assert_same(mine, alone, f"{ahead} buckets ahead, {most}")
    assert Sharded(fs.AdamW, mine, timeout=60)._traffic.ahead == 2

    grads = model(9)
    mine, alone = model(5), model(5)
    bound = Sharded(fs.SGD, mine, lr=0.5, grads=grads, zero_grads=True, timeout=60)
    single = fs.SGD(alone, lr=0.5)
    assert bound.step() and single.step(model(9))
    assert_same(mine, alone, "bound")
    assert all((grad == 0).all() for grad in grads.values())

    cast = Sharded(fs.SGD, mine, lr=0.5, cast_grads=True, zero_grads=True, timeout=60)
    wide = {k: np.asarray(g, np.float64, order="F") for k, g in model(9).items()}
    assert cast.step(wide) and single.step(model(9))
    assert_same(mine, alone, "cast")
    assert all((grad == 0).all() for grad in wide.values())

    def groups(seed: int) -> Any:
        made = model(seed)
        return [{"params": {"b": made["b"]}, "lr": 0.25}, {"params": [made["a"], (made["d"],)]}]

    ours, theirs = groups(5), groups(5)
    sharded, other = Sharded(fs.Adam, ours, lr=0.5, timeout=60), fs.Adam(theirs, lr=0.5)
    for rate in (0.5, 0.125):
        sharded.param_groups[1]["lr"] = other.param_groups[1]["lr"] = rate
        grads_ = [group["params"] for group in groups(3)]
        sharded.step(grads_)
        other.step(grads_)
    assert_same([g["params"] for g in ours], [g["params"] for g in theirs], "groups")
    sharded.lr = 0.0625
    assert sharded.param_groups[0]["lr"] == 0.0625

    ours, theirs = model(5), model(5)
    chosen: dict[str, Any] = {"where": lambda path, array: array.ndim < 2, "lr": 0.25}
    sharded, other = Sharded(fs.Adam, fs.groups(ours, **chosen), timeout=60), fs.Adam(fs.groups(theirs, **chosen))
    for two_ in (sharded, other):
        two_.step(model(9))
    assert_same(ours, theirs, "groups by a condition")

    ours, theirs = model(5), model(5)
    tree: Any = {name: 0.125 * i for i, name in enumerate(SHAPES)}
    decayed = Sharded(fs.AdamW, ours, weight_decay=tree, timeout=60), fs.AdamW(theirs, weight_decay=tree)
    for one_ in decayed:
        one_.step(model(9))
    assert_same(ours, theirs, "options as trees")

    compare(fs.Muon, lr=0.02)  # whole matrices, whose products have the same bits on one machine
    compare(fs.Muon, state_format="8bit", min_quantized_size=0, rest={"rule": "lion"}, max_grad_norm=1.0)

    ours, theirs = model(5), model(5)
    summed = Sharded(fs.Adam, ours, accumulate_steps=2, max_grad_norm=1.0, zero_grads=True, timeout=60)
    other = fs.Adam(theirs, accumulate_steps=2, max_grad_norm=1.0)
    for step in range(4):
        every = [model(50 * step + 7 * rank) for rank in range(SIZE)]
        given = every[RANK] | ({"d": None} if step == 1 else {})
        averages = {k: mean([grads[k] for grads in every]).astype(np.float32) for k in SHAPES}
        summed.step(given)
        other.step(averages | ({"d": None} if step == 1 else {}))
        assert_same(ours, theirs, f"summed, step {step}")
        assert all(grad is None or (grad == 0).all() for grad in given.values())
        if step == 2:
            assert_same(summed.state_dict()["state"], other.state_dict()["state"], "sums")

    tiny = np.array([float(RANK)], np.float32)  # rank 0's values count
    one = Sharded(fs.SGD, tiny, lr=1.0, timeout=60)
    one.step(np.array([float(RANK)], np.float32))
    assert tiny[0] == -(SIZE - 1) / 2

    mine, alone = model(5), model(5)
    free: Any = Sharded(fs.ScheduleFreeSGD, mine, timeout=60)
    alike: Any = fs.ScheduleFreeSGD(alone)
    for optimizer in (free, alike):
        optimizer.step(model(9))
        optimizer.eval()
    assert_same(mine, alone, "eval")
    for optimizer in (free, alike):
        optimizer.train()
    assert_same(mine, alone, "train")


def grow() -> None:
    """Groups that are added between steps."""
    more: dict[str, tuple[int, ...]] = {"f": (71, 66), "g": (4,), "h": (6000,)}

    def further(seed: int) -> dict[str, Array]:
        return {name: numbers(shape, np.float32, seed + i) for i, (name, shape) in enumerate(more.items())}

    kinds: list[tuple[Any, dict[str, Any]]] = [
        (fs.AdamW, {"max_grad_norm": 1.0, "ema_decay": 0.9}),
        (fs.LAMB, {"state_format": "8bit"}),
        (fs.SGD, {"lr": 0.5, "accumulate_steps": 2}),
        (fs.Muon, {"lr": 0.02}),
    ]

    def plain(made: Any) -> Any:
        return made

    def listed(made: Any) -> Any:
        rest = [made["a"], (made["d"], made["c"]), made["none"]]
        return [{"params": {"b": made["b"], "e": made["e"]}, "lr": 0.25}, {"params": rest}]

    def chosen(made: Any) -> Any:
        return fs.groups(made, where=lambda path, array: array.ndim < 2, lr=0.25)

    for cls, options in kinds:
        matrices = cls is fs.Muon  # which takes others only where it makes the groups itself
        for form in (plain,) if matrices else (plain, listed, chosen):
            params = [model(5 + RANK * (i == 0)) for i in range(2)]  # rank 0's values count, of the new ones as well
            added = [further(70 + RANK * (i == 0)) for i in range(2)]
            params[1], added[1] = model(5), further(70)
            added = [{"f": one["f"]} if matrices else one for one in added]
            ours = Sharded(cls, form(params[0]), bucket_bytes=SMALL, timeout=60, **options)
            alone = cls(form(params[1]), **options)
            for step in range(5):
                every = [(model(50 * step + 7 * r), further(50 * step + 7 * r + 3)) for r in range(SIZE)]
                means = [{k: mean([g[i][k] for g in every]).astype(np.float32) for k in every[0][i]} for i in (0, 1)]
                if step == 2:
                    new: dict[str, Any] = {"lr": 0.125}
                    ours.add_param_group({**new, "params": added[0]})
                    alone.add_param_group({**new, "params": added[1]})
                given = []
                for old, late in (every[RANK], means):
                    formed: Any = [g["params"] for g in form(old)] if form is listed else old
                    whole = formed if form is listed else [formed]
                    given.append([*whole, {k: late[k] for k in added[0]}] if step >= 2 else formed)
                assert ours.step(given[0]) == alone.step(given[1])
                where = f"{cls.__name__}, {form.__name__}, step {step}"
                assert_same(params[0], params[1], where)
                if step >= 2:
                    assert_same(added[0], added[1], where)
            assert_same(ours.state_dict()["state"], alone.state_dict()["state"], f"states of {cls.__name__}")
            assert [g["lr"] for g in ours.param_groups] == [g["lr"] for g in alone.param_groups]
            if "ema_decay" in options:
                assert_same(ours.ema_params(), alone.ema_params())
            if cls is fs.AdamW and form is plain:
                folder = MPI.COMM_WORLD.bcast(tempfile.mkdtemp() if RANK == 0 else None)
                ours.save(folder)
                others = [model(1), further(2)]  # cut in another way: all tensors at once
                loaded = Sharded(cls, [{"params": made} for made in others], timeout=60, **options)
                loaded.load(folder)
                assert_same(others, [params[1], added[1]], "loaded")
                assert_same(loaded.state_dict()["state"], alone.state_dict()["state"], "loaded states")
                MPI.COMM_WORLD.Barrier()
                if RANK == 0:
                    shutil.rmtree(folder)

    last, table = SIZE - 1, np.ones((50, 64), np.float32)
    bound = Sharded(fs.SGD, np.ones(3, np.float32), grads=np.ones(3, np.float32), timeout=60)
    refused(ValueError, "gradients are bound", lambda: bound.add_param_group({"params": table}))
    first_ = np.ones(5000, np.float32)
    opt = Sharded(fs.SGD, first_, lr=1.0, timeout=60)
    one_only = (TypeError, ValueError) if last == RANK else RankError
    refused(one_only, "needs a dict", lambda: opt.add_param_group([] if last == RANK else {"params": table}))  # type: ignore[arg-type]
    wrong = np.ones(3, np.int64)
    refused(one_only, "int64", lambda: opt.add_param_group({"params": wrong if last == RANK else table}))
    refused(ValueError, "overlap", lambda: opt.add_param_group({"params": first_[:4]}))
    refused((ValueError, TypeError), "learning", lambda: opt.add_param_group({"params": table, "learning": 1.0}))
    refused(ValueError, "lr", lambda: opt.add_param_group({"params": table, "lr": -1.0}))
    if SIZE > 1:
        refused(RankError, 'group["lr"]', lambda: opt.add_param_group({"params": table, "lr": 1.0 + (last == RANK)}))
    assert opt.step(np.ones(5000, np.float32)) and (first_ == 0).all()  # none of that has changed the structure
    opt.add_param_group({"params": table})
    rows_only = SparseRows(np.array([3]), np.ones((1, 64), np.float32))
    assert opt.step([None, rows_only]) and (table[3] == 0).all() and table.sum() == 49 * 64


TABLES: dict[str, tuple[int, ...]] = {  # rows that a cut may divide, and others
    "wide": (70, 100),
    "even": (300, 64),
    "flat": (5000,),
    "deep": (40, 3, 50),
    "one": (1, 5),
    "none": (7, 0),
    "dense": (9, 700),
}


def row_gradients(step: int, rank: int, dtype: Any) -> dict[str, Any]:
    """Of some rows of every table, some of them twice; of none on some ranks; one table has a dense one."""
    rng = np.random.default_rng([step, rank])
    grads: dict[str, Any] = {}
    for i, (name, shape) in enumerate(TABLES.items()):
        count = 0 if (step + rank) % 3 == 2 else int(rng.integers(0, 60))
        indices = rng.integers(0, shape[0], count).astype(np.int32 if rank % 2 else np.int64)
        values = numbers((count, *shape[1:]), dtype, 7 * step + 100 * rank + i)
        grads[name] = numbers(shape, dtype, 9 * step + rank) if name == "dense" else SparseRows(indices, values)
    return grads


def mean_rows(grads: list[SparseRows], compute: Any, sum_dtype: Any, narrow: bool) -> SparseRows:
    """The definition: a dictionary of rows."""
    total: dict[int, Array] = {}
    for grad in grads:
        rows, sums = grad.summed(np.dtype(compute))
        for row, value in zip(rows.tolist(), sums, strict=True):
            wide = (value.astype(BFLOAT16) if narrow else value).astype(sum_dtype)
            total[row] = total[row] + wide if row in total else wide
    shape = grads[0].values.shape[1:]
    values = np.array([total[row] for row in sorted(total)], sum_dtype).reshape(len(total), *shape)
    return SparseRows(np.array(sorted(total), np.int64), (values / sum_dtype(len(grads))).astype(compute))


def rows() -> None:
    """Gradients of rows, in all forms that one process takes."""
    cases: list[tuple[Any, Any, dict[str, Any], dict[str, Any]]] = [
        (fs.SGD, np.float32, {"lr": 0.5}, {}),
        (fs.Adagrad, np.float32, {}, {"sum_dtype": "float32"}),
        (fs.SparseAdam, np.float32, {}, {}),
        (fs.SparseAdam, np.float64, {}, {"split": False}),
        (fs.SparseAdam, np.float32, {"state_format": "bfloat16", "clip_value": 0.5}, {"grad_dtype": "bfloat16"}),
        (fs.SGD, BFLOAT16, {"lr": 0.5, "master": "split"}, {}),
        (fs.Adagrad, np.float16, {"master": "float32"}, {}),
        (fs.SGD, np.float16, {"lr": 0.5, "maximize": True}, {}),
    ]
    for cls, dtype, options, how in cases:
        compute: Any = np.float64 if dtype == np.float64 else np.float32
        mine, alone = ({n: numbers(s, dtype, i) for i, (n, s) in enumerate(TABLES.items())} for _ in range(2))
        sharded = Sharded(cls, mine, bucket_bytes=SMALL, timeout=60, zero_grads=True, **how, **options)
        single = cls(alone, **options)
        for step in range(4):
            every = [row_gradients(step, rank, dtype) for rank in range(SIZE)]
            reduced: dict[str, Any] = {}
            sum_dtype: Any = np.float32 if how.get("sum_dtype") == "float32" else np.float64
            for name in TABLES:
                narrow = "grad_dtype" in how
                if name == "dense":
                    sent = [g[name].astype(BFLOAT16) if narrow else g[name] for g in every]
                    reduced[name] = mean(sent, sum_dtype).astype(compute)
                else:
                    reduced[name] = mean_rows([g[name] for g in every], compute, sum_dtype, narrow)
            if step == 2:
                every[RANK]["even"] = reduced["even"] = None
            assert sharded.step(every[RANK], grad_scale=2.0) and single.step(reduced, grad_scale=2.0)
            assert_same(mine, alone, f"{cls.__name__}, {dtype}, {options}, {how}, step {step}")
            given = [g.values if isinstance(g, SparseRows) else g for g in every[RANK].values() if g is not None]
            assert all((values == 0).all() for values in given)
        assert_same(sharded.state_dict()["state"], single.state_dict()["state"], f"states of {cls.__name__}, {options}")

    last = SIZE - 1
    one = (TypeError, ValueError) if last == RANK else RankError
    table = np.ones((50, 64), np.float32)
    good, outside = (SparseRows(np.array([row]), np.ones((1, 64), np.float32)) for row in (3, 50))
    wrong_dtype = SparseRows(np.array([3]), np.ones((1, 64)))
    opt = Sharded(fs.SGD, table, lr=1.0, timeout=60)
    refused(one, "50", lambda: opt.step(outside if last == RANK else good))
    refused(one, "float64", lambda: opt.step(wrong_dtype if last == RANK else good))
    if SIZE > 1:
        dense = np.ones_like(table)
        refused(RankError, "SparseRows", lambda: opt.step(dense if last == RANK else good))
    opt.max_grad_norm = 1.0
    refused(ValueError, "needs arrays", lambda: opt.step(good))
    opt.max_grad_norm = None
    opt.momentum = 0.5
    refused(ValueError, "momentum=0", lambda: opt.step(good))
    opt.momentum = 0.0
    assert (table == 1).all()
    assert opt.step(good) and (table[3] == 0).all() and table.sum() == 49 * 64


def refused(kinds: Any, text: str, work: Callable[[], object]) -> None:
    try:
        work()
    except kinds as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error with {text!r}")


class Asking:
    """A gradient that does something else when it is read."""

    def __init__(self, use: Callable[[], object]) -> None:
        self.use = use

    def __array__(self, *args: Any, **kwargs: Any) -> Array:
        self.use()
        return np.zeros(3, np.float32)


def asking_rate(use: Callable[[], object], taken: int) -> float:
    use()
    return 0.1


def errors() -> None:
    """An error on one rank is one on all, and nothing has changed."""
    last = SIZE - 1
    one = (TypeError, ValueError) if last == RANK else RankError
    params = model(5)
    opt = Sharded(fs.Adam, params, timeout=60)
    opt.step(model(6))
    before, states = {k: p.copy() for k, p in params.items()}, opt.state_dict()
    wrong: list[tuple[str, Any]] = [
        ("got dtype float64", np.zeros(3)),
        ("got shape (4,)", np.zeros(4, np.float32)),
        ("got SparseRows, needs an array for adam", SparseRows(np.array([0]), np.zeros(1, np.float32))),
    ]
    for text, grad in wrong:
        grads = model(6) | ({"a": grad} if last == RANK else {})
        refused(one, text, functools.partial(opt.step, grads))
    refused(one, "grad_scale", lambda: opt.step(model(6), grad_scale=0.0 if last == RANK else 1.0))
    if SIZE > 1:
        refused(RankError, 'grads["d"]', lambda: opt.step(model(6) | ({"d": None} if last == RANK else {})))
        half = np.zeros(5000, np.float16)
        refused(RankError, 'grads["d"]', lambda: opt.step(model(6) | ({"d": half} if last == RANK else {})))
        refused(RankError, "grad_scale", lambda: opt.step(model(6), grad_scale=1.0 + (last == RANK)))
        opt.lr = 0.1 + (last == RANK)
        refused(RankError, 'param_groups[0]["lr"]', lambda: opt.step(model(6)))
        opt.lr = lambda taken: 0.1 * (1 + (last == RANK))  # as a plateau of each rank's own losses
        refused(RankError, "a schedule of 0.1 on rank 0", lambda: opt.step(model(6)))
        opt.lr = 1e-3
        opt.betas = lambda taken: (0.9, np.array(0.9 + (last == RANK) * 1e-12))  # printed as one number
        refused(RankError, 'param_groups[0]["betas"]', lambda: opt.step(model(6)))
        opt.betas = (0.9, 0.999)
        refused(RankError, 'params["a"]', lambda: Sharded(fs.Adam, model(5) | {"a": np.zeros(3 + RANK, np.float32)}))
    bad = {**states, "state": {**states["state"], 1: {**states["state"][1], "exp_avg": np.zeros(3, np.float32)}}}
    refused(one, "got shape (3,)", lambda: opt.load_state_dict(bad if last == RANK else states))
    refused(AttributeError, "learning_rate", lambda: setattr(opt, "learning_rate", 1.0))
    refused(ValueError, "needs add_param_group()", lambda: opt.param_groups.append({"params": np.zeros(2, np.float32)}))
    refused((TypeError, RankError), "needs an optimizer class", lambda: Sharded(dict, params))  # type: ignore[arg-type]
    refused((ValueError, RankError), "bucket_bytes", lambda: Sharded(fs.Adam, params, bucket_bytes=0))
    refused((ValueError, RankError), "grad_dtype", lambda: Sharded(fs.Adam, params, grad_dtype="float16"))
    refused(ValueError, "timeout", lambda: Sharded(fs.Adam, params, timeout=0))
    refused(TypeError, "needs save() and load()", lambda: copy.deepcopy(opt))

    class Own(fs.NumPyOptimizer):
        @staticmethod
        def update(param: Array, grad: Array, *, step: int, lr: float = 0.1) -> None:
            param -= lr * grad

    refused((TypeError, RankError), "needs a class with a native one", lambda: Sharded(Own, params))
    for kind in (fs.Adafactor, fs.AdamMini):
        refused((TypeError, RankError), "means over whole matrices", functools.partial(Sharded, kind, params))
    assert_same(params, before, "parameters")
    assert_same(opt.state_dict()["state"], states["state"], "states")

    if SIZE > 1:
        summing = Sharded(fs.Adam, params, accumulate_steps=2, timeout=60)
        summing.step(model(6))
        summing.lr = lambda taken: 0.1 * (1 + (last == RANK))
        refused(RankError, 'param_groups[0]["lr"]', lambda: summing.step(model(6)))
        assert_same(params, before, "parameters")
        assert summing.accumulated == 2

    # Code on one rank that would have it do more than the others: they stay in step.
    casting = Sharded(fs.Adam, params, cast_grads=True, timeout=60)
    uses: list[Callable[[], object]] = [
        lambda: casting.step(model(6)),
        casting.state_dict,
        lambda: casting.load_state_dict(states),
        lambda: casting.save("no folder"),
    ]
    for use in uses:
        grads = model(6) | ({"a": Asking(use)} if last == RANK else {})
        refused((TypeError, RankError), "called during a step", functools.partial(casting.step, grads))
        casting.lr = functools.partial(asking_rate, use if last == RANK else lambda: None)
        refused((RuntimeError, RankError), "called during a step", lambda: casting.step(model(6)))
        casting.lr = 0.1
    assert_same(params, before, "parameters")
    assert casting.step(model(6)) and casting.steps_taken == 1
    for name, param in before.items():
        params[name][...] = param

    small = {"x": np.ones(9000, np.float16), "y": np.ones(3, np.float16)}
    opt = Sharded(fs.SGD, small, lr=1.0, timeout=60)
    big = {"x": np.zeros(9000, np.float16), "y": np.full(3, -60000, np.float16)}
    opt.step(big)
    refused(OverflowError, 'params["y"]', lambda: opt.step(big))
    assert (small["y"] == np.float16(60001)).all()
    assert opt.step({name: np.zeros_like(array) for name, array in small.items()})


def equal_grads(step: int) -> dict[str, Array]:
    """The same on every rank: so is their mean, on any number of ranks."""
    return model(300 + step, BFLOAT16)


def trained(steps: int, **options: Any) -> tuple[dict[str, Array], fs.Optimizer]:
    params = model(100, BFLOAT16)
    opt = fs.AdamW(params, **options)
    for step in range(steps):
        opt.step(equal_grads(step))
    return params, opt


class Rate:
    """A schedule that cannot be saved or loaded for a while."""

    broken = False

    def __call__(self, taken: int) -> float:
        return 0.1

    def state_dict(self) -> dict[str, int]:
        if self.broken:
            raise KeyError("broken")
        return {}

    def load_state_dict(self, state: object) -> None:
        self.state_dict()


class Changing(SparseRows):
    """Rows whose arrays are others every time they are read, as if another thread set them."""

    reads = 0

    @property
    def indices(self) -> Array:  # type: ignore[override]
        self.reads += 1
        return np.arange(self.reads % 3)

    @property
    def values(self) -> Array:  # type: ignore[override]
        return np.ones((self.reads % 3, 64), np.float32)

    def __init__(self) -> None:
        pass


def turns() -> None:
    """What fails, or is called, on one rank alone: the others hear of it, and all go on together."""
    last = RANK == SIZE - 1
    rate, params = Rate(), model(5)
    opt = Sharded(fs.AdamW, params, lr=rate, ema_decay=0.9, timeout=60)
    opt.step(model(6))
    folder = MPI.COMM_WORLD.bcast(tempfile.mkdtemp() if RANK == 0 else None)
    opt.save(folder)
    states = opt.state_dict()
    before = {name: param.copy() for name, param in params.items()}
    uses: dict[str, Callable[[], object]] = {
        "step()": lambda: opt.step(model(6)),
        "state_dict()": opt.state_dict,
        "load_state_dict()": lambda: opt.load_state_dict(states),
        "save()": lambda: opt.save(folder),
        "load()": lambda: opt.load(folder),
        "ema_params()": opt.ema_params,
        "add_param_group()": lambda: opt.add_param_group({"params": np.ones(3, np.float32)}),
    }
    rate.broken = last
    for name in ("state_dict()", "load_state_dict()", "save()", "load()"):
        refused(KeyError if last else RankError, "broken", uses[name])
    rate.broken = False
    needed = "folder: got int, needs text or a pathlib.Path"
    refused((TypeError, RankError), needed, lambda: opt.save(3 if last else folder))  # type: ignore[arg-type]
    refused((ValueError, RankError), "timeout", lambda: Sharded(fs.Adam, model(5), timeout=0 if last else 9))
    if SIZE > 1:
        for name, use in uses.items():
            other = "state_dict()" if name != "state_dict()" else "step()"
            refused(RankError, f"method: got {name} on rank 0 and {other}", uses[other] if last else use)
    assert_same(params, before, "parameters")
    assert_same(opt.state_dict()["state"], states["state"], "states")

    opt.save(folder)
    free = Sharded(fs.ScheduleFreeSGD, params, lr=0.1, timeout=60)
    for array in params.values() if last else ():  # also those whose elements other ranks own
        array.flags.writeable = False
    for use in (lambda: opt.load(folder), free.eval):
        refused(ValueError if last else RankError, "was made read-only", use)
    opt.save(folder)
    for array in params.values():
        array.flags.writeable = True
    if last:
        params["b"].resize((130, 67), refcheck=False)
    refused(ValueError if last else RankError, 'params["b"]: got', lambda: opt.save(folder))
    if last:
        params["b"].resize((67, 130), refcheck=False)
    opt.load(folder)
    assert_same(params, before, "parameters")
    assert_same(opt.state_dict()["state"], states["state"], "states")

    if SIZE > 1:
        child = os.fork()
        if not child:
            for name in uses:
                refused(RuntimeError, f"{name}: got a process that was forked", uses[name])
            os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3

    array = np.zeros(20000, np.float32)
    odd = np.zeros_like(array)
    odd[-1] = np.nan
    narrow = Sharded(fs.Lion, array, state_format="8bit", timeout=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if last:
            refused(RuntimeWarning, "1 block", lambda: narrow.step(odd))
        else:
            assert narrow.step(odd)
        warnings.simplefilter("ignore")
        assert narrow.step(np.zeros_like(array)) and narrow.steps_taken == 2

    table = np.zeros((50, 64), np.float32)
    rows = Sharded(fs.SGD, table, lr=1.0, timeout=60)
    good = SparseRows(np.array([3]), np.ones((1, 64), np.float32))
    for _ in range(3):
        with contextlib.suppress(ValueError, RankError):  # refused, or stepped as it was when it was read
            rows.step(Changing() if last else good)
    assert rows.step(good)
    assert all((table == other).all() for other in MPI.COMM_WORLD.allgather(table))
    MPI.COMM_WORLD.Barrier()
    if RANK == 0:
        shutil.rmtree(folder)


OPTIONS: dict[str, Any] = {
    "lr": 0.01,
    "state_format": "8bit",
    "master": "split",
    "ema_decay": 0.9,
    "max_grad_norm": 1.0,
    "amsgrad": True,
}


def save(folder: str) -> None:
    """Train and save twice."""
    params = model(100, BFLOAT16)
    opt = Sharded(fs.AdamW, params, timeout=60, **OPTIONS)
    for step in range(3):
        opt.step(equal_grads(step))
        opt.save(folder)


def resume(folder: str) -> None:
    """Go on where `save` ended, on another number of ranks."""
    params = dict(reversed(model(7, BFLOAT16).items()))  # another order: by name
    opt = Sharded(fs.AdamW, params, timeout=60, **OPTIONS)
    opt.load(folder)
    for step in range(3, 5):
        opt.step(equal_grads(step))
    alone, single = trained(5, **OPTIONS)
    assert_same(dict(sorted(params.items())), dict(sorted(alone.items())), "resumed")
    again = fs.AdamW(alone, **OPTIONS)
    again.load_state_dict(opt.state_dict())
    assert_same(again.state_dict()["state"], single.state_dict()["state"], "states")
    other = Sharded(fs.AdamW, alone, timeout=60, **OPTIONS)
    other.load_state_dict(single.state_dict())
    assert_same(other.state_dict()["state"], single.state_dict()["state"], "of one process")


def edited(folder: str) -> None:
    """Entries of the index that are missing or of another kind are an error that names the file, on all ranks."""
    params = model(7, BFLOAT16)
    opt = Sharded(fs.AdamW, params, timeout=60, **OPTIONS)
    before = {k: p.copy() for k, p in params.items()}
    path = os.path.join(folder, _files.INDEX)
    with open(path) as file:
        whole = json.load(file)
    MPI.COMM_WORLD.Barrier()
    places: list[tuple[Any, ...]] = [(name,) for name in whole]
    places += [("params", 0, name) for name in whole["params"][0] if name != "path"]  # for readers alone
    places += [("files", 0, name) for name in ("name", "bytes", "pieces")] + [("files", 0, "pieces", 0, 1)]
    for *above, last in places:
        for value in ("left out", None, "text", [1.5]):
            index = json.loads(json.dumps(whole))
            inner = index
            for name in above:
                inner = inner[name]
            if value == "left out":
                del inner[last]
            else:
                inner[last] = value
            if RANK == 0:
                with open(path, "w") as file:
                    json.dump(index, file)
            MPI.COMM_WORLD.Barrier()
            refused((ValueError, TypeError, OSError, RankError), "", lambda: opt.load(folder))
            assert_same(params, before, "parameters")
            MPI.COMM_WORLD.Barrier()


def damaged(folder: str) -> None:
    """Files that are not whole are an error on all ranks, and nothing has changed."""
    params = model(7, BFLOAT16)
    opt = Sharded(fs.AdamW, params, timeout=60, **OPTIONS)
    before = {k: p.copy() for k, p in params.items()}
    refused((ValueError, RankError, OSError), "", lambda: opt.load(folder))
    assert_same(params, before, "parameters")
    assert opt.steps_taken == 0


def die(folder: str, moment: str) -> None:
    """Rank 1 ends in the middle of a step or while it saves; or it stops without an end."""
    opt = Sharded(fs.AdamW, model(100, BFLOAT16), timeout=1.5, **OPTIONS)
    for step in range(3):
        opt.step(equal_grads(step))
    opt.save(folder)
    end: Callable[[], object] = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if moment == "stop":
        end = lambda: time.sleep(1000)  # noqa: E731
    elif moment == "interrupt":
        end = functools.partial(interrupted, opt)
    if RANK == 1 and moment == "save":
        os.replace = lambda *names: end()  # type: ignore[assignment]
    elif RANK == 1:
        opt._traffic.receive = lambda bucket: end()  # type: ignore[method-assign,assignment]
        opt._share(opt._part._model, [(p.begin, p.size - p.begin - p.array.size) for p in opt._pieces])
    try:
        opt.step(equal_grads(3))
        opt.save(folder)
    except (LostRankError, KeyboardInterrupt) as error:
        print(error, flush=True)
        uses: list[Callable[[], object]] = [lambda: opt.step(equal_grads(4)), opt.state_dict, lambda: opt.save(folder)]
        for use in uses:
            refused(LostRankError, "rank 1", use)
        raise


def interrupted(opt: Sharded) -> None:
    """Ctrl-C on one rank while it waits for a message."""

    def wait(*requests: MPI.Request) -> None:
        del opt._ranks.wait
        raise KeyboardInterrupt("Ctrl-C")

    opt._ranks.wait = wait  # type: ignore[method-assign]
    opt._ranks.sum(np.zeros(1))


if __name__ == "__main__":
    assert _files.INDEX == "index.json"
    globals()[sys.argv[1]](*sys.argv[2:])
    print("done", flush=True)
