"""The optimizers for Keras against Keras's own: 50 steps from the same weights with the same gradients.

In float64 weights and optimizer variables agree within 1e-12, element by element, which shows that the formulas are the
same; within 5e-6 with clipping, averaging or a decay times a rate in a variable, for which Keras rounds constants to
float32 whatever the dtype. In float32 they agree within 1e-5 (weights of order one, which move by up to 0.5): there
Keras also derives its bias corrections in float32, of which 1 - 0.999 keeps four digits.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

keras = pytest.importorskip("keras")
torch = pytest.importorskip("torch")

import fusedstep as fs  # noqa: E402
import fusedstep.keras as fk  # noqa: E402  (needs the two above)

# Keras hands its variables to NumPy in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

Array = NDArray[Any]
CLASSES = fk.optimizers.__all__
SHAPES = [(7, 5), (5,), (), (3, 2, 4), (0, 3)]
ATOL = {"float64": 1e-12, "float32": 1e-5}
ROUNDED = {"clipnorm", "clipvalue", "global_clipnorm", "use_ema"}  # Keras works with float32 constants there


def rate() -> float:
    """A learning rate that is a plain number, not a float32 variable: Keras then works in float64 throughout."""
    return 0.01


def decaying() -> Any:
    return keras.optimizers.schedules.ExponentialDecay(0.02, decay_steps=10, decay_rate=0.5, staircase=True)


def variables(dtype: str = "float64") -> list[Any]:
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=s), dtype=dtype, name=f"v{i}") for i, s in enumerate(SHAPES)]


@functools.cache
def _gradients(dtype: str, seed: int) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    return tuple(torch.tensor(rng.normal(size=s), dtype=getattr(torch, dtype)) for s in SHAPES)


def gradients(dtype: str = "float64", seed: int = 1) -> list[Any]:
    return list(_gradients(dtype, seed))


def values(items: list[Any]) -> list[Array]:
    return [keras.ops.convert_to_numpy(item).copy() for item in items]


def run(optimizer: Any, weights: list[Any], steps: int = 50, dtype: str = "float64", missing: bool = False) -> None:
    for t in range(steps):
        grads = gradients(dtype, seed=t)
        if missing and t % 3 == 1:
            grads[1] = None
        optimizer.apply(grads, weights)


def agree(ours: Any, theirs: Any, mine: list[Any], yours: list[Any], atol: float) -> None:
    for a, b in zip(values(mine), values(yours), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)
    assert len(ours.variables) == len(theirs.variables)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5 if atol > 1e-6 else 0, atol=atol, err_msg=a.path)


COMMON: list[dict[str, Any]] = [
    {},
    {"learning_rate": 0.02},
    {"learning_rate": decaying},
    {"learning_rate": rate, "weight_decay": 0.1},
    {"clipnorm": 0.5},
    {"global_clipnorm": 3.0},
    {"global_clipnorm": 1e3},
    {"clipvalue": 0.3},
    {"use_ema": True, "ema_momentum": 0.9},
    {"use_ema": True, "ema_overwrite_frequency": 7},
    {"loss_scale_factor": 8.0},
    {"gradient_accumulation_steps": 4},
    {"gradient_accumulation_steps": 4, "use_ema": True, "ema_overwrite_frequency": 3, "clipnorm": 0.3},
    {"gradient_accumulation_steps": 3, "global_clipnorm": 1.0},
]
OWN: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"momentum": 0.9},
        {"momentum": 0.9, "weight_decay": 0.1},
        {"global_clipnorm": 1e-3, "learning_rate": 2.0},  # where the 1e-6 that torch adds to the norm would show
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.9, "learning_rate": decaying},
        {"momentum": 0.9, "nesterov": True, "learning_rate": decaying, "clipvalue": 0.5},
        {"nesterov": True},
    ],
    "RMSprop": [
        {"momentum": 0.9, "learning_rate": decaying},
        {"centered": True, "epsilon": 1e-3},
        {"centered": True, "momentum": 0.5, "rho": 0.8, "learning_rate": decaying},
    ],
    "Adam": [{"amsgrad": True}, {"epsilon": 0.1}, {"beta_1": 0.8, "beta_2": 0.9}, {"beta_1": 0.0, "beta_2": 0.0}],
    "AdamW": [{"amsgrad": True, "learning_rate": rate, "weight_decay": 0.3}],
    "Adagrad": [{"initial_accumulator_value": 0.0}, {"epsilon": 0.1}],
    "Adadelta": [{"rho": 0.7, "epsilon": 1e-3, "learning_rate": 1.0}],
    "Adamax": [{"epsilon": 0.1}, {"beta_1": 0.8, "beta_2": 0.9}],
    "Nadam": [{"epsilon": 0.1}, {"beta_1": 0.8, "beta_2": 0.9}],
    "Lion": [{"beta_1": 0.5, "beta_2": 0.7}],
}
ROWS = [(name, options) for name in CLASSES for options in COMMON + OWN[name]]


def pair(name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    made = []
    for module in (fk, keras.optimizers):
        given = dict(options)
        given.setdefault("learning_rate", rate)
        if given["learning_rate"] is decaying:
            given["learning_rate"] = decaying()
        made.append(getattr(module, name)(**given))
    return made[0], made[1]


@pytest.mark.parametrize(("name", "options"), ROWS, ids=[re.sub(r" at 0x\w+", "", f"{n}-{o}") for n, o in ROWS])
def test_same_weights_as_keras(name: str, options: dict[str, Any]) -> None:
    for dtype, atol in ATOL.items():
        if dtype == "float32" and options and options in COMMON:
            continue  # what is around the formula does not depend on the dtype
        ours, theirs = pair(name, options)
        mine, yours = variables(dtype), variables(dtype)
        run(ours, mine, dtype=dtype)
        run(theirs, yours, dtype=dtype)
        rounded = ROUNDED & options.keys() or (name == "AdamW" and options.get("learning_rate") is not rate)
        agree(ours, theirs, mine, yours, 5e-6 if rounded and dtype == "float64" else atol)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", CLASSES)
def test_missing_gradients_leave_a_variable_alone(name: str) -> None:
    ours, theirs = pair(name, {"use_ema": True})
    mine, yours = variables(), variables()
    run(ours, mine, missing=True)
    run(theirs, yours, missing=True)
    agree(ours, theirs, mine, yours, 1e-6)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "AdamW", "Nadam", "Lion"])
def test_variables_can_be_left_out_of_the_weight_decay(name: str) -> None:
    ours, theirs = pair(name, {"weight_decay": 0.1})
    mine, yours = variables(), variables()
    ours.exclude_from_weight_decay(var_list=[mine[0]], var_names=["v1"])
    theirs.exclude_from_weight_decay(var_list=[yours[0]], var_names=["v1"])
    run(ours, mine)
    run(theirs, yours)
    agree(ours, theirs, mine, yours, 1e-12)


@pytest.mark.parametrize("name", ["RMSprop", "AdamW"])
def test_all_variables_can_be_left_out_of_the_weight_decay(name: str) -> None:
    """Keras's own optimizers raise then."""
    mine, yours = variables(), variables()
    ours, plain = pair(name, {"weight_decay": 0.1})[0], pair(name, {"weight_decay": 0.0})[0]
    ours.exclude_from_weight_decay(var_names=["v"])
    run(ours, mine, 5)
    run(plain, yours, 5)
    agree(ours, plain, mine, yours, 0.0)


