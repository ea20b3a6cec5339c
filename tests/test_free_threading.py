"""Many threads without rules of their own. On a free-threaded Python nothing but the package keeps them apart."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same, numbers, snapshot

import fusedstep as fs

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
SECONDS = 1.0
BUSY = "another thread is"


def together(*jobs: Callable[[], Any], seconds: float = SECONDS) -> None:
    """Repeat every job in a thread of its own until the time is over; an error in one of them is the test's."""
    errors: list[BaseException] = []
    ready = threading.Barrier(len(jobs))
    stop = threading.Event()

    def repeat(job: Callable[[], Any]) -> None:
        try:
            ready.wait(30)
            while not stop.is_set():
                job()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=repeat, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]


def collect() -> None:
    gc.collect()
    time.sleep(0.01)


class Counted:
    """A job that may be refused while another thread is busy with the same optimizer."""

    def __init__(self, job: Callable[[], Any], *allowed: str) -> None:
        self.job, self.allowed, self.done, self.refused = job, (BUSY, *allowed), 0, 0

    def __call__(self) -> None:
        try:
            self.job()
        except (RuntimeError, ValueError) as error:
            if not any(text in str(error) for text in self.allowed):
                raise
            self.refused += 1
            time.sleep(0)
        else:
            self.done += 1


@pytest.mark.skipif(not FREE_THREADED, reason="this Python has no free threads")
def test_the_import_leaves_the_gil_off() -> None:
    code = "import sys, fusedstep; sys.exit(sys._is_gil_enabled())"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_own_optimizers_leave_what_they_leave_alone() -> None:
    def work(seed: int) -> Any:
        rule = (fs.Adam, fs.LAMB, fs.RMSprop, fs.SGD)[seed % 4]
        dtype = (np.float32, np.float64, np.float16)[seed % 3]
        params = {"a": numbers(300, dtype, seed), "b": [numbers(9000, dtype, seed)]}
        optimizer = rule(params, lr=lambda t: 0.01 / (1 + t), max_grad_norm=1.0, state_format="8bit")
        for t in range(20):
            optimizer.step({"a": numbers(300, dtype, 7 * seed + t), "b": [numbers(9000, dtype, t)]})
        return snapshot(optimizer)

    alone = [work(seed) for seed in range(12)]
    found: dict[int, Any] = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: work(seed)})) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert_same([found[seed] for seed in range(12)], alone)


@pytest.mark.parametrize("size", [16, 3000, 100_000])
@pytest.mark.parametrize("bound", [False, True], ids=["given", "bound"])
def test_steps_of_one_optimizer_are_taken_or_refused(size: int, bound: bool) -> None:
    params = [np.zeros(size, np.float32), np.zeros(3, np.float32)]
    grads = [np.ones(size, np.float32), np.ones(3, np.float32)]
    optimizer = fs.SGD(params, lr=1.0, grads=grads if bound else None)
    jobs = [Counted(lambda: optimizer.step(None if bound else grads)) for _ in range(6)]
    together(*jobs)
    taken = sum(job.done for job in jobs)
    assert taken == optimizer.steps_taken == optimizer.state[0]["step"] > 0
    exact = -float(taken) if taken < 2**24 else -(2.0**24)
    assert all((param == exact).all() for param in params)


def test_what_is_saved_and_read_during_steps_is_whole() -> None:
    """Steps, saving, copying, reading and the garbage collector at once."""
    size = 20_000
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = fs.SGD(param, lr=1.0, momentum=1.0, max_grad_norm=1e9)  # the velocity is the number of the step
    norm = float(np.sqrt(size))

    def saved(state: dict[str, Any]) -> None:
        entry = state["state"][0]
        velocity = entry["momentum_buffer"]
        assert (velocity == velocity[0]).all() and velocity[0] == int(entry["step"])

    def copied() -> None:
        other = copy.deepcopy(optimizer)
        (own,) = (group["params"] for group in other.param_groups)
        assert (own == own[0]).all() and other.state[0]["step"] == other.steps_taken

    def read() -> None:
        assert optimizer.grad_norm is None or abs(optimizer.grad_norm - norm) < 1e-3
        before = optimizer.steps_taken
        assert before <= optimizer.steps_taken and before <= optimizer.state[0]["step"] + 1
        assert optimizer.nonfinite_blocks == 0
        repr(optimizer)
        time.sleep(0)

    optimizer.step(grad)
    step = Counted(lambda: optimizer.step(grad))
    others = [Counted(lambda: saved(optimizer.state_dict())), Counted(copied)]
    others.append(Counted(lambda: pickle.loads(pickle.dumps(optimizer))))
    together(step, *others, read, collect)
    assert step.done + 1 == optimizer.steps_taken and (param == param[0]).all()


def test_options_and_groups_that_other_threads_set() -> None:
    size = 20_000
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = fs.SGD(param, lr=1.0)

    def set_options() -> None:
        optimizer.max_grad_norm = 1e9
        optimizer.skip_nonfinite = True
        optimizer.max_grad_norm = None
        optimizer.skip_nonfinite = False
        for rate in (1.0, 2.0, lambda t: 1.0):
            optimizer.param_groups[0]["lr"] = rate
        optimizer.param_groups[0]["clip_value"] = 5.0
        optimizer.param_groups[0]["clip_value"] = None

    steps = [Counted(lambda: optimizer.step(grad)) for _ in range(3)]
    together(*steps, set_options, set_options, collect)
    taken = sum(step.done for step in steps)
    assert taken == optimizer.steps_taken > 0
    assert (param == param[0]).all() and -2 * taken <= param[0] <= -min(taken, 2**24)


def test_loading_between_steps() -> None:
    """A load is taken whole or refused; so is every step."""
    size = 5000
    param, grad = np.zeros(size, np.float32), np.ones(size, np.float32)
    optimizer = fs.SGD(param, lr=1.0, momentum=1.0)
    optimizer.step(grad)
    kept = optimizer.state_dict()
    steps = [Counted(lambda: optimizer.step(grad)) for _ in range(2)]
    loads = [Counted(lambda: optimizer.load_state_dict(kept)) for _ in range(2)]
    together(*steps, *loads, collect)
    entry = optimizer.state_dict()["state"][0]
    velocity = entry["momentum_buffer"]
    assert (velocity == velocity[0]).all() and velocity[0] == int(entry["step"]) == optimizer.steps_taken
    assert (param == param[0]).all()


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_gradients_whose_containers_change(kind: str) -> None:
    """Entries replaced, removed and put back by other threads: a step uses a gradient of one moment, or is refused."""
    size = 4000
    param = np.zeros(size, np.float32)
    params: Any = {"w": param, "x": np.zeros(2)} if kind == "dict" else [param, np.zeros(2)]
    grads: Any = {"w": np.ones(size, np.float32), "x": np.ones(2)}
    if kind == "list":
        grads = list(grads.values())
    optimizer = fs.SGD(params, lr=1.0)

    def replace() -> None:
        grads["w" if kind == "dict" else 0] = np.ones(size, np.float32)
        np.full(size, 7, np.float32)  # takes the memory that was let go

    def remove() -> None:
        if kind == "dict":
            grads["y"] = grads.pop("x", None)
            grads["x"] = grads.pop("y", None)
        else:
            grads.append(None)
            del grads[2:]
        time.sleep(0.001)

    steps = [Counted(lambda: optimizer.step(grads), "entry", "entries", "structure", "changed") for _ in range(3)]
    together(*steps, replace, remove)
    taken = sum(step.done for step in steps)
    assert taken == optimizer.steps_taken > 0
    assert (param == -taken).all()
