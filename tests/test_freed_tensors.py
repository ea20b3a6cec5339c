"""torch tensors whose memory was freed or shortened: read for NumPy arrays, and arguments of torch optimizers."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import assert_same

import fusedstep as fs

torch = pytest.importorskip("torch")

import fusedstep.torch as ft  # noqa: E402

LEFT = [0, 8]
"""Bytes that are left of a tensor's memory; NumPy takes other memory where there are none."""


def freed(left: int, *shape: int, dtype: Any = torch.float32) -> Any:
    tensor = torch.ones(shape, dtype=dtype)
    tensor.untyped_storage().resize_(left)
    return tensor


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("options", [{}, {"zero_grads": True}, {"accumulate_steps": 2}])
def test_gradients(left: int, rows: bool, options: dict[str, Any]) -> None:
    params = np.ones((4, 3), np.float32)
    opt = fs.SGD(params, lr=1.0, cast_grads=True, **({} if rows else options))
    grad: Any = freed(left, 4, 3)
    with pytest.raises(ValueError, match=r"^grads(\.values)?: got memory that was freed or resized, needs the bytes"):
        opt.step(fs.SparseRows(np.arange(4), grad) if rows else grad)
    assert (params == 1).all() and opt.steps_taken == 0
    grad.untyped_storage().resize_(48)
    grad.fill_(1)
    assert opt.step(fs.SparseRows(np.arange(4), grad) if rows else grad)


def test_a_part_that_is_left_is_a_gradient() -> None:
    params = np.ones(2, np.float32)
    whole = torch.ones(5)
    part, beyond = whole[:2], whole[3:]
    whole.untyped_storage().resize_(8)
    fs.SGD(params, lr=1.0, cast_grads=True).step(part)
    assert (params == 0).all()
    with pytest.raises(ValueError, match="got memory that was freed"):
        fs.SGD(params, lr=1.0, cast_grads=True).step(beyond)


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["exp_avg", "step"])
def test_states(left: int, dtype: Any, name: str) -> None:
    opt = fs.Adam(np.ones(400, np.float32))
    opt.step(np.ones(400, np.float32))
    kept = copy.deepcopy(opt.state_dict())
    bad = copy.deepcopy(kept)
    bad["state"][0][name] = freed(left and 1, *((400,) if name == "exp_avg" else ()), dtype=dtype)
    needed = "an array: a tensor: got memory that was freed" if name == "exp_avg" else "a number"
    with pytest.raises(TypeError, match=rf'\["{name}"\]: got Tensor, needs {needed}'):
        opt.load_state_dict(bad)
    assert_same(opt.state_dict()["state"], kept["state"])


NUMBERS: dict[str, Callable[[Any], object]] = {
    "lr": lambda number: fs.Adam(np.ones(2), lr=number),
    r"betas\[1\]": lambda number: fs.Adam(np.ones(2), betas=(0.9, number)),
    "amsgrad": lambda number: fs.Adam(np.ones(2), amsgrad=number),
    "seed": lambda number: fs.Adam(np.ones(2), seed=number),
    "x": fs.ExponentialAverage(0.9).update,
    "metric": lambda number: fs.schedules.reduce_on_plateau(0.1).update(number),
    r'param_groups\[0\]\["lr"\]': lambda number: fs.Adam(np.ones(2), lr=lambda step: number).step(np.ones(2)),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: got memory that was freed or resized"):
        NUMBERS[name](freed(0))


@pytest.mark.parametrize("name", ["lr", "weight_decay", "betas", "foreach"])
def test_arguments_of_torch_optimizers(name: str) -> None:
    options: dict[str, Any] = {name: (freed(0), 0.9) if name == "betas" else freed(0)}
    for make in (ft.Adam, functools.partial(ft.CPUOffload, ft.AdamW)):
        with pytest.raises(ValueError, match=f"^{name}: got memory that was freed or resized"):
            make([torch.nn.Parameter(torch.ones(4))], **options)


@pytest.mark.filterwarnings("ignore:Sparse invariant")
@pytest.mark.parametrize("part", ["indices", "values"])
@pytest.mark.parametrize("places", [[[1, 3]], [[3, 1, 3]], [[1, 3], [0, 2]]], ids=["rows", "repeated", "elements"])
def test_sparse_gradients(places: Any, part: str) -> None:
    """Found before torch reads them, and before a parameter has changed."""
    for make in (ft.Adagrad, ft.SparseAdam):
        table, other = torch.nn.Parameter(torch.ones(5, 4)), torch.nn.Parameter(torch.ones(3))
        values = torch.ones(len(places[0]), 4) if len(places) == 1 else torch.ones(2)
        table.grad = torch.sparse_coo_tensor(torch.tensor(places), values, table.shape)
        other.grad = torch.ones(3).to_sparse() if make is ft.SparseAdam else torch.ones(3)
        optimizer: Any = make([other, table])
        getattr(table.grad, f"_{part}")().untyped_storage().resize_(0)
        with pytest.raises(
            ValueError, match=rf"^the {part} of the gradient of params\[0\]\[1\]: got memory that was freed"
        ):
            optimizer.step()
        assert bool((other == 1).all()) and bool((table == 1).all())


@pytest.mark.parametrize("name", ["SparseAdam", "Adagrad", "SGD"])
def test_gradients_add_up_after_a_step_on_no_rows(name: str) -> None:
    """torch then adds to the sparse gradient where it lies, and resizes its memory."""
    results = []
    for module in (torch.optim, ft):
        table = torch.nn.Embedding(3, 2, sparse=True)
        table.weight.data.fill_(1.0)
        optimizer = getattr(module, name)(table.parameters(), lr=0.5)
        for rows in ([], [1], [1, 2], [0], []):
            table(torch.tensor(rows, dtype=torch.long)).sum().backward()
            optimizer.step()
        results.append(table.weight.detach())
    torch.testing.assert_close(results[1], results[0])