@pytest.mark.parametrize("name", CLASSES)
def test_it_is_the_class_of_keras_with_its_defaults(name: str) -> None:
    ours, theirs = getattr(fk, name)(), getattr(keras.optimizers, name)()
    assert isinstance(ours, getattr(keras.optimizers, name))
    a, b = ours.get_config(), theirs.get_config()
    a.pop("name"), b.pop("name")
    assert a == b
    again = keras.optimizers.deserialize(keras.optimizers.serialize(ours))
    assert type(again) is type(ours)
    assert type(keras.optimizers.get(keras.optimizers.serialize(ours))) is type(ours)
    assert type(ours).from_config(theirs.get_config()).get_config() == theirs.get_config()


def test_attributes_may_change_between_steps() -> None:
    ours, theirs = pair("Adam", {"learning_rate": 0.01})
    mine, yours = variables(), variables()
    for optimizer, weights in ((ours, mine), (theirs, yours)):
        run(optimizer, weights, 5)
        optimizer.beta_1, optimizer.epsilon, optimizer.learning_rate = 0.5, 1e-2, 0.05
        run(optimizer, weights, 5)
        optimizer.iterations.assign(3)
        optimizer.variables[2].assign(np.full(SHAPES[0], 0.5))
        run(optimizer, weights, 5)
    agree(ours, theirs, mine, yours, 1e-12)


