"""Python code that runs while a step looks at its arguments, and frees or retypes what was looked at before."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

N = 300_000  # memory that goes back to the system when it is freed


def ones(n: int = N, dtype: Any = np.float32) -> Any:
    return np.ones(n, dtype)


class Asked(np.ndarray):
    """Calls a function when it is asked whether it has a mask."""

    call: Callable[[], Any] = staticmethod(lambda: None)

    def __getattr__(self, name: str) -> Any:
        if name == "mask":
            type(self).call()
        raise AttributeError(name)


def asked(call: Callable[[], Any], n: int = 4) -> Any:
    kind = type("Asking", (Asked,), {"call": staticmethod(call)})
    return ones(n).view(kind)


def freed(array: Any) -> Callable[[], Any]:
    return lambda: array.resize(0, refcheck=False)


def test_a_gradient_frees_the_one_before() -> None:
    params, first = [ones(), ones(4)], ones()
    optimizer = fs.Adam(params)
    with pytest.raises(ValueError, match="changed in place"):
        optimizer.step([first, asked(freed(first))])
    assert (params[0] == 1).all() and (params[1] == 1).all() and optimizer.steps_taken == 0


def test_a_gradient_frees_its_parameter() -> None:
    params = [ones(), ones(4)]
    optimizer = fs.Adam(params)
    with pytest.raises(ValueError, match="changed in place"):
        optimizer.step([ones(), asked(freed(params[0]))])
    assert (params[1] == 1).all() and optimizer.steps_taken == 0


@pytest.mark.parametrize("between", [False, True], ids=["bound", "given in between"])
def test_a_bound_gradient_frees_the_one_before(between: bool) -> None:
    for number in range(1, 5):  # of the question that it answers so
        questions = 0
        params, first = [ones(), ones(4)], ones()

        def call(number: int = number, first: Any = first) -> None:
            nonlocal questions
            questions += 1
            if questions == number:
                first.resize(0, refcheck=False)

        second = asked(call)
        try:
            optimizer = fs.SGD(params, grads=[first, second], lr=1.0)
            if between:
                optimizer.step([ones(), ones(4)])
            optimizer.step()
        except ValueError as error:
            assert "changed in place" in str(error) or "shape" in str(error)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_parameter_retyped_while_its_gradient_is_looked_at() -> None:
    params = [ones(4), ones(), ones(4)]
    optimizer = fs.SGD(params, lr=1.0)
    there = asked(lambda: setattr(params[1], "dtype", np.float64))
    back = asked(lambda: setattr(params[1], "dtype", np.float32))
    with pytest.raises(ValueError):
        optimizer.step([there, ones(N // 2), back])
    assert (params[1] == 1).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_table_retyped_while_its_rows_are_looked_at() -> None:
    table = np.ones((1000, 4), np.float32)
    params = [ones(4), table, ones(4)]
    optimizer = fs.SGD(params, lr=1.0)
    there = asked(lambda: setattr(table, "dtype", np.uint8))
    back = asked(lambda: setattr(table, "dtype", np.float32))
    rows = fs.SparseRows(np.array([999]), np.ones((1, 16), np.float32))
    with pytest.raises((TypeError, ValueError)):
        optimizer.step([there, rows, back])
    assert (table.view(np.float32) == 1).all()


def test_scales_free_their_codes() -> None:
    codes, zeros = np.zeros(N, np.uint8), np.zeros(N, np.uint8)
    blocks = -(-N // 256)
    scales = asked(freed(codes), blocks)
    param = ones()
    with pytest.raises(ValueError):
        fs.functional.adam(param, ones(), (codes, scales), (zeros, ones(blocks)), step=1)
    assert (param == 1).all()


def test_a_key_that_is_compared_frees_a_gradient() -> None:
    class Key:
        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            for grad in grads.values():
                if grad.size == N:
                    grad.resize(0, refcheck=False)
            return isinstance(other, Key) and self.name == other.name

    grads: dict[Any, Any] = {}
    optimizer = fs.Adam({Key("a"): ones(), Key("b"): ones(4)})
    grads = {Key("a"): ones(), Key("b"): ones(4)}
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(grads)


def test_a_traced_schedule_frees_everything() -> None:
    params, grads = [ones(), ones(4)], [ones(), ones(4)]
    optimizer = fs.Adam(params, lr=lambda t: 1e-3)

    def trace(*_: Any) -> Any:
        for array in (params[0], grads[0]):
            array.resize(0, refcheck=False)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(ValueError):
            optimizer.step(grads)
    finally:
        sys.settrace(before)


# ---- an optimizer's own arrays as further parameters ----


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "ema"])
def test_a_state_cannot_become_a_parameter(name: str) -> None:
    optimizer = fs.Adam({"a": ones(64), "b": ones(64)}, ema_decay=0.5)
    with pytest.raises(ValueError, match=rf'params\[0\]\["b"\] {name}: got memory that overlaps params\[1\]'):
        optimizer.add_param_group({"params": optimizer.state[1][name]})
    assert optimizer.step({"a": ones(64), "b": ones(64)})
