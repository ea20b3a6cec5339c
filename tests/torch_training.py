"""Tensors of arrays, and small networks for torch with their training, which several test files use."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cases import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, numbers


def tensor(array: Array) -> Any:
    """A copy."""
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def array(tensor: Any) -> Array:
    """Its values, in its own memory where that is contiguous."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        return np.asarray(tensor.view(torch.int16).numpy()).view(BFLOAT16)
    return np.asarray(tensor.numpy())


SHAPES = ((), (5,), (0, 4), (1, 7), (7, 1), (70, 300), (2, 3, 4), (4, 2, 3, 3))


def parameters(dtype: Any = FLOAT32, shapes: Any = SHAPES) -> list[Any]:
    return [torch.nn.Parameter(tensor(numbers(s, dtype, i, scale=0.1))) for i, s in enumerate(shapes)]


def step(optimizer: Any, params: list[Any], seed: int) -> list[Array]:
    """Steps with random gradients, and returns them."""
    dtypes = {torch.float64: FLOAT64, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}
    grads = [numbers(tuple(p.shape), dtypes.get(p.dtype, FLOAT32), seed + i) for i, p in enumerate(params)]
    for p, g in zip(params, grads, strict=True):
        p.grad = tensor(g)
    optimizer.step()
    return grads


def network(dtype: Any = torch.float32) -> Any:
    torch.manual_seed(3)
    layers = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 2))
    return layers.to(dtype)


def train(model: Any, optimizer: Any, steps: int, schedulers: Any = (), clip: float | None = None) -> list[float]:
    generator = torch.Generator().manual_seed(5)
    dtype = next(model.parameters()).dtype
    losses = []
    for _ in range(steps):
        x = torch.randn(16, 6, generator=generator).to(dtype)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :2]).square().mean()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        losses.append(loss.item())
    return losses


def assert_same(mine: Any, theirs: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def matrix_network(dtype: Any = torch.float32) -> Any:
    """Matrices, two of them equal, a convolution, vectors, and a stack of experts."""
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 20),
        torch.nn.Tanh(),
        torch.nn.Linear(20, 20),
        torch.nn.Linear(20, 20),
    )
    net.register_parameter("experts", torch.nn.Parameter(torch.randn(3, 4, 5)))
    return net.to(dtype)


def matrix_loss(net: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    dtype = net.experts.dtype
    x = torch.randn(8, 1, 6, 6, generator=generator).to(dtype)
    return (net(x) - x.flatten(1)[:, :20]).square().mean() + 0.01 * (net.experts - 1).square().mean()


def train_matrices(net: Any, optimizer: Any, seeds: Any) -> list[float]:
    values = []
    for seed in seeds:
        optimizer.zero_grad()
        value = matrix_loss(net, seed)
        value.backward()
        optimizer.step()
        values.append(value.item())
    return values