@pytest.mark.parametrize("name", CLASSES)
def test_state_goes_over_to_keras_and_back(name: str) -> None:
    """Half the steps with one optimizer and half with the other, by way of a store of saved variables."""
    options = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True}}.get(name, {})
    plain, begun = pair(name, options)
    mine, yours = variables(), variables()
    run(plain, mine, 20)
    run(begun, yours, 10)
    for kind in (type(plain), type(begun)):
        store: dict[str, Any] = {}
        begun.save_own_variables(store)
        begun = kind.from_config({**begun.get_config(), "learning_rate": rate})
        begun.build(yours)
        begun.load_own_variables(store)
        for _ in range(5):
            begun.apply(gradients(seed=int(begun.iterations.numpy())), yours)
    agree(plain, begun, mine, yours, 1e-12)


def network() -> Any:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(25, "sigmoid"), keras.layers.Dense(15, "sigmoid"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input((20,)), *layers])


def data() -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 256)
    return (rng.normal(size=(10, 20))[labels] + 0.1 * rng.normal(size=(256, 20))).astype(np.float32), labels


def train(model: Any, epochs: int) -> list[float]:
    x, y = data()
    return list(model.fit(x, y, batch_size=64, epochs=epochs, shuffle=False, verbose=0).history["loss"])


def compiled(optimizer: Any) -> Any:
    model = network()
    model.compile(optimizer=optimizer, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_fit_saves_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 0.01, "use_ema": name == "Adam"}
    options |= {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True}}.get(name, {})
    whole, theirs = (compiled(optimizer) for optimizer in pair(name, options))
    first = train(whole, 2)
    np.testing.assert_allclose(first, train(theirs, 2), rtol=1e-4)
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.optimizer) is getattr(fk, name)
    assert train(loaded, 2) == train(whole, 2)
    for a, b in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        assert a.tobytes() == b.tobytes()
    for a, b in zip(loaded.optimizer.variables, whole.optimizer.variables, strict=True):
        assert a.numpy().tobytes() == b.numpy().tobytes(), a.path


def test_fit_learns_and_callbacks_reach_the_learning_rate() -> None:
    model = compiled(fk.Adam(learning_rate=0.05))
    x, y = data()
    seen: list[float] = []
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, lr: lr / 2 if epoch else lr)
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(float(model.optimizer.learning_rate)))
    losses = model.fit(x, y, batch_size=32, epochs=6, verbose=0, callbacks=[halve, note]).history["loss"]
    assert losses[-1] < losses[0] / 2
    np.testing.assert_allclose(seen, [0.05 / 2**i for i in range(6)], rtol=1e-6)


def test_schedule_and_early_state_survive_saving(tmp_path: Path) -> None:
    model = compiled(fk.SGD(learning_rate=decaying(), momentum=0.9))
    train(model, 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded.optimizer._learning_rate, keras.optimizers.schedules.ExponentialDecay)
    assert train(loaded, 3) == train(model, 3)


def test_constraints_hold() -> None:
    weight = keras.Variable(np.full((3,), 0.05), dtype="float32", name="w")
    weight.constraint = keras.constraints.NonNeg()
    fk.SGD(learning_rate=1.0).apply([torch.tensor([1.0, -1.0, 0.0])], [weight])
    np.testing.assert_allclose(weight.numpy(), [0.0, 1.05, 0.05], rtol=1e-6)


def test_what_comes_around_a_step_may_come_later() -> None:
    results = []
    for module in (fk, keras.optimizers):
        optimizer, weights = module.Adam(learning_rate=rate), variables()
        run(optimizer, weights, 3)
        weights[0].constraint = keras.constraints.NonNeg()
        run(optimizer, weights, 2)
        optimizer.loss_scale_factor = 4.0
        run(optimizer, weights, 2)
        optimizer.loss_scale_factor = None
        optimizer.apply(gradients())
        with pytest.raises(ValueError, match="Unknown variable"):
            optimizer.apply(gradients(), [*weights[:-1], variables()[-1]])
        with pytest.raises(ValueError, match="No gradients"):
            optimizer.apply([None] * len(weights), weights)
        optimizer.apply([], [])
        results.append([*values(weights), *values(optimizer.variables)])
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_memory_may_move_between_steps() -> None:
    ours, theirs = pair("Adam", {"learning_rate": 0.01})
    mine, yours = variables("float32"), variables("float32")
    run(ours, mine, 3, "float32")
    run(theirs, yours, 3, "float32")
    before = mine[0].value.detach()
    mine[0].value.data = mine[0].value.detach().clone()
    mine[3].value.data = mine[3].value.detach().clone().transpose(0, 2).contiguous().transpose(0, 2)
    kept = before.clone()
    run(ours, mine, 3, "float32")
    run(theirs, yours, 3, "float32")
    agree(ours, theirs, mine, yours, 1e-5)
    assert torch.equal(before, kept)  # what was there before is written no more


