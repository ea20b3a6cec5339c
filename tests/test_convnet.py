"""The convolutional network: its gradients against differences, its layers against SciPy and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusedstep.demo.convnet import ConvNet


def task(image: tuple[int, ...], examples: int = 6, classes: int = 4) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((int(np.prod(image)), examples)), rng.integers(0, classes, examples)


@pytest.mark.parametrize("image", [(4, 4), (6, 8), (7, 5), (5, 6, 3)])
@pytest.mark.parametrize("dropout", [(0.0, 0.0), (0.25, 0.5)])
def test_gradients_are_the_differences(image: tuple[int, ...], dropout: tuple[float, float]) -> None:
    x, y = task(image)
    net = ConvNet(image, 4, filters=3, units=5, dropout=dropout, seed=1, dtype=np.float64)
    for name in ("b1", "b2", "b3"):
        net.params[name] += 0.1

    def cost() -> float:
        net._dropping = np.random.default_rng(7)  # the same values dropped every time
        return net.gradients(x, y)

    before = cost()
    grads = {name: array.copy() for name, array in net.grads.items()}
    assert any(np.abs(g).max() > 1e-3 for g in grads.values())
    for name, param in net.params.items():
        flat, expected = param.reshape(-1), np.empty(param.size)
        for i in range(flat.size):
            kept, h = flat[i], 1e-6
            flat[i] = kept + h
            above = cost()
            flat[i] = kept - h
            expected[i] = (above - cost()) / (2 * h)
            flat[i] = kept
        np.testing.assert_allclose(grads[name].reshape(-1), expected, rtol=1e-6, atol=1e-9, err_msg=name)
    assert cost() == before


@pytest.mark.parametrize("image", [(8, 8), (7, 9), (6, 6, 2)])
def test_torch_gives_the_same_logits_and_gradients(image: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, y = task(image)
    net = ConvNet(image, 4, filters=3, units=5, dropout=(0.0, 0.0), dtype=np.float64)
    cost = net.gradients(x, y)
    p = {name: torch.tensor(array, requires_grad=True) for name, array in net.params.items()}
    height, width, channels = (*image, 1)[:3]
    images = torch.tensor(x.T.reshape(-1, height, width, channels)).permute(0, 3, 1, 2)
    pooled = functional.max_pool2d(functional.relu(functional.conv2d(images, p["W1"], p["b1"])), 2)
    hidden = functional.relu(functional.linear(pooled.permute(0, 2, 3, 1).flatten(1), p["W2"], p["b2"]))
    loss = functional.cross_entropy(functional.linear(hidden, p["W3"], p["b3"]), torch.tensor(y))
    loss.backward()
    assert cost == pytest.approx(loss.item(), rel=1e-12)
    assert net.cost(x, y) == pytest.approx(cost, rel=1e-14)
    for name, grad in net.grads.items():
        np.testing.assert_allclose(grad, p[name].grad.numpy(), rtol=1e-10, atol=1e-14, err_msg=name)


def test_the_seed_decides() -> None:
    x, y = task((8, 8), classes=10)
    first, second, other = (
        ConvNet((8, 8), 10, seed=3),
        ConvNet((8, 8), 10, seed=3),
        ConvNet((8, 8), 10, seed=4),
    )
    x = x.astype(np.float32)
    costs = [[net.gradients(x, y) for _ in range(3)] for net in (first, second, other)]
    assert costs[0] == costs[1] != costs[2]
    assert len(set(costs[0])) == 3  # dropout draws anew every time
    assert {array.dtype for array in (*first.params.values(), *first.grads.values())} == {np.dtype(np.float32)}


def test_gradients_stay_where_they_are_bound() -> None:
    net = ConvNet((8, 8), 10)
    bound = dict(net.grads)
    x, y = task((8, 8))
    net.gradients(x.astype(np.float32), y)
    assert all(net.grads[name] is array and array.any() for name, array in bound.items())


def test_predictions() -> None:
    x, y = task((8, 8), 50)
    net = ConvNet((8, 8), 4, dropout=(0.0, 0.0), dtype=np.float64)
    for _ in range(60):
        net.gradients(x, y)
        for name, param in net.params.items():
            param -= 0.1 * net.grads[name]
    assert net.accuracy(x, y) == np.mean(net.predict(x) == y) == 1.0


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (((3, 8), 10), {}),
        (((8,), 10), {}),
        (((8, 8), 0), {}),
        (((8, 8), 10), {"dropout": (0.5, 1.0)}),
        (((8, 8), 10), {"units": 0}),
    ],
)
def test_bad_arguments(arguments: Any, options: Any) -> None:
    with pytest.raises(ValueError, match=r"got .*, needs"):
        ConvNet(*arguments, **options)


def test_many_examples_are_evaluated_in_pieces_and_all_of_them() -> None:
    x, y = task((5, 5), examples=1100)
    net = ConvNet((5, 5), 4, filters=3, units=5, dtype=np.float64)
    one_by_one = [net.cost(x[:, at : at + 1], y[at : at + 1]) for at in range(1100)]
    assert net.cost(x, y) == pytest.approx(np.mean(one_by_one), rel=1e-12)
    assert net.predict(x).tolist() == [int(net.predict(x[:, at : at + 1])[0]) for at in range(1100)]
