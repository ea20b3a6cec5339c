"""`fusedstep.keras.Watch` and the optimizers' `watch`: the figures are those of the optimizers for NumPy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

keras = pytest.importorskip("keras")
pytest.importorskip("torch")

import fusedstep.keras as fk  # noqa: E402  (needs the two above)

# Keras hands its variables to NumPy in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def variables(seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [keras.Variable(rng.standard_normal(shape).astype(np.float32), name=name) for name, shape in SHAPES.items()]


SHAPES = {"W": (30, 100), "b": (7,)}


def gradients(seed: int) -> list[Any]:
    rng = np.random.default_rng([seed, 1])
    return [rng.standard_normal(shape).astype(np.float32) for shape in SHAPES.values()]


def model() -> Any:
    keras.utils.set_random_seed(1)
    made = keras.Sequential([keras.Input((5,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    made.compile(optimizer=fk.Adam(0.01), loss="mse")
    return made


@pytest.mark.parametrize("options", [{}, {"global_clipnorm": 1.0, "use_ema": True}, {"clipvalue": 0.5}], ids=str)
def test_figures_are_those_of_numpy(options: dict[str, Any]) -> None:
    held = variables()
    values = {v.path: v.numpy().copy() for v in held}
    optimizer = fk.Adam(0.01, epsilon=1e-30, **options)
    clip: dict[str, Any] = {"max_grad_norm": options.get("global_clipnorm"), "clip_value": options.get("clipvalue")}
    numpys = fs.Adam(values, lr=float(np.float32(0.01)), eps=1e-30, **clip)
    watch, native = optimizer.watch(every=2), numpys.watch(every=2)
    for t in range(5):
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients(t)], held)
        numpys.step(dict(zip(values, gradients(t), strict=True)))
        assert watch.last.step == native.last.step == t // 2 * 2 + 1
        for name in values:
            np.testing.assert_allclose(watch.last[name], native.last[name], rtol=1e-5)
            assert watch.last[name].grad_norm == native.last[name].grad_norm
            one, other = watch.last.rates(name), native.last.rates(name)
            assert one is not None and other is not None
            np.testing.assert_array_equal(one.counts, other.counts)
            np.testing.assert_allclose(one.edges, other.edges, rtol=1e-6)
    with pytest.raises(ValueError, match="watch: got an optimizer that is watched"):
        optimizer.watch()
    optimizer.beta_1 = 0.5  # the native model is made anew
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients(9)], held)
    assert len(watch.history) == 3
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients(9)], held)
    assert [seen.step for seen in watch.history] == [1, 3, 5, 7]
    watch.close()
    optimizer.watch().close()


def test_accumulation_as_keras_does_it() -> None:
    """`gradient_accumulation_steps`: the mean of so many gradients makes a step, as `accumulate_steps` does."""
    held = variables()
    values = {v.path: v.numpy().copy() for v in held}
    optimizer = fk.Adam(0.01, epsilon=1e-30, gradient_accumulation_steps=4)
    numpys = fs.Adam(values, lr=float(np.float32(0.01)), eps=1e-30, accumulate_steps=4)
    watch, native = optimizer.watch(every=1), numpys.watch(every=1)
    for t in range(12):
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients(t)], held)
        numpys.step(dict(zip(values, gradients(t), strict=True)))
    assert [seen.step for seen in watch.history] == [seen.step for seen in native.history] == [1, 2, 3]
    for variable, value in zip(held, values.values(), strict=True):
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(watch.last[variable.path], native.last[variable.path], rtol=1e-5)


def test_the_callback(tmp_path: Path) -> None:
    x, y = np.ones((40, 5), np.float32), np.ones((40, 1), np.float32)
    made, watch = model(), fk.Watch(every=3)
    assert (watch.history, dict(watch.last)) == ([], {})
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    done = made.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[watch, log])
    assert [seen.step for seen in watch.history] == list(range(1, 21, 3))
    assert done.history["watch/ratio"][-1] == watch.last.model.ratio
    assert done.history["watch/step"] == [10.0, 19.0]
    with open(tmp_path / "log.csv", newline="") as file:
        assert [float(row["watch/step"]) for row in csv.DictReader(file)] == [10.0, 19.0]
    assert sorted(watch.last) == sorted(v.path for v in made.trainable_variables)
    made.fit(x, y, batch_size=4, verbose=0)  # no longer watched
    assert len(watch.history) == 7
    made.fit(x, y, batch_size=40, verbose=0, callbacks=[watch])  # anew
    assert [seen.step for seen in watch.history] == [31]


def test_metrics() -> None:
    made, watch = model(), fk.Watch(every=1)
    made.fit(np.ones((8, 5)), np.ones((8, 1)), batch_size=4, verbose=0, callbacks=[watch])
    flat = watch.last.metrics()
    assert f"ratio/{made.trainable_variables[0].path}" in flat


def test_mistakes() -> None:
    made = model()
    made.compile(optimizer=keras.optimizers.Adam(), loss="mse")
    with pytest.raises(TypeError, match=r"optimizer: got Adam, needs one of fusedstep.keras"):
        made.fit(np.ones((8, 5)), np.ones((8, 1)), verbose=0, callbacks=[fk.Watch()])
    made = model()
    with pytest.raises(ValueError, match="every: got 0"):
        made.fit(np.ones((8, 5)), np.ones((8, 1)), verbose=0, callbacks=[fk.Watch(every=0)])