def test_other_elements_in_the_memory_of_before() -> None:
    """`.data` may begin where it did and have gaps, another dtype or fewer elements."""
    results = []
    for module in (fk, keras.optimizers):
        weight = keras.Variable(np.ones(8, np.float32), name="a")
        optimizer, there = module.SGD(0.5), torch.empty(16)
        optimizer.build([weight])
        for elements in (there[::2], there.view(torch.bfloat16)[:8], there[:4]):
            weight._value.data = there[:8]
            optimizer.apply([torch.ones(8)])
            torch.arange(1.0, 17.0, out=there)
            weight._value.data = elements
            optimizer.apply([torch.ones_like(elements)])
            results.append(weight._value.detach().clone())
    assert all(map(torch.equal, results[:3], results[3:]))
    weight, optimizer = keras.Variable(np.ones(8, np.float32), name="a"), fk.SGD(0.5, momentum=0.9)
    optimizer.build([weight])
    optimizer.apply([torch.ones(8)])
    weight._value.data = weight._value.data[:4]
    with pytest.raises(ValueError, match=r'^params\["a"\] momentum_buffer: got .* needs'):
        optimizer.apply([torch.ones(4)])


def test_variables_from_an_iterator() -> None:
    weight, optimizer = keras.Variable(np.ones(3), dtype="float32"), fk.SGD(0.5)
    for expected in (0.5, 0.0, -0.5):  # the first builds the optimizer
        optimizer.apply([torch.ones(3)], iter([weight]))
        assert weight.numpy().tolist() == [expected] * 3


@pytest.mark.parametrize("clips", [{"clipnorm": 0.5}, {"clipnorm": 0.0}], ids=str)
def test_of_several_clips_set_later_the_one_of_keras_counts(clips: dict[str, float]) -> None:
    results = []
    for module in (fk, keras.optimizers):
        optimizer, weights = module.SGD(learning_rate=rate), variables()
        for name, value in (clips | {"global_clipnorm": 0.7, "clipvalue": 0.01}).items():
            setattr(optimizer, name, value)
        run(optimizer, weights, 3)
        results.append(values(weights))
    for mine, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-6)


def test_gradients_that_are_views_of_their_negatives() -> None:
    mine, yours = variables(), variables()
    ours, theirs = fk.Adam(0.1), keras.optimizers.Adam(0.1)
    for optimizer, weights in ((ours, mine), (theirs, yours)):
        for _ in range(2):
            optimizer.apply([gradient._neg_view() for gradient in gradients()], weights)
    agree(ours, theirs, mine, yours, 1e-6)


def test_masked_gradients_are_refused() -> None:
    weights = variables()
    before = values(weights)
    masked = [np.ma.masked_less(value, 0.5) for value in before]
    with pytest.raises(TypeError, match="masked"):
        fk.Adam(0.1).apply(masked, weights)
    assert all((one == other).all() for one, other in zip(before, values(weights), strict=True))


def test_gradients_of_other_layouts_and_dtypes_are_converted() -> None:
    ours, theirs = pair("Adam", {})
    mine, yours = variables("float32"), variables("float32")
    for t in range(5):
        grads = gradients("float64", seed=t)
        ours.apply([g.mT.contiguous().mT if g.ndim > 1 else g for g in grads], mine)
        theirs.apply([g.float() for g in grads], yours)
    agree(ours, theirs, mine, yours, 1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CLASSES)
def test_variables_of_16_bits_keep_states_in_float32(name: str, dtype: str) -> None:
    optimizer = getattr(fk, name)(learning_rate=0.01, use_ema=True, gradient_accumulation_steps=2)
    narrow, wide = variables(dtype), variables("float32")
    plain = getattr(fk, name)(learning_rate=0.01, gradient_accumulation_steps=2)
    run(optimizer, narrow, 20, dtype)
    run(plain, wide, 20, "float32")
    assert all(v.dtype == dtype for v in narrow)
    assert {v.dtype for v in optimizer.variables if v.shape == SHAPES[0]} == {"float32"}
    near = [np.asarray(a, dtype=np.float32) for a in (v.value.detach().float() for v in narrow)]
    for a, b in zip(near, values(wide), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.1)


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0")
def test_inside_torch_compile() -> None:
    """What ``jit_compile=True`` does to a train step, with a backend that compiles nothing."""
    ours, theirs = pair("Adam", {"learning_rate": 0.01})
    mine, yours = variables("float32"), variables("float32")
    ours.build(mine)
    step = torch.compile(lambda grads: ours.apply(grads, mine), backend="eager")
    for t in range(3):
        step(gradients("float32", seed=t))
        theirs.apply(gradients("float32", seed=t), yours)
    agree(ours, theirs, mine, yours, 1e-5)


