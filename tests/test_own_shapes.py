"""What Adafactor and Adam-mini have in common, whose states have shapes of their own: each test is for both."""

from __future__ import annotations

import copy
import inspect
import pathlib
import pickle
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from cases import (
    BFLOAT16,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    TEAMS,
    Options,
    Twin,
    arrays,
    assert_same,
    numbers,
    running,
    snapshot,
    trained,
)

import fusedstep as fs
from fusedstep.reference import RULES

SHAPES = (
    *((), (1,), (5,), (5000,), (0,), (0, 4), (3, 0)),
    *((1, 1), (1, 7), (7, 1), (4, 3), (70, 300), (3, 2048), (3, 2100), (4, 4097), (200, 2200), (5000, 2)),
    *((2, 3, 4), (3, 100, 40), (4, 2, 3, 3), (2, 0, 3)),
)
"""No axis to four, sizes of 0 and 1, rows and columns that are summed in one piece and in several."""

STORAGE: tuple[tuple[Any, Options], ...] = (
    (FLOAT32, {"ema_decay": 0.5, "clip_value": 0.1}),
    (FLOAT32, {"max_grad_norm": 0.1, "zero_grads": True}),
    (FLOAT64, {"zero_grads": True, "maximize": True, "ema_decay": 0.9}),
    (FLOAT16, {"master": "float32", "max_grad_norm": 0.1}),
    (FLOAT16, {"rounding": "stochastic", "seed": 5}),
    (BFLOAT16, {"master": "float32", "maximize": True}),
    (BFLOAT16, {"master": "split", "ema_decay": 0.9, "skip_nonfinite": True}),
    (BFLOAT16, {"rounding": "stochastic", "clip_value": 0.05}),
    (BFLOAT16, {}),
)


@dataclass(frozen=True)
class Case:
    cls: Any
    storage: tuple[tuple[Any, Options], ...] = ()
    """Beside `STORAGE`."""
    threads: Options = field(default_factory=dict)
    skips: Options = field(default_factory=dict)
    """With which a step of 3e5 makes float16 infinite."""
    resumes: Options = field(default_factory=dict)
    trains: tuple[float, int] = (0.0, 0)
    """Learning rate and steps."""


CASES = (
    Case(
        fs.Adafactor,
        skips={"scale_parameter": False, "relative_step": False},
        resumes={"ema_decay": 0.9, "eps": (1e-3, 1e-2)},
        trains=(0.05, 2000),
    ),
    Case(
        fs.AdamMini,
        storage=(
            (FLOAT32, {"max_grad_norm": 0.1, "zero_grads": True, "cautious": True}),
            (FLOAT32, {"state_format": "8bit", "min_quantized_size": 100}),
            (FLOAT32, {"state_format": "bfloat16", "clip_value": 0.1, "cautious": True}),
            (FLOAT16, {"rounding": "stochastic", "seed": 5, "state_format": "8bit", "min_quantized_size": 0}),
            (BFLOAT16, {"master": "float32", "maximize": True, "state_format": "bfloat16"}),
            (BFLOAT16, {"state_format": "8bit", "min_quantized_size": 0}),
        ),
        threads={"state_format": "8bit"},
        resumes={"ema_decay": 0.9, "state_format": "8bit", "blocks": {"W": 10, "b": 30, "K": 0, "s": 1}},
        trains=(0.02, 1000),
    ),
)
both = pytest.mark.parametrize("case", CASES, ids=[case.cls.__name__ for case in CASES])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("cls", "dtype", "options"), [(c.cls, *storage) for c in CASES for storage in STORAGE + c.storage], ids=str
)
def test_formats(cls: Any, dtype: Any, options: Options, threads: int) -> None:
    """Everything that a step can do beside the rule, as the reference has it."""
    params = arrays(dtype, 0, SHAPES)
    with running(None, threads):
        opt = cls(params, weight_decay=0.1, **options)
        twin = Twin(opt)
        for step in range(3):
            grads: list[Any] = arrays(dtype, 100 * step, SHAPES)
            grads[9 + step] = None
            assert opt.step([None if g is None else g.copy() for g in grads], grad_scale=2.0) and twin.step(grads, 2.0)
            twin.check(f"step {step}")


@both
def test_threads(case: Case) -> None:
    """The same bits for any number of threads, of each kind; also of rows and blocks that several threads sum."""
    shapes = [(700, 300), (60, 7000), (40, 65, 30), (90000,), (9000, 3)]
    left = []
    for team in TEAMS:
        for threads in (1, 2, 7):
            params = arrays(FLOAT32, 0, shapes)
            with running(None, threads, team):
                opt = case.cls(params, max_grad_norm=1.0, **case.threads)
                for step in range(3):
                    opt.step(arrays(FLOAT32, 100 * step, shapes))
            left.append([params, [dict(slot.states) for slot in opt._slots]])
    for other in left[1:]:
        assert_same(other, left[0])


