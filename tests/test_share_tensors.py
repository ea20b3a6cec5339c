"""Several native models that step pieces of the same tensors together, here on threads of one process."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import Array, assert_same, numbers

import fusedstep as fs
from fusedstep import _core

SIZES = [5, 9000, 3, 0, 4100]
PLACES = [(0, 0), (1, 4096), (1, 8192), (5, 0)]  # where each of three shares begins, and the end


def piece(array: Array, tensor: int, share: int) -> tuple[int, int]:
    (first, begin), (last, end) = PLACES[share], PLACES[share + 1]
    low = 0 if tensor > first else begin if tensor == first else array.size
    high = array.size if tensor < last else end if tensor == last else 0
    return (low, high) if low < high else (0, 0)


class Together:
    """Adds up what all threads have."""

    def __init__(self, count: int) -> None:
        self.values: list[Array] = [np.zeros(0)] * count
        self.barrier = threading.Barrier(count, timeout=30)

    def sum(self, share: int) -> Callable[[memoryview, int], None]:
        def add(values: memoryview, flags: int) -> None:
            mine = np.frombuffer(values)
            self.values[share] = mine.copy()
            self.barrier.wait()
            mine[...] = sum(self.values)
            self.barrier.wait()

        return add


def in_threads(work: Callable[[int], None]) -> None:
    errors: list[BaseException] = []

    def run(share: int) -> None:
        try:
            work(share)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(share,)) for share in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("cls", [fs.AdamW, fs.LAMB])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_grad_norm": 0.25},
        {"skip_nonfinite": True},
        {"rounding": "stochastic"},
        {"state_format": "8bit", "min_quantized_size": 0},
    ],
)
def test_pieces_have_the_bits_of_the_whole(cls: Any, options: dict[str, Any]) -> None:
    dtype: Any = np.float16 if "rounding" in options else np.float32
    whole, shared = ([numbers(size, dtype, i) for i, size in enumerate(SIZES)] for _ in range(2))
    single = cls(whole, **options)
    together = Together(3)
    places = [[piece(array, t, share) for t, array in enumerate(shared)] for share in range(3)]
    log: list[Any] = []
    opts = []
    for share in range(3):
        opt = cls([array[begin:end] for array, (begin, end) in zip(shared, places[share], strict=True)], **options)
        around = [(begin, n - end) for n, (begin, end) in zip(SIZES, places[share], strict=True)]
        note = log.append if share == 1 else lambda _: None
        opt._model.share_tensors(
            around,
            [(1, 2048) if share < 2 else (4, 2048), (5, 0)],
            lambda note=note: note("begin"),
            lambda bucket, note=note: note(("receive", bucket)),
            together.sum(share),
            lambda bucket, note=note: note(("send", bucket)),
        )
        opts.append(opt)
    for step in range(3):
        grads = [numbers(size, dtype, 10 * step + i) for i, size in enumerate(SIZES)]
        if step == 1 and "skip_nonfinite" in options:
            grads[4][7] = np.inf
        taken = single.step(grads)

        def work(share: int, grads: list[Array] = grads, taken: bool = taken) -> None:
            own = [grad[begin:end] for grad, (begin, end) in zip(grads, places[share], strict=True)]
            assert opts[share].step(own) == taken
            assert opts[share].grad_norm == single.grad_norm

        in_threads(work)
        assert_same(shared, whole, f"step {step}")
    pipelined = cls is fs.AdamW and options.keys() <= {"state_format", "min_quantized_size"}
    order = [("receive", 0), ("send", 0), ("receive", 1), ("send", 1)]
    assert log[:5] == ["begin", *(order if pipelined else sorted(order))]


def test_an_error_of_any_call_ends_the_step() -> None:
    param = np.ones(3, np.float32)
    opt = fs.SGD([param], lr=1.0, max_grad_norm=1.0)
    grad = np.ones(3, np.float32)

    def fails(*_: Any) -> None:
        raise KeyError("lost")

    for failing in range(4):
        calls: list[Any] = [fails if i == failing else lambda *_: None for i in range(4)]
        opt._model.share_tensors([(0, 0)], [(1, 0)], *calls)
        with pytest.raises(KeyError, match="lost"):
            opt.step([grad])
        if failing < 3:  # before anything is sent
            assert (param == 1).all()


@pytest.mark.parametrize(
    ("cls", "dtype", "options"),
    [
        (fs.SGD, np.float32, {"max_grad_norm": 1.0}),
        (fs.AdamW, np.float32, {"skip_nonfinite": True}),
        (fs.LAMB, np.float32, {}),
        (fs.NovoGrad, np.float32, {}),
        (fs.Prodigy, np.float32, {"d0": 0.1}),
        (fs.Prodigy, np.float16, {"d0": 0.1, "cautious": True}),
        (fs.AdamW, np.float32, {"cautious": True}),
        (fs.StableAdamW, np.float32, {"cautious": True}),
        (fs.NAdam, np.float16, {}),
        (fs.NAdam, np.float16, {"cautious": True}),
    ],
)
def test_a_step_without_an_answer_does_not_count(cls: Any, dtype: Any, options: dict[str, Any]) -> None:
    """Whichever sum fails, the first or a later one: parameters, states, counts and scalars are what they were."""
    param, grad = np.ones(3, dtype), np.ones(3, dtype)
    opt = cls([param], **options)
    model, left = opt._model, 0

    def fails(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyError("lost")

    model.share_parts(lambda: None, fails)
    failed = True
    for answers in range(4):
        before = [param.copy(), *(state.copy() for state in opt._slots[0].states.values() if state is not None)]
        scalars, left = model.get_scalars(0), answers
        try:
            opt.step([grad])
        except KeyError:
            assert_same([param, *(s for s in opt._slots[0].states.values() if s is not None)], before, str(answers))
            assert (model.get_step(0), model.get_scalars(0), opt.steps_taken) == (0, scalars, 0)
        else:
            assert answers > 0
            failed = False
            break
    assert not failed


@pytest.mark.parametrize(
    ("pieces", "buckets", "message"),
    [
        ([], [(1, 0)], "pieces: got 0, needs 1"),
        ([(1, 0)], [(1, 0)], "within a block"),
        ([(0, 5)], [(1, 0)], "within a block"),
        ([(0, 0)], [], "ends before the last tensor"),
        ([(0, 0)], [(0, 0)], "ends before the last tensor"),
        ([(0, 0)], [(0, 2)], "ascending places"),
        ([(0, 0)], [(2, 0)], "ascending places"),
        ([(0, 0)], [(1, 0), (0, 0)], "ascending places"),
    ],
)
def test_wrong_pieces_are_refused(pieces: list[tuple[int, int]], buckets: list[tuple[int, int]], message: str) -> None:
    opt = fs.SGD([np.ones(3, np.float32)], lr=1.0)
    with pytest.raises(ValueError, match=message):
        opt._model.share_tensors(pieces, buckets, *[lambda *_: None] * 4)
    assert isinstance(opt._model, _core.Model)
    assert opt.step([np.ones(3, np.float32)])


@pytest.mark.parametrize("how", ["freed", "retyped", "read-only"])
def test_a_gradient_that_changes_while_others_are_waited_for(how: str) -> None:
    param, grad = np.ones(300_000, np.float32), np.ones(300_000, np.float32)
    opt = fs.SGD([param], lr=1.0, zero_grads=True)

    def begin() -> None:
        if how == "freed":
            grad.resize(0, refcheck=False)
        elif how == "retyped":
            setattr(grad, "dtype", np.int32)  # noqa: B010  (a type checker refuses it)
        else:
            grad.flags.writeable = False

    opt._model.share_tensors([(0, 0)], [(1, 0)], begin, lambda bucket: None, lambda *_: None, lambda bucket: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a later NumPy than this one may end it
        with pytest.raises(ValueError, match=r"^grads\[0\]: got an array that was changed in place"):
            opt.step([grad])
    assert (param == 1).all() and opt.steps_taken == 0
    assert how == "freed" or grad.any()