def test_autograd_notices_the_step() -> None:
    weight = keras.Variable(np.ones(3), dtype="float32", name="w")
    loss = (weight.value**2).sum()
    optimizer = fk.Adam()
    optimizer.apply([torch.ones(3)], [weight])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_stateless_apply_changes_nothing_in_place() -> None:
    results = []
    for optimizer in pair("Adam", {}):
        weights = variables("float32")
        optimizer.build(weights)
        before = values(weights)
        new, state = optimizer.stateless_apply(
            [v.value.clone() for v in optimizer.variables],
            gradients("float32"),
            [v.value.detach().clone() for v in weights],
        )
        assert all(a.tobytes() == b.tobytes() for a, b in zip(values(weights), before, strict=True))
        results.append(values(new) + values(state))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_loss_scaling_wraps_it() -> None:
    made = [keras.optimizers.LossScaleOptimizer(o, initial_scale=4.0) for o in pair("Adam", {})]
    weights = [variables("float32"), variables("float32")]
    for optimizer, mine in zip(made, weights, strict=True):
        run(optimizer, mine, 3, "float32")
        optimizer.apply([g * float("inf") for g in gradients("float32")], mine)
        run(optimizer, mine, 3, "float32")
    agree(made[0], made[1], weights[0], weights[1], 1e-5)


def test_centred_rmsprop_stays_finite_where_rounding_makes_the_variance_negative() -> None:
    weight = keras.Variable(np.ones(64), dtype="float32", name="w")
    optimizer = fk.RMSprop(centered=True, epsilon=1e-12)
    grad = torch.linspace(50.0, 5000.0, 64)
    for _ in range(200):
        optimizer.apply([grad], [weight])
    assert np.isfinite(weight.numpy()).all()


def test_infinite_gradients_do_as_in_keras() -> None:
    for options in ({"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {}):
        ends = []
        for optimizer in pair("SGD", options):
            weights = variables("float32")
            grads = gradients("float32")
            grads[0] = grads[0] * float("inf")
            optimizer.apply(grads, weights)
            ends.append(values(weights))
        for a, b in zip(*ends, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Adam", {"beta_1": 1.0}, "beta_1: got 1.0, needs finite and >= 0 and < 1"),
        ("Adam", {"epsilon": -1.0}, "epsilon: got -1.0, needs finite and >= 0"),
        ("RMSprop", {"rho": 1.5}, "rho: got 1.5, needs finite and >= 0 and <= 1"),
        ("RMSprop", {"momentum": float("nan")}, "momentum: got .*, needs finite"),
    ],
)
def test_hyper_parameters_out_of_range(name: str, options: dict[str, Any], message: str) -> None:
    optimizer = getattr(fk, name)(**options)
    weights = variables()
    before = values(weights)
    with pytest.raises(ValueError, match=message):
        optimizer.apply(gradients(), weights)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(values(weights), before, strict=True))


def test_hyper_parameters_of_the_wrong_kind() -> None:
    with pytest.raises(TypeError, match="epsilon: got str, needs a real number"):
        fk.Adam(epsilon="1e-7").build(variables())


@pytest.mark.parametrize(("name", "attribute", "value"), [("SGD", "momentum", 0.9), ("Adam", "amsgrad", True)])
def test_options_that_need_a_state_cannot_come_later(name: str, attribute: str, value: Any) -> None:
    optimizer, weights = getattr(fk, name)(), variables()
    run(optimizer, weights, 2)
    before = values(weights)
    setattr(optimizer, attribute, value)
    with pytest.raises(ValueError, match="call for the state"):
        run(optimizer, weights, 1)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(values(weights), before, strict=True))


def test_gradient_of_another_shape() -> None:
    optimizer, weights = fk.SGD(weight_decay=0.1), variables()
    before = values(weights)
    grads = gradients()
    grads[0] = grads[0].T
    with pytest.raises(ValueError, match=r'grads\["v0"\]: got shape \(5, 7\), needs \(7, 5\)'):
        optimizer.apply(grads, weights)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(values(weights), before, strict=True))


