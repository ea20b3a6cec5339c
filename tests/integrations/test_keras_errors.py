"""What goes wrong in a step for Keras says so by name, and leaves every variable as it was."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from isolated import python

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

import fusedstep.keras as fk  # noqa: E402  (needs the two above)

OPTIONS: list[dict[str, Any]] = [
    {"momentum": 0.9, "weight_decay": 0.1},
    {"gradient_accumulation_steps": 2},
    {"use_ema": True, "gradient_accumulation_steps": 2, "weight_decay": 0.1},
]
SUMS = OPTIONS[1:]


def assigned(name: str, value: Any) -> Any:
    return lambda optimizer: setattr(getattr(optimizer, name), "_value", value)


def attribute(name: str, value: Any) -> Any:
    return lambda optimizer: setattr(optimizer, name, value)


def summed(value: Any) -> Any:
    return lambda optimizer: setattr(optimizer._accumulated_gradients[1], "_value", value)


META = torch.ones((), device="meta")
WRONG: list[tuple[Any, str, list[dict[str, Any]]]] = [
    (assigned("_iterations", torch.tensor(-5)), "iterations: got -5, needs >= 0", OPTIONS),
    (assigned("_iterations", torch.tensor(1.5)), "iterations: got float, needs an integer", OPTIONS),
    (assigned("_iterations", META), "iterations: got a tensor on meta, needs one with memory", OPTIONS),
    (assigned("_learning_rate", torch.ones(3)), "learning_rate: got Tensor, needs a real number", OPTIONS),
    (attribute("clipnorm", np.nan), "clipnorm: got nan, needs finite", OPTIONS),
    (attribute("clipvalue", "x"), "clipvalue: got str, needs a real number", OPTIONS),
    (attribute("weight_decay", np.ones(3)), "weight_decay: got ndarray, needs a real number", OPTIONS),
    (attribute("ema_momentum", 2.0), "ema_momentum: got 2.0, needs finite and >= 0 and <= 1", OPTIONS),
    (attribute("ema_overwrite_frequency", "x"), "ema_overwrite_frequency: got str, needs an integer", OPTIONS),
    (attribute("gradient_accumulation_steps", 1.5), "gradient_accumulation_steps: got float, needs an", OPTIONS),
    (attribute("gradient_accumulation_steps", 3), "_steps: got 3, needs None, as the optimizer was", OPTIONS[:1]),
    (attribute("use_ema", True), "use_ema: got True, needs False, as the optimizer was built", OPTIONS[:2]),
    (summed(torch.ones(2)), r'sums of grads\["b"\]: got shape \(2,\), needs \(5,\)', SUMS),
    (summed(torch.ones(5, dtype=torch.float64)), r'sums of grads\["b"\]: got torch.float64', SUMS),
]


@pytest.mark.parametrize(("change", "message", "options"), WRONG, ids=[message for _, message, _ in WRONG])
def test_wrong_options_change_no_variable(change: Any, message: str, options: list[dict[str, Any]]) -> None:
    for chosen in options:
        variables = [keras.Variable(np.ones(n, np.float32), name=name) for n, name in ((4, "a"), (5, "b"))]
        optimizer = fk.SGD(0.1, **chosen)
        optimizer.build(variables)
        optimizer.apply([torch.ones(4), torch.ones(5)])
        change(optimizer)
        there = [v._value for v in (*variables, *optimizer.variables) if not v._value.is_meta]
        before = [value.detach().clone() for value in there]
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.apply([torch.ones(4), torch.ones(5)])
        assert all(map(torch.equal, there, before))


@pytest.mark.parametrize(
    ("grad", "message"),
    [
        (
            torch.ones(4, dtype=torch.complex64),
            r"got a tensor \(torch.complex64, torch.strided\) on cpu, needs a dense",
        ),
        (torch.ones(4).to_sparse(), "torch.sparse_coo.* needs a dense one of numbers"),
        (torch.ones(4, device="meta"), "on meta, needs a dense one of numbers on the CPU"),
        (np.array(["x"] * 4), "got ndarray, needs a tensor or an array"),
    ],
    ids=str,
)
def test_gradients_of_a_kind_that_no_step_takes(grad: Any, message: str) -> None:
    variable = keras.Variable(np.ones(4, np.float32), name="a")
    optimizer = fk.Adam(0.1)
    optimizer.build([variable])
    with pytest.raises(TypeError, match=rf'^grads\["a"\]: .*{message}'):
        optimizer.apply([grad])
    assert (variable.value.detach().numpy() == 1).all()


def test_names_without_utf8() -> None:
    variable, optimizer = keras.Variable(np.ones(3, np.float32), name="\ud800"), fk.SGD(0.5)
    optimizer.apply([torch.ones(3)], [variable])
    assert variable.value.tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match=r'^grads\["\\ud800"\]: got shape'):
        optimizer.apply([torch.ones(4)], [variable])


def test_what_is_no_variable() -> None:
    for wrong in (3, np.ones(3), torch.ones(3)):
        with pytest.raises(TypeError, match=r"^variables: got \w+ among them, needs keras.Variable"):
            fk.Adam().build([wrong])


def test_a_gradient_in_the_memory_of_its_variable_is_that_of_before_the_decay() -> None:
    """As in Keras, which makes a decayed copy."""
    results: list[Any] = []
    for module in (fk, keras.optimizers):
        variable = keras.Variable(np.ones(4, np.float32), name="a")
        optimizer = module.SGD(0.1, momentum=0.9, weight_decay=0.5)
        optimizer.build([variable])
        grad = variable._value.detach() if module is fk else torch.ones(4)
        optimizer.apply([grad])
        results.append(variable.value.detach().numpy())
    np.testing.assert_allclose(results[0], results[1], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, *OPTIONS], ids=str)
def test_variables_made_in_inference_mode_change_in_no_other(options: dict[str, Any]) -> None:
    """torch's operations write before they find that they must not."""
    with torch.inference_mode():
        variables = [keras.Variable(np.ones(4, np.float32), name=name) for name in "ab"]
        optimizer = fk.SGD(0.1, **options)
        optimizer.build(variables)
    everything = [v._value for v in (*variables, *optimizer.variables)]
    before = [value.clone() for value in everything]
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r'^variables\["a"\]: got a tensor made in inference mode, needs torch'):
            optimizer.apply([torch.ones(4)] * 2)
    assert all(map(torch.equal, everything, before))
    with torch.inference_mode():
        optimizer.apply([torch.ones(4)] * 2)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_calls_during_a_step_are_refused(options: dict[str, Any]) -> None:
    """Steps of two threads used one count of steps, and one sum of gradients."""
    optimizer: Any = fk.SGD(0.1, **options)
    variable = keras.Variable(np.ones(4, np.float32), name="a")
    told: list[str] = []
    uses: list[Any] = [
        lambda: optimizer.apply([torch.ones(4)]),
        lambda: optimizer.save_own_variables({}),
        lambda: optimizer.load_own_variables({}),
    ]

    def tell(use: Any) -> None:
        try:
            use()
        except RuntimeError as error:
            told.append(str(error))

    def rate() -> float:
        for use in uses if optimizer.built else ():
            other = threading.Thread(target=tell, args=(use,))
            other.start()
            other.join()
            tell(use)
        return 0.5

    optimizer.build([variable])
    optimizer._learning_rate = rate
    optimizer.apply([torch.ones(4)])
    names = [name for name in ("apply", "save_own_variables", "load_own_variables") for _ in range(2)]
    assert [text.partition("(")[0] for text in told] == names
    assert all("is taking a step" in text or "during a step" in text for text in told)
    uses.clear()
    optimizer.apply([torch.ones(4)])
    assert int(optimizer._iterations.value) == 2


