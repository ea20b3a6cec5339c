"""The network of the demo: its gradients against finite differences, its costs against known values."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fusedstep.demo.network import Hidden, Network, sigmoid

NETWORKS: list[tuple[tuple[int, ...], Hidden]] = [
    ((2, 1), "relu"),
    ((3, 4), "sigmoid"),
    ((2, 6, 4, 1), "relu"),
    ((5, 7, 6, 3), "relu"),
    ((4, 25, 15, 10), "sigmoid"),
    ((3, 5, 1), "sigmoid"),
]


@pytest.mark.parametrize(("sizes", "hidden"), NETWORKS)
def test_gradients_are_the_slope_of_the_cost(sizes: tuple[int, ...], hidden: Hidden) -> None:
    rng = np.random.default_rng(5)
    network = Network(sizes, hidden=hidden, seed=4, dtype=np.float64)
    for array in network.params.values():  # biases too: at zero a wrong bias gradient could hide behind ReLU's corner
        array += 0.1 * rng.standard_normal(array.shape)
    x, y = rng.standard_normal((sizes[0], 9)), rng.integers(0, max(2, sizes[-1]), 9)
    cost = network.gradients(x, y)
    assert cost == network.cost(x, y)
    for name, array in network.params.items():
        slopes = np.empty_like(array)
        for at in np.ndindex(array.shape):
            value, width = array[at], 1e-6
            array[at] = value + width
            above = network.cost(x, y)
            array[at] = value - width
            slopes[at] = (above - network.cost(x, y)) / (2 * width)
            array[at] = value
        np.testing.assert_allclose(network.grads[name], slopes, rtol=1e-6, atol=1e-8, err_msg=name)


def test_gradients_are_written_in_place() -> None:
    network = Network((2, 3, 1))
    before = dict(network.grads)
    network.gradients(np.ones((2, 4), np.float32), np.array([0, 1, 1, 0]))
    assert all(network.grads[name] is array for name, array in before.items())
    assert {array.dtype for array in network.grads.values()} == {np.dtype(np.float32)}


def test_he_initialisation() -> None:
    network = Network((400, 300, 2), seed=3)
    weights = network.params["W1"]
    assert weights.std() == pytest.approx(math.sqrt(2 / 400), rel=0.01)
    assert abs(weights.mean()) < 1e-3
    assert not network.params["b1"].any()
    assert Network((400, 300, 2), seed=3).params["W1"].tobytes() == weights.tobytes()
    assert Network((400, 300, 2), seed=4).params["W1"].tobytes() != weights.tobytes()


def test_cost_of_an_undecided_network_is_the_logarithm_of_the_classes() -> None:
    for outputs, classes in ((1, 2), (2, 2), (10, 10)):
        network = Network((3, outputs), dtype=np.float64)
        network.params["W1"][:] = 0
        cost = network.cost(np.ones((3, 5)), np.zeros(5, np.int64))
        assert cost == pytest.approx(math.log(classes), rel=1e-15)


@pytest.mark.parametrize("outputs", [1, 3])
def test_certainty_neither_overflows_nor_becomes_nan(outputs: int) -> None:
    network = Network((1, outputs))
    network.params["W1"][:, 0] = np.linspace(1, -1, outputs)
    x = np.array([[1000.0, -1000.0]], np.float32)
    assert np.isfinite(network.gradients(x, np.array([0, 1])))
    assert np.isfinite(network.probabilities(x)).all()
    assert all(np.isfinite(array).all() for array in network.grads.values())


def test_probabilities() -> None:
    x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    many = Network((4, 8, 3), seed=1)
    np.testing.assert_allclose(many.probabilities(x).sum(axis=0), 1, rtol=1e-6)
    assert (many.probabilities(x).argmax(axis=0) == many.predict(x)).all()
    one = Network((4, 8, 1), seed=1)
    assert ((one.probabilities(x)[0] > 0.5) == one.predict(x)).all()
    assert one.accuracy(x, one.predict(x)) == 1.0
    np.testing.assert_array_equal(sigmoid(np.array([-np.inf, 0.0, np.inf])), [0, 0.5, 1])


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0), (3, -1, 2)])
def test_impossible_sizes(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes"):
        Network(sizes)


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match=r"hidden: got 'tanh', needs 'relu' or 'sigmoid'"):
        Network((2, 1), hidden="tanh")  # type: ignore[arg-type]