def test_variables_elsewhere_than_on_the_cpu() -> None:
    weight = keras.Variable(np.ones(3), name="w")
    weight._value = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises(
        ValueError, match=r'variables\["w"\]: got a tensor on meta, needs one on the CPU; set .*KERAS_TORCH_DEVICE=cpu'
    ):
        fk.Adam().build([weight])


def test_variables_of_other_dtypes() -> None:
    weight = keras.Variable(np.ones(3), dtype="int32", trainable=False, name="w")
    with pytest.raises(TypeError, match=r'variables\["w"\]: got torch.int32, needs float32'):
        fk.Adam().build([weight])


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"} | environment
    return subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_another_backend_says_which_one_works(backend: str) -> None:
    if backend == "jax":
        pytest.importorskip("jax")
    done = python("import fusedstep.keras", KERAS_BACKEND=backend)
    assert done.returncode == 1
    assert f"ImportError: fusedstep.keras: got Keras's backend '{backend}', needs its torch backend" in done.stderr
    assert "KERAS_BACKEND=torch" in done.stderr


def test_a_missing_backend_says_what_to_do() -> None:
    done = python("import sys; sys.modules['keras'] = None; import fusedstep.keras", KERAS_BACKEND="torch")
    assert "ImportError: fusedstep.keras needs Keras 3 on its torch backend" in done.stderr
    assert "KERAS_BACKEND=torch" in done.stderr


def test_fusedstep_does_not_import_keras() -> None:
    done = python("import sys, fusedstep; print(sorted({'keras', 'torch'} & sys.modules.keys()))")
    assert done.stdout == "[]\n", done.stderr


# ---- docs/conventions.md ----

E1, B1, B2 = 1e-3, 0.8, 0.9
RECIPES: list[tuple[str, dict[str, Any], Any]] = [
    ("SGD", {"momentum": 0.9}, lambda p, lr: fs.SGD(p, lr, 0.9, lr_in_momentum=True)),
    (
        "SGD",
        {"momentum": 0.9, "nesterov": True},
        lambda p, lr: fs.SGD(p, lr, 0.9, nesterov=True, lr_in_momentum=True),
    ),
    (
        "RMSprop",
        {"rho": 0.8, "epsilon": E1, "momentum": 0.9},
        lambda p, lr: fs.RMSprop(p, lr, alpha=0.8, eps=0.0, eps_root=E1, momentum=0.9, lr_in_momentum=True),
    ),
    (
        "Adam",
        {"beta_1": B1, "beta_2": B2, "epsilon": E1},
        lambda p, lr: fs.Adam(p, lr, betas=(B1, B2), eps=lambda t: E1 / (1 - B2 ** (t + 1)) ** 0.5),
    ),
    (
        "Adagrad",
        {"epsilon": E1},
        lambda p, lr: fs.Adagrad(p, lr, initial_accumulator_value=0.1, eps=0.0, eps_root=E1),
    ),
    ("Adadelta", {"rho": 0.8, "epsilon": E1}, lambda p, lr: fs.Adadelta(p, lr, rho=0.8, eps=E1)),
    (
        "Adamax",
        {"beta_1": B1, "beta_2": B2, "epsilon": E1},
        lambda p, lr: fs.Adamax(p, lr, betas=(B1, B2), eps=0.0, eps_norm=E1),
    ),
    (
        "Nadam",
        {"beta_1": B1, "beta_2": B2, "epsilon": E1},
        lambda p, lr: fs.NAdam(p, lr, betas=(B1, B2), eps=E1, momentum_decay=1.0),
    ),
    ("Lion", {"beta_1": B1, "beta_2": B2}, lambda p, lr: fs.Lion(p, lr, betas=(B1, B2))),
]


@pytest.mark.parametrize(("name", "options", "make"), RECIPES, ids=[f"{n}-{o}" for n, o, _ in RECIPES])
def test_the_formulas_of_keras_on_numpy_arrays(name: str, options: dict[str, Any], make: Any) -> None:
    def falling(t: int) -> float:
        return 0.01 / 2 ** (t // 10)

    weights = variables()
    arrays = values(weights)
    theirs: Any = getattr(keras.optimizers, name)(
        learning_rate=lambda: falling(int(theirs.iterations.numpy())), **options
    )
    run(theirs, weights, 30)
    ours = make(arrays, falling)
    for t in range(30):
        ours.step([g.numpy() for g in gradients(seed=t)])
    for a, b in zip(arrays, values(weights), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