def test_another_number_of_gradients_than_of_variables() -> None:
    variables = [keras.Variable(np.ones(4, np.float32), name=name) for name in "ab"]
    optimizer = fk.Adam(0.1)
    optimizer.build(variables)
    for n in (1, 3):
        with pytest.raises(ValueError, match=rf"^grads: got {n}, needs 2, one for every variable$"):
            optimizer.apply([torch.ones(4)] * n, variables)
    assert int(optimizer.iterations.value) == 0


def test_freed_memory_is_not_read() -> None:
    """torch's own operations would read it, and end the process."""
    code = """
import os
os.environ["KERAS_BACKEND"] = "torch"
import keras, torch
import fusedstep.keras as fk
for options in ({}, {"clipnorm": 1.0}, {"gradient_accumulation_steps": 2}, {"use_ema": True}):
    for dtype in (torch.float32, torch.float64):
        variable = keras.Variable(np.ones(1_000_000, np.float32), name="a")
        optimizer = fk.Adam(0.1, **options)
        optimizer.build([variable])
        grad = torch.ones(1_000_000, dtype=dtype)
        grad.untyped_storage().resize_(0)
        try:
            optimizer.apply([grad])
        except ValueError as error:
            assert "freed or resized" in str(error), error
        else:
            raise AssertionError(options)
        assert (variable.value.detach().numpy() == 1).all()
print("ok")
"""
    done = python(code)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
