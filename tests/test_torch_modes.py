"""Modes of torch: Python code that runs within torch's operations, and frees what a step reads and writes next.

torch's own operations crash where a mode frees their operands before they run (a product of `torch.optim.Muon` does so
too), so here memory is freed behind the last operation that reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

N = 300_000  # memory that goes back to the system when it is freed
Act = Callable[[str, tuple[Any, ...]], None]


class Functions(TorchFunctionMode):
    """Calls a function after each operation and method of tensors."""

    def __init__(self, act: Act) -> None:
        super().__init__()
        self.act = act

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.act(getattr(func, "__name__", ""), args)
        return out


class Dispatched(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Calls a function after each operation that is dispatched."""

    def __init__(self, act: Act) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.act = act

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.act(func.__name__, args)
        return out


MODES = pytest.mark.parametrize("mode", [Functions, Dispatched])


def free(tensor: Any, size: int = 0) -> None:
    tensor.untyped_storage().resize_(size)


def parameter(*shape: int) -> Any:
    param = torch.nn.Parameter(torch.ones(shape))
    param.grad = torch.ones(shape)
    return param


@MODES
@pytest.mark.parametrize("size", [0, 64], ids=["freed", "shortened"])
def test_directions_are_freed_behind_the_last_product(mode: type[Any], size: int) -> None:
    matrix, vector = parameter(300, 200), parameter(7)
    optimizer = ft.Muon([matrix, vector], ns_dtype=torch.float32)
    optimizer.step()
    before = matrix.detach().clone(), vector.detach().clone()
    freed = 0

    def act(name: str, args: tuple[Any, ...]) -> None:
        nonlocal freed
        if name.startswith("copy_") and not freed:
            freed += 1
            free(args[0], size)

    with mode(act), pytest.raises(RuntimeError, match="was moved while a step was taken"):
        optimizer.step()
    assert freed and torch.equal(matrix, before[0]) and torch.equal(vector, before[1])
    optimizer.step()  # with new memory
    assert not torch.equal(matrix, before[0]) and bool(matrix.isfinite().all())


@MODES
@pytest.mark.parametrize("which", ["parameter", "gradient", "state", "another parameter", "another gradient"])
@pytest.mark.parametrize("size", [0, 64], ids=["freed", "shortened"])
def test_arrays_are_freed_within_the_products(mode: type[Any], which: str, size: int) -> None:
    matrix, vector = parameter(300, 200), parameter(N)
    optimizer = ft.Muon([matrix, vector], ns_dtype=torch.float32)
    optimizer.step()
    there = {
        "parameter": matrix,
        "gradient": matrix.grad,
        "state": optimizer.state[matrix]["momentum_buffer"],
        "another parameter": vector,
        "another gradient": vector.grad,
    }
    kept = {"matrix": matrix.detach().clone(), "vector": vector.detach().clone()}
    done = False

    def act(name: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        if "bmm" in name and not done:
            done = True
            free(there[which], size)

    with mode(act), pytest.raises(RuntimeError, match="was moved while a step was taken"):
        optimizer.step()
    assert done
    assert which == "parameter" or torch.equal(matrix, kept["matrix"])
    assert which == "another parameter" or torch.equal(vector, kept["vector"])


def test_work_memory_that_was_freed_is_made_anew() -> None:
    matrix, twin = parameter(60, 50), parameter(60, 50)
    first, other = (ft.Muon([param], ns_dtype=torch.float32) for param in (matrix, twin))
    seen: list[Any] = []

    def act(name: str, args: tuple[Any, ...]) -> None:
        seen.extend(args if name == "baddbmm" else ())

    with Functions(act):
        first.step()
    other.step()
    for tensor in seen[-2:]:  # a matrix and its polynomial
        free(tensor)
    del seen[:]
    for _ in range(2):
        first.step()
        other.step()
    assert torch.equal(matrix, twin)


@pytest.mark.parametrize("name", ["__get__", "is_neg", "untyped_storage"])
@pytest.mark.parametrize("which", ["gradient", "parameter"])
@pytest.mark.parametrize("make", [ft.SGD, ft.Adam])
def test_a_mode_frees_what_was_looked_at(make: Any, which: str, name: str) -> None:
    """A mode sees how a step reads gradients: nothing that was read before may be used without another look."""
    first, second = parameter(N), parameter(4)
    optimizer = make([first, second])
    optimizer.step()
    second.grad = torch.ones(4)
    gradient, done = first.grad, 0
    before = second.detach().clone()

    def act(called: str, args: tuple[Any, ...]) -> None:
        nonlocal done
        if called == name and len(args) and args[0] is (second if name == "__get__" else second.grad):
            done += 1
            free(gradient if which == "gradient" else first)

    with Functions(act):
        try:
            optimizer.step()
        except (ValueError, RuntimeError) as error:
            assert "freed or resized" in str(error) or "moved" in str(error) or "changed" in str(error)
            assert torch.equal(second, before)
        else:
            assert not done


@MODES
@pytest.mark.parametrize("sparse", [True, False], ids=["rows", "elements"])
def test_parts_of_a_sparse_step_are_freed(mode: type[Any], sparse: bool) -> None:
    """The step of a sparse gradient reads what operations of torch's left, or says that it is gone."""
    for number in range(60):
        table = torch.nn.Parameter(torch.ones(3000, 100, dtype=torch.float32 if sparse else torch.float64))
        rows, values = torch.arange(2000)[None], torch.ones(2000, 100, dtype=table.dtype)
        table.grad = torch.sparse_coo_tensor(rows, values, table.shape, check_invariants=True)
        optimizer = ft.SparseAdam([table])
        count = 0

        def act(name: str, args: tuple[Any, ...], number: int = number, table: Any = table) -> None:
            nonlocal count
            if name in ("contiguous", "numpy", "clone", "clone.default", "detach.default", "detach", "item"):
                count += 1
                if count == number + 1:
                    free(table)

        with mode(act):
            try:
                optimizer.step()
            except (ValueError, RuntimeError, IndexError):
                continue
        if count <= number:
            break
