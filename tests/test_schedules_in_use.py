"""Schedules inside an optimizer: asked before every step, saved and resumed with it."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.schedules import cosine, join, linear_warmup, one_cycle, reduce_on_plateau, staircase

STEPS = 40
rng = np.random.default_rng(0)
START = rng.standard_normal(50).astype(np.float32)
GRADS = rng.standard_normal((STEPS, 50)).astype(np.float32)


def walk(opt: Any, first: int = 0, last: int = STEPS) -> None:
    for t in range(first, last):
        opt.step(GRADS[t])


@pytest.mark.parametrize(
    "schedule",
    [
        one_cycle(0.1, STEPS),
        staircase(0.1, 3, 0.5, steps_per_epoch=4),
        join([linear_warmup(0.1, 10), cosine(0.1, 30)], [10]),
        lambda t: 0.1 / (t + 1),
    ],
    ids=["one_cycle", "staircase", "join", "lambda"],
)
def test_it_is_the_rate_set_by_hand(schedule: Any) -> None:
    followed, led = START.copy(), START.copy()
    walk(fs.Adam(followed, lr=schedule))
    by_hand = fs.Adam(led, lr=1.0)
    for t in range(STEPS):
        by_hand.param_groups[0]["lr"] = schedule(t)
        by_hand.step(GRADS[t])
    assert followed.tobytes() == led.tobytes()


def test_any_hyper_parameter_may_follow_one() -> None:
    followed, led = START.copy(), START.copy()
    momentum = join([cosine(0.95, 19, 0.85), cosine(0.85, 20, 0.95)], [19])
    walk(fs.SGD(followed, lr=0.1, momentum=momentum))
    by_hand = fs.SGD(led, lr=0.1, momentum=0.5)
    for t in range(STEPS):
        by_hand.param_groups[0]["momentum"] = momentum(t)
        by_hand.step(GRADS[t])
    assert followed.tobytes() == led.tobytes()


@pytest.mark.parametrize("through_bytes", [False, True])
@pytest.mark.parametrize("joined", [False, True])
def test_a_resumed_run_is_the_same_run(joined: bool, through_bytes: bool) -> None:
    def made(param: Any) -> tuple[Any, reduce_on_plateau]:
        plateau = reduce_on_plateau(0.1, factor=0.5, patience=1)
        return fs.Adam(param, lr=join([linear_warmup(0.1, 5), plateau], [5]) if joined else plateau), plateau

    def walk_and_listen(opt: Any, plateau: reduce_on_plateau, first: int, last: int) -> None:
        for t in range(first, last):
            opt.step(GRADS[t])
            plateau.update(float(np.abs(GRADS[t]).mean()))

    whole = START.copy()
    opt, plateau = made(whole)
    walk_and_listen(opt, plateau, 0, STEPS)
    assert plateau.value < 0.01

    halves = START.copy()
    opt, plateau = made(halves)
    walk_and_listen(opt, plateau, 0, 17)
    saved = opt.state_dict()
    if through_bytes:
        saved = pickle.loads(pickle.dumps(saved))
    halves = halves.copy()
    opt, plateau = made(halves)
    opt.load_state_dict(saved)
    walk_and_listen(opt, plateau, 17, STEPS)
    assert halves.tobytes() == whole.tobytes()


def test_a_schedule_that_gives_nonsense_is_an_error_and_changes_nothing() -> None:
    param = START.copy()
    opt = fs.SGD(param, lr=lambda t: -1.0 if t == 2 else 0.1)
    walk(opt, 0, 2)
    before = param.tobytes()
    with pytest.raises(ValueError, match="lr"):
        opt.step(GRADS[2])
    assert param.tobytes() == before
