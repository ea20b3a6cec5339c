"""What a subclass of an optimizer for Keras overrides is called, with the result that Keras's own optimizer has."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

import fusedstep.keras  # noqa: E402

# Keras hands its variables to NumPy in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

NAMES = ["SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "Nadam", "Lion"]


def halved(value: Any) -> Any:
    return [None if v is None else v * 0.5 for v in value]


def overriding(base: Any, name: str, called: list[str]) -> Any:
    """A subclass whose method `name` is told by its effect, and by `called`."""

    class Mine(base):  # type: ignore[misc]
        pass

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        if name == "update_step":
            args = (args[0] * 0.5, *args[1:])
        if name == "_backend_update_step":
            args = (halved(args[0]), *args[1:])
        result = getattr(super(Mine, self), name)(*args, **kwargs)
        if name in ("_clip_gradients", "_clip_by_norm"):
            return halved(result) if isinstance(result, list) else result * 0.5
        if name == "_use_weight_decay":
            return args[0].name == "a"
        if name == "_filter_empty_gradients":
            return halved(result[0]), result[1]
        return result

    def learning_rate(self: Any) -> Any:
        called.append(name)
        return 0.25 * self._get_current_learning_rate()

    setattr(Mine, name, property(learning_rate) if name == "learning_rate" else method)
    return Mine


HOOKS: dict[str, dict[str, Any]] = {
    "update_step": {},
    "learning_rate": {},
    "build": {},
    "apply": {},
    "assign": {},
    "assign_add": {},
    "assign_sub": {},
    "_apply_weight_decay": {"weight_decay": 0.1},
    "_use_weight_decay": {"weight_decay": 0.1},
    "_backend_apply_gradients": {},
    "_backend_update_step": {},
    "_backend_increment_gradient_accumulators": {"gradient_accumulation_steps": 2},
    "_backend_reset_gradient_accumulators": {"gradient_accumulation_steps": 2},
    "_clip_gradients": {"clipvalue": 0.5},
    "_clip_by_norm": {"clipnorm": 0.5},
    "_filter_empty_gradients": {},
    "_overwrite_variables_directly_with_gradients": {},
    "_check_variables_are_known": {},
    "_overwrite_variable_with_gradient": {},
    "_update_model_variables_moving_average": {"use_ema": True},
    "_overwrite_model_variables_with_average_value": {"use_ema": True, "ema_overwrite_frequency": 1},
    "_get_current_learning_rate": {},
    "_get_variable_index": {"gradient_accumulation_steps": 2},
    "add_variable_from_reference": {},
    "finalize_variable_values": {},
}


def trained(make: Any, options: dict[str, Any], dtype: str = "float32", steps: int = 4) -> list[Any]:
    variables = [
        keras.Variable([1.0, -2.0, 3.0], dtype=dtype, name="a"),
        keras.Variable([[0.5]], dtype=dtype, name="b"),
    ]
    optimizer = make(0.1, **options)
    optimizer.build(variables)
    for k in range(steps):
        with torch.no_grad():
            grads = [torch.tensor([1.0, 0.3 * k, -2.0]), torch.tensor([[0.7]])]
            optimizer.apply([g.to(v.value.dtype) for g, v in zip(grads, variables, strict=True)], variables)
    optimizer.finalize_variable_values(variables)
    return [keras.ops.convert_to_numpy(keras.ops.cast(v, "float64")) for v in variables]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_overridden_methods_are_called_as_keras_does(name: str, hook: str) -> None:
    theirs_called: list[str] = []
    ours_called: list[str] = []
    theirs = trained(overriding(getattr(keras.optimizers, name), hook, theirs_called), HOOKS[hook])
    ours = trained(overriding(getattr(fusedstep.keras, name), hook, ours_called), HOOKS[hook])
    assert bool(ours_called) is bool(theirs_called)  # SGD without momentum assigns nothing
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_rule_falls_back_to_keras(name: str) -> None:
    called: list[str] = []
    theirs = trained(overriding(getattr(keras.optimizers, name), "update_step", called), {})
    ours = trained(overriding(getattr(fusedstep.keras, name), "update_step", called), {})
    assert [values.tolist() for values in ours] == [values.tolist() for values in theirs]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_other_dtypes_fall_back_as_well(dtype: str) -> None:
    called: list[str] = []
    theirs = trained(overriding(keras.optimizers.Adam, "update_step", called), {}, dtype)
    ours = trained(overriding(fusedstep.keras.Adam, "update_step", called), {}, dtype)
    assert [values.tolist() for values in ours] == [values.tolist() for values in theirs]


def test_without_overrides_keras_does_not_take_the_step() -> None:
    class Mine(fusedstep.keras.Adam):
        def get_config(self) -> Any:
            return super().get_config()

    plain, mine = trained(fusedstep.keras.Adam, {}), trained(Mine, {})
    assert [values.tolist() for values in plain] == [values.tolist() for values in mine]
    assert not Mine(0.1)._overridden()


@pytest.mark.parametrize("where", ["instance", "class", "mix-in"])
def test_wherever_a_method_is_replaced(where: str) -> None:
    called = []

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        called.append(variable.name)

    class Mine(fusedstep.keras.SGD):
        pass

    if where == "mix-in":
        mixed: Any = type("Mixed", (type("MixIn", (), {"update_step": update_step}), Mine), {})
    else:
        mixed = Mine
    variable = keras.Variable([1.0, 2.0], name="v")
    optimizer = mixed(0.1)
    if where == "class":
        Mine.update_step = update_step
    optimizer.build([variable])
    if where == "instance":
        with torch.no_grad():
            optimizer.apply([torch.ones(2)], [variable])
        assert not called
        variable.assign([1.0, 2.0])
        optimizer.update_step = lambda *args: update_step(optimizer, *args)
    with torch.no_grad():
        optimizer.apply([torch.ones(2)], [variable])
    assert called == ["v"] and variable.numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [{}, {"use_ema": True}, {"gradient_accumulation_steps": 2}, {"clipnorm": 0.1}])
def test_one_variable_twice_gets_two_steps(name: str, options: dict[str, Any]) -> None:
    results = []
    for module in (keras.optimizers, fusedstep.keras):

        class Mine(getattr(module, name)):  # type: ignore[misc]  # so that Keras steps one variable after the other
            pass

        one, two = keras.Variable([1.0, 2.0]), keras.Variable([3.0])
        optimizer = Mine(0.1, **options)
        optimizer.build([one, two])
        with torch.no_grad():
            for _ in range(3):
                optimizer.apply([torch.ones(2), torch.ones(1), torch.full((2,), -3.0)], [one, two, one])
                optimizer.apply([torch.ones(2), torch.ones(1)], [one, two])
        results.append((one.numpy(), two.numpy()))
    for theirs, ours in zip(*results, strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-6)


def test_attributes_of_a_subclass_may_have_any_name() -> None:
    class Mine(fusedstep.keras.Adam):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for name in ("options", "rule", "hypers", "decays", "state_lists", "_stepper", "_given", "_settings"):
                setattr(self, name, {"mine": name})

    assert [v.tolist() for v in trained(Mine, {})] == [v.tolist() for v in trained(fusedstep.keras.Adam, {})]


@pytest.mark.parametrize("schedule", [False, True])
def test_a_model_and_its_optimizer_are_collected(schedule: bool) -> None:
    class Trainer:
        def __init__(self) -> None:
            self.model = keras.Sequential([keras.layers.Dense(2)])
            self.optimizer = fusedstep.keras.Adam(self.rate if schedule else 0.1)
            self.model.compile(optimizer=self.optimizer, loss="mse")
            self.model.fit(torch.ones(4, 3), torch.ones(4, 2), verbose=0)

        def rate(self) -> float:
            return 0.1

    trainer = Trainer()
    left = [weakref.ref(thing) for thing in (trainer, trainer.model, trainer.optimizer)]
    del trainer
    keras.utils.clear_session()
    gc.collect()
    assert [thing() for thing in left] == [None, None, None]