@both
def test_a_step_that_is_not_taken_changes_nothing(case: Case) -> None:
    shapes = [(80, 70), (5,)]
    params = arrays(FLOAT16, 0, shapes)
    opt = case.cls(params, skip_nonfinite=True, **case.skips)
    good = arrays(FLOAT16, 5, shapes)
    assert opt.step(good)
    before = snapshot(opt)
    bad = [good[0].copy(), good[1]]
    bad[0][3, 3] = np.inf
    assert not opt.step(bad)
    opt.lr = 3e5
    with pytest.raises(OverflowError, match="65504"):
        opt.step(good)
    assert_same(snapshot(opt), before)


@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("cls", [*(case.cls for case in CASES), fs.Muon])
def test_a_parameter_reshaped_in_place_is_refused(cls: Any, bound: bool) -> None:
    """Its rows and columns would be those of the shape that it had; the size, which no longer tells, is the same."""
    params, grads = arrays(FLOAT32, 0, [(6, 8), (5, 4)]), arrays(FLOAT32, 9, [(6, 8), (5, 4)])
    others = [p.copy() for p in params]
    opt, other = cls(params, grads=grads if bound else None), cls(others)
    for shape in ((8, 6), (48,), (6, 8, 1)):
        opt.step(*(() if bound else (grads,)))
        other.step(grads)
        before = snapshot(opt)
        for array in (params[0], grads[0]):
            array.resize(shape, refcheck=False)
        with pytest.raises(ValueError, match=rf"params\[0\]: got shape {re.escape(str(shape))} now, needs \(6, 8\)"):
            opt.step(*(() if bound else (grads,)))
        for array in (params[0], grads[0]):
            array.resize((6, 8), refcheck=False)
        assert_same(snapshot(opt), before)
    assert_same(snapshot(opt), snapshot(other))


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@both
def test_resumed_training_has_the_same_bytes(case: Case, tmp_path: pathlib.Path, ending: str) -> None:
    for options in ({}, case.resumes):
        opt, params = trained(case.cls, **options)
        opt.save(tmp_path / f"run{ending}")
        clones = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
        other, others = trained(case.cls, steps=0, **options)
        for name in params:
            others[name][...] = params[name]
        other.load(tmp_path / f"run{ending}")
        fresh, anew = trained(case.cls, steps=1, **options)
        fresh.load_state_dict(opt.state_dict())
        for name in params:
            anew[name][...] = params[name]
        grads = {name: numbers(p.shape, FLOAT32, 99) for name, p in params.items()}
        every = [opt, other, fresh, *clones]
        for one in every:
            one.step(grads)
        for one in every[1:]:
            assert_same(snapshot(one), snapshot(opt))


@both
def test_trains(case: Case) -> None:
    """Least squares with a matrix: the loss falls to a thousandth."""
    rng = np.random.default_rng(0)
    x, true = rng.normal(size=(256, 30)), rng.normal(size=(30, 10))
    W = np.zeros((30, 10))
    lr, steps = case.trains
    opt = case.cls(W, lr=lr)
    losses = []
    for _ in range(steps):
        error = x @ W - x @ true
        losses.append(float((error**2).mean()))
        opt.step(x.T @ error / len(x))
    assert losses[-1] < 1e-3 * losses[0]


@both
def test_row_gradients_are_refused(case: Case) -> None:
    W = np.ones((4, 3), np.float32)
    with pytest.raises(TypeError, match=f"got SparseRows, needs an array for {case.cls.rule}"):
        case.cls(W).step(fs.SparseRows(np.array([0]), np.ones((1, 3), W.dtype)))
    assert (W == 1).all()


@both
def test_jax_lacks_it(case: Case) -> None:
    pytest.importorskip("jax")
    from fusedstep import jax

    assert not hasattr(jax, case.cls.rule)


@both
def test_is_documented(case: Case) -> None:
    root = pathlib.Path(__file__).parent.parent / "docs"
    if not root.exists():
        pytest.skip("the pages are in the repository only")
    name, rule = case.cls.__name__, RULES[case.cls.rule]
    row = re.search(rf"^\| `{name}` \|.*", (root / "optimizers.md").read_text(), re.M)
    assert row and all(f"`{state.name}`" in row[0] for state in rule.states)
    for page in ("choose", "conventions", "memory", "torch"):
        assert name in (root / f"{page}.md").read_text(), page
    given = inspect.signature(case.cls).parameters
    assert {name: given[name].default for name in rule.hypers} == rule.hypers
