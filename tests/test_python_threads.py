"""Several Python threads with different optimizers, and with one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same, numbers, running, snapshot

import fusedstep as fs
from fusedstep import _core

LARGE = 200_000  # elements: worth a dozen threads


def test_different_optimizers_at_once() -> None:
    """Each leaves the bytes it leaves alone; the native steps run beside each other."""

    def work(seed: int) -> Any:
        params = [numbers(LARGE // 2, np.float32, seed), numbers(77, np.float32, seed)]
        optimizer = fs.Adam(params, lr=0.1, max_grad_norm=1.0, state_format="8bit")
        for t in range(6):
            optimizer.step([numbers(LARGE // 2, np.float32, 100 * seed + t), numbers(77, np.float32, seed)])
        return snapshot(optimizer)

    with running(threads=2):
        alone = [work(seed) for seed in range(4)]
        found: dict[int, Any] = {}
        threads = [threading.Thread(target=lambda seed=seed: found.update({seed: work(seed)})) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert_same([found[seed] for seed in range(4)], alone)


def test_one_optimizer_in_two_threads() -> None:
    """The second step is refused while the first runs; no step is lost or half done."""
    size = 8_000_000
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = fs.SGD(param, lr=1.0)
    taken, refused, ready = [0] * 4, [0] * 4, threading.Barrier(4)
    rounds = 0

    def work(k: int) -> None:
        ready.wait()
        for _ in range(12):
            try:
                taken[k] += optimizer.step(grad)
            except RuntimeError as error:
                assert str(error) == "step(): another thread is taking a step with this optimizer"
                refused[k] += 1

    while rounds < 10 and not any(refused):  # until two steps meet
        rounds += 1
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sum(taken) + sum(refused) == 48 * rounds and sum(taken) == optimizer.steps_taken
    assert sum(refused) > 0, "the steps never met: make them longer"
    assert (param == -sum(taken)).all()


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def keep() -> None:
        try:
            found.append(work())
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join(60)
    return found[0]


def test_exclusive_keeps_steps_of_other_threads_out() -> None:
    optimizer, grad = fs.SGD(param := np.zeros(3), lr=1.0), np.ones(3)
    with optimizer._model.exclusive("state_dict()"):
        refused = "step(): another thread is saving, loading or changing this optimizer"
        assert in_thread(lambda: optimizer.step(grad)) == refused and not param.any()
        with optimizer._model.exclusive("deepcopy()"):
            assert in_thread(lambda: optimizer.step(grad)) == refused
        assert in_thread(lambda: optimizer.step(grad)) == refused
        assert optimizer.step(grad), "the thread that holds the claim may step"
        assert in_thread(lambda: optimizer.step(grad)) == refused
    assert in_thread(lambda: optimizer.step(grad)) is True
    with pytest.raises(KeyError), optimizer._model.exclusive("load_state_dict()"):
        raise KeyError
    assert optimizer.step(grad) and (param == -3).all()


def test_exclusive_is_refused_during_a_step() -> None:
    grad = np.ones(4_000_000, np.float32)
    optimizer = fs.SGD(np.zeros_like(grad), lr=1.0)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with contextlib.suppress(RuntimeError):
                optimizer.step(grad)

    thread = threading.Thread(target=work)
    thread.start()
    refused = ""
    for _ in range(100_000):
        try:
            with optimizer._model.exclusive("state_dict()"):
                pass
        except RuntimeError as error:
            refused = str(error)
            break
    stop.set()
    thread.join(60)
    assert refused == "state_dict(): another thread is taking a step with this optimizer"


def test_exclusive_within_a_step() -> None:
    """A schedule that would save or step in the middle of a step."""
    found: list[str] = []

    def rate(step: int) -> float:
        for what in (lambda: optimizer._model.exclusive("state_dict()").__enter__(), lambda: optimizer.step(grad)):
            with pytest.raises(RuntimeError) as error:
                what()
            found.append(str(error.value))
        return 1.0

    optimizer, grad = fs.SGD(np.zeros(3), lr=1.0), np.ones(3)
    optimizer.param_groups[0]["lr"] = rate
    assert optimizer.step(grad)
    during = ": called during a step of this optimizer"
    assert set(found) == {"state_dict()" + during, "step()" + during}


def test_exclusive_of_a_model_that_takes_the_place_of_another() -> None:
    first, second = (_core.Model("sgd", None, None) for _ in range(2))
    second.share_claim(first)
    with first.exclusive("add_param_group()"):
        assert "another thread" in in_thread(lambda: second.exclusive("step").__enter__())
    with second.exclusive("step"):
        pass


def test_loading_while_a_step_runs_is_refused_or_waits() -> None:
    """Saving, loading and setting options from another thread never tear a step apart."""
    param, grad = np.zeros(4_000_000, np.float32), np.ones(4_000_000, np.float32)
    optimizer = fs.SGD(param, lr=1.0, momentum=0.5)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            optimizer.max_grad_norm = None
            optimizer.param_groups[0]["lr"] = 1.0
            repr(optimizer)

    other = threading.Thread(target=change)
    other.start()
    for _ in range(20):
        optimizer.step(grad)
    stop.set()
    other.join(20)
    assert (param == param[0]).all()
