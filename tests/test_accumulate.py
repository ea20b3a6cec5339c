"""``accumulate_steps``: several gradients make one step with their mean, byte for byte as the reference defines it."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BFLOAT16, CLASSES, FLOAT16, FLOAT32, FLOAT64, Array, assert_same, snapshot
from isolated import python

import fusedstep as fs

SHAPES = ((3, 5), (4099,))


def parameters(dtype: Any) -> list[Array]:
    rng = np.random.default_rng(3)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES]


def gradients(seed: int, dtype: Any = FLOAT32) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES]


class Sums:
    """The definition: sums in the compute type, and a plain optimizer that steps with them."""

    def __init__(self, plain: fs.Optimizer, steps: int) -> None:
        self.plain, self.steps, self.count = plain, steps, 0
        self.sums: list[Any] = [None] * len(SHAPES)

    def step(self, grads: list[Any], grad_scale: float = 1.0) -> bool:
        for i, grad in enumerate(grads):
            if grad is not None:
                if self.sums[i] is None:
                    compute = FLOAT64 if self.plain._slots[i].param.dtype == FLOAT64 else FLOAT32
                    self.sums[i] = np.zeros(SHAPES[i], compute)
                fs.reference.accumulate(self.sums[i], grad, grad_scale=grad_scale)
        self.count += 1
        if self.count % self.steps:
            return True
        taken = self.plain.step(self.sums, grad_scale=float(self.steps))
        self.sums = [None] * len(SHAPES)
        return taken

    def check(self, optimizer: fs.Optimizer) -> None:
        for mine, theirs in zip(self.plain._slots, optimizer._slots, strict=True):
            assert_same(theirs.param, mine.param)
            assert_same(dict(x for x in theirs.items() if x[0] != "grad_sum"), dict(mine.items()))
        for own, slot in zip(self.sums, optimizer._slots, strict=True):
            assert slot.grad_sum is not None
            assert_same(slot.grad_sum, np.zeros_like(slot.grad_sum) if own is None else own)
        assert optimizer.accumulated == self.count % self.steps
        assert optimizer.steps_taken == self.plain.steps_taken
        assert optimizer.grad_norm == self.plain.grad_norm


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipping": {"max_grad_norm": 0.7, "clip_value": 0.02},
    "ema": {"ema_decay": 0.9, "maximize": True},
    "schedule": {"lr": lambda t: 0.1 / (t + 1)},
    "8bit": {"state_format": "8bit", "min_quantized_size": 0},
    "stochastic": {"rounding": "stochastic", "seed": 5},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, FLOAT16, BFLOAT16], ids=str)
def test_the_bytes_of_the_definition(dtype: Any, options: str) -> None:
    how = OPTIONS[options]
    opt = fs.Adam(parameters(dtype), accumulate_steps=3, **how)
    twin = Sums(fs.Adam(parameters(dtype), **how), 3)
    for seed in range(7):
        grads = gradients(seed, FLOAT16 if seed % 2 else FLOAT32)
        if seed in (1, 3, 4, 5):
            grads[seed % 2] = None
        scale = 2.0 if seed == 2 else 1.0
        assert opt.step(grads, grad_scale=scale) and twin.step(grads, scale)
        twin.check(opt)


@pytest.mark.parametrize("rule", sorted(CLASSES))
def test_every_rule(rule: str) -> None:
    opt = CLASSES[rule](parameters(FLOAT32), accumulate_steps=2)
    twin = Sums(CLASSES[rule](parameters(FLOAT32)), 2)
    for seed in range(5):
        assert opt.step(gradients(seed)) and twin.step(gradients(seed))
        twin.check(opt)


def test_the_mean_of_the_gradients() -> None:
    """Against the mean in float64: the sum and the division round once each."""
    opt, params = fs.SGD(parameters(FLOAT32), lr=1.0, accumulate_steps=4), parameters(FLOAT64)
    for seed in range(4):
        opt.step(gradients(seed))
    for i, slot in enumerate(opt._slots):
        mean = np.mean([gradients(seed)[i].astype(FLOAT64) for seed in range(4)], axis=0)
        np.testing.assert_allclose(slot.param, params[i].astype(FLOAT32) - mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("bound", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_bound_cast_and_cleared_gradients(cast: bool, bound: bool, zero: bool) -> None:
    grads = gradients(0, FLOAT64 if cast else FLOAT32)
    how: dict[str, Any] = {"grads": grads if bound else None, "zero_grads": zero, "cast_grads": cast}
    opt, twin = fs.Adam(parameters(FLOAT32), accumulate_steps=2, **how), Sums(fs.Adam(parameters(FLOAT32)), 2)
    for seed in range(4):
        for grad, new in zip(grads, gradients(seed), strict=True):
            grad[...] = new
        assert opt.step(None if bound else grads)
        assert twin.step(gradients(seed))
        twin.check(opt)
        assert all(not grad.any() for grad in grads) is zero


def test_groups_and_new_groups() -> None:
    opt = fs.SGD([{"params": np.ones(3, np.float32)}], lr=1.0, accumulate_steps=2)
    one = np.ones(3, np.float32)
    opt.step([one])
    opt.add_param_group({"params": np.ones(3, np.float32), "lr": 0.5})
    assert opt.accumulated == 1
    opt.step([one, one])
    assert_same([slot.param for slot in opt._slots], [np.zeros(3, np.float32), np.full(3, 0.75, np.float32)])


def test_a_step_that_is_skipped_clears_the_sums() -> None:
    opt = fs.Adam(parameters(FLOAT32), accumulate_steps=2, skip_nonfinite=True)
    before, bad = snapshot(opt), gradients(0)
    bad[1][7] = np.inf
    assert opt.step(bad) and opt.skipped_steps == 0
    assert not opt.step(gradients(1)) and opt.skipped_steps == 1 and opt.accumulated == 0
    assert_same(snapshot(opt), before)
    assert opt.step(gradients(1)) and opt.step(gradients(2)) and opt.steps_taken == 1


def test_the_number_can_be_changed() -> None:
    opt = fs.SGD(parameters(FLOAT32), lr=1.0, accumulate_steps=3)
    assert (opt.accumulate_steps, opt.accumulated) == (3, 0)
    opt.step(gradients(0))
    opt.step(gradients(1))
    with pytest.raises(ValueError, match=r"^accumulate_steps: got 2, needs more than the 2 gradients that are summed"):
        opt.accumulate_steps = 2
    opt.accumulate_steps = 4
    opt.step(gradients(2))
    assert opt.steps_taken == 0
    opt.step(gradients(3))
    assert opt.steps_taken == 1
    opt.accumulate_steps = 1
    opt.step(gradients(4))
    assert opt.steps_taken == 2


# ---- saving ----


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, BFLOAT16], ids=str)
@pytest.mark.parametrize("stop", [0, 1, 2])
def test_resuming_between_the_gradients(stop: int, dtype: Any) -> None:
    def make() -> fs.Optimizer:
        return fs.Adam(parameters(dtype), accumulate_steps=3)

    def feed(optimizer: fs.Optimizer, seeds: range) -> None:
        for seed in seeds:
            grads = gradients(seed)
            grads[0] = None if seed == 3 else grads[0]
            optimizer.step(grads)

    opt = make()
    feed(opt, range(3 + stop))
    saved = opt.state_dict()
    assert ("accumulated" in saved["fusedstep"]) is (stop > 0)
    assert ["grad_sum" in entry for entry in saved["state"].values()] == [stop > 1, stop > 0]
    others = [make(), copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for slot, mine in zip(others[0]._slots, opt._slots, strict=True):
        slot.param[...] = mine.param
    feed(others[0], range(9, 10))  # what it has summed is not what was saved
    for slot, mine in zip(others[0]._slots, opt._slots, strict=True):
        slot.param[...] = mine.param
    others[0].load_state_dict(saved)
    feed(opt, range(3 + stop, 9))
    for other in others:
        feed(other, range(3 + stop, 9))
        assert_same(snapshot(other), snapshot(opt))
        assert other.steps_taken == 3


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_files_between_the_gradients(kind: str, tmp_path: Path) -> None:
    params = [parameters(FLOAT32), parameters(FLOAT32)]
    opt, other = (fs.Adam(each, accumulate_steps=3) for each in params)
    for seed in range(4):
        opt.step(gradients(seed))
    fs.save(tmp_path / f"training.{kind}", params=params[0], optimizer=opt)
    other.step(gradients(9))
    fs.load(tmp_path / f"training.{kind}", params=params[1], optimizer=other)
    assert other.accumulated == 1
    for seed in range(4, 6):
        opt.step(gradients(seed))
        other.step(gradients(seed))
    assert_same(snapshot(other), snapshot(opt))
    assert other.steps_taken == 2


def test_a_state_dict_that_does_not_fit() -> None:
    opt = fs.Adam(parameters(FLOAT32), accumulate_steps=3)
    opt.step(gradients(0))
    opt.step(gradients(1))
    saved = opt.state_dict()
    other = fs.Adam(parameters(FLOAT32))
    before = snapshot(other)
    with pytest.raises(ValueError, match=r'\["accumulated"\]: got 2 gradients that are summed, needs at most'):
        other.load_state_dict(saved)
    assert_same(snapshot(other), before)
    assert opt.step(gradients(2)) and opt.steps_taken == 1
    fs.Adam(parameters(FLOAT32)).load_state_dict(opt.state_dict())  # between steps, any optimizer takes it


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("which", ["param", "grad_sum"])
@pytest.mark.parametrize("calls", [0, 1])
def test_an_array_that_is_reshaped_in_place(which: str, calls: int) -> None:
    """It is found before the gradient is in the sum."""
    opt = fs.Adam(np.ones(12, np.float32), accumulate_steps=2)
    for _ in range(calls):
        opt.step(np.ones(12, np.float32))
    before = opt.state[0]["grad_sum"].copy()
    setattr(getattr(opt._slots[0], which), "shape", (3, 4))  # noqa: B010
    with pytest.raises(ValueError, match=r"^params: got shape .*, needs the same; one of them was reshaped in place"):
        opt.step(np.ones(12, np.float32))
    assert (opt.state[0]["grad_sum"].reshape(-1) == before).all() and opt.accumulated == calls
    setattr(getattr(opt._slots[0], which), "shape", (12,))  # noqa: B010
    assert opt.step(np.ones(12, np.float32))


def test_a_step_that_is_due() -> None:
    """As many gradients as for a step, as an interrupt may leave them: the next call takes that step first."""
    opt = fs.Adam(parameters(FLOAT32), accumulate_steps=3)
    opt.step(gradients(0))
    opt.step(gradients(1))
    due, twin = (fs.Adam(parameters(FLOAT32), accumulate_steps=2) for _ in range(2))
    due.load_state_dict(opt.state_dict())
    assert (due.accumulated, due.steps_taken) == (2, 0)
    for seed in range(3):
        twin.step(gradients(seed))
    assert due.step(gradients(2)) and (due.accumulated, due.steps_taken) == (1, 1)
    assert_same(snapshot(due), snapshot(twin))


def test_an_interrupt_during_a_step_that_is_due_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that an interrupt put off is interrupted itself: the call ends as every interrupted one does."""
    opt = fs.Adam(parameters(FLOAT32), accumulate_steps=3)
    opt.step(gradients(0))
    opt.step(gradients(1))
    due = fs.Adam(parameters(FLOAT32), accumulate_steps=2)
    due.load_state_dict(opt.state_dict())
    right = fs.Adam._step_with_sums
    monkeypatch.setattr(fs.Adam, "_step_with_sums", lambda self: (right(self)[0], KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        due.step(gradients(2))
    assert (due.accumulated, due.steps_taken) == (1, 1)


INTERRUPTED = """
import signal, threading, time

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def storm():
    while not done:
        time.sleep(0.001)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

signal.signal(signal.SIGINT, interrupt)
armed, done, w, g = False, False, np.zeros(SIZE, np.float32), np.ones(SIZE, np.float32)
optimizer = fs.SGD(w, lr=1.0, accumulate_steps=3, cast_grads=CAST)
(slot,), caught, torn, end = optimizer._slots, 0, 0, time.monotonic() + 2.0
thread = threading.Thread(target=storm)
thread.start()
while time.monotonic() < end or not caught:
    try:
        armed = True
        while True:
            optimizer.step(g)
    except KeyboardInterrupt:
        caught += 1
    found = -w.min(), -w.max(), slot.grad_sum.min(), slot.grad_sum.max()
    torn += found != (*2 * [optimizer.steps_taken], *2 * [optimizer.accumulated])
done = True
thread.join()
print(torn, caught > 10)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("size", "cast"), [(1000, False), (1_000_000, False), (100_000, True)])
def test_interrupts_fall_between_whole_calls(size: int, cast: bool) -> None:
    """A signal becomes an exception when native code returns: what it did counts."""
    code = INTERRUPTED.replace("SIZE", str(size)).replace("CAST", str(cast))
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "0 True\n"), done.stdout + done.stderr


# ---- errors ----


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None, [2]])
def test_wrong_numbers(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^accumulate_steps: got .*, needs"):
        fs.SGD(parameters(FLOAT32), accumulate_steps=value)
    opt = fs.SGD(parameters(FLOAT32), accumulate_steps=2)
    with pytest.raises((TypeError, ValueError), match=r"^accumulate_steps: got .*, needs"):
        opt.accumulate_steps = value
    plain = fs.SGD(parameters(FLOAT32))
    plain.accumulate_steps = 1
    with pytest.raises(ValueError, match=r"^accumulate_steps: got 2, needs 1, as this optimizer was made without"):
        plain.accumulate_steps = 2


def test_nothing_has_changed_after_an_error() -> None:
    opt = fs.Adam(parameters(FLOAT32), accumulate_steps=2, zero_grads=True)
    twin = Sums(fs.Adam(parameters(FLOAT32)), 2)
    opt.step(gradients(0))
    twin.step(gradients(0))
    good = gradients(1)
    fixed = gradients(1)
    fixed[1].flags.writeable = False
    rows = fs.SparseRows(np.array([0]), np.ones((1, 5), np.float32))
    bad: list[tuple[Any, str]] = [
        ([good[0], good[1].astype(FLOAT64)], r"grads\[1\]: got dtype float64.*cast_grads=True"),
        ([good[0], good[1][:5]], r"grads\[1\]: got shape \(5,\), needs \(4099,\)"),
        ([good[0]], "grads: got list"),
        ([good[0], 3.0], r"grads\[1\]: got float"),
        ([good[0], opt._slots[1].param], r"grads\[1\]: got memory that overlaps params\[1\]"),
        ([opt._slots[0].states["exp_avg"], good[1]], r"grads\[0\]: got memory that overlaps params\[0\] exp_avg"),
        ([good[0], opt._slots[1].grad_sum], r"grads\[1\]: got memory that overlaps params\[1\] grad_sum"),
        (fixed, r"grads\[1\]: got a read-only array"),
        ([rows, good[1]], r"grads\[0\]: got SparseRows with accumulate_steps=2, needs an array"),
        (None, "grads: got None"),
    ]
    for grads, text in bad:
        with pytest.raises((TypeError, ValueError), match="^" + text):
            opt.step(grads)
        assert_same(good, gradients(1))
        twin.check(opt)
    opt.param_groups[0]["lr"] = lambda t: -1.0
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["lr"\]: got -1'):
        opt.step(good)
    assert_same(good, gradients(1))
    twin.check(opt)
    opt.param_groups[0]["lr"] = 1e-3
    assert opt.step(good) and twin.step(gradients(1))
    twin.check(opt)
    assert not any(grad.any() for grad in good)


@pytest.mark.parametrize("zero", [False, True])
def test_a_step_beyond_float16_leaves_the_sums(zero: bool) -> None:
    param = np.full(5, 60000, np.float16)
    opt = fs.SGD(param, lr=1.0, accumulate_steps=2, zero_grads=zero)
    opt.step(np.full(5, -20000, np.float32))
    grad, before = np.full(5, -9000, np.float32), snapshot(opt)
    with pytest.raises(OverflowError, match="65504"):
        opt.step(grad)
    assert_same([snapshot(opt), grad], [before, np.full(5, -9000, np.float32)])
    opt.lr = 0.25
    assert opt.step(grad)
    assert_same(param, np.full(5, 60000 + 0.25 * 14500, np.float16))


def test_options_of_directions_are_checked_before_the_sums_change() -> None:
    opt = fs.Muon(np.ones((3, 4), np.float32), accumulate_steps=2)
    grad = np.ones((3, 4), np.float32)
    opt.step(grad)
    before = snapshot(opt)
    opt.param_groups[0]["adjust_lr_fn"] = "keller"
    with pytest.raises(ValueError, match=r'param_groups\[0\]\["adjust_lr_fn"\]: got \'keller\', needs one of'):
        opt.step(grad)
    assert_same(snapshot(opt), before)


def test_a_formula_that_raises_leaves_the_sums() -> None:
    class Picky(fs.NumPyOptimizer):
        @staticmethod
        def update(param: Any, grad: Any, *, step: int, lr: float = 1.0) -> None:
            if lr > 1:
                raise ZeroDivisionError("mine")
            param -= lr * grad

    param, grad = np.zeros(4, np.float32), np.ones(4, np.float32)
    opt = Picky(param, accumulate_steps=2)
    opt.step(grad)
    before = snapshot(opt)
    opt.lr = 2.0
    with pytest.raises(ZeroDivisionError, match="mine"):
        opt.step(grad)
    assert_same(snapshot(opt), before)
    opt.lr = 1.0
    assert opt.step(3 * grad)
    assert_same(param, np.full(4, -2, np.float32))


def test_a_schedule_that_steps() -> None:
    opt: Any = None

    def rate(t: int) -> float:
        if opt is not None:
            opt.step(gradients(0))
        return 0.1

    opt = fs.SGD(parameters(FLOAT32), lr=rate, accumulate_steps=2)
    opt.step(gradients(0))
    with pytest.raises(RuntimeError, match="called during a step"):
        opt.step(gradients(0))
    assert opt.accumulated == 1


def test_a_schedule_that_sets_the_number() -> None:
    """A step is the mean of the gradients that are in its sums, whatever is set meanwhile."""
    param = np.zeros(3, np.float32)
    opt: Any = fs.SGD(param, lr=1.0, accumulate_steps=2)
    opt.step(np.full(3, 1.0, np.float32))

    def rate(t: int) -> float:
        opt.accumulate_steps = 16
        return 1.0

    opt.param_groups[0]["lr"] = rate
    opt.step(np.full(3, 3.0, np.float32))
    assert_same(param, np.full(3, -2.0, np.float32))
    assert (opt.steps_taken, opt.accumulated, opt.accumulate_steps) == (1, 0, 16)


def test_memory_is_told() -> None:
    assert fs.SGD(np.zeros(8192, np.float32), accumulate_steps=2).memory() == {
        "params": 4.0,
        "grad_sum": 4.0,
        "total": 8.0,
    }


@pytest.mark.parametrize("bad", [np.zeros(3, FLOAT16), np.zeros(3, int), [0.0]])
def test_errors_of_the_definition(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^total: got"):
        fs.reference.accumulate(bad, np.zeros(3))
    total = np.zeros(3, FLOAT32)
    for grad in (np.zeros(3), np.zeros(2, FLOAT32), total):
        with pytest.raises((TypeError, ValueError), match=r"^(grad: got|total: got memory)"):
            fs.reference.accumulate(total, grad)
    with pytest.raises(ValueError, match=r"^grad_scale: got 0"):
        fs.reference.accumulate(total, np.zeros(3, FLOAT32), grad_scale=0)
