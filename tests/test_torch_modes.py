"""Modes of torch: Python code that runs within torch's operations, and frees what a step reads and writes next.

torch's own operations crash where a mode frees their operands before they run (a product of `torch.optim.Muon` does so
too), so here memory is freed behind the last operation that reads it.
"""

from __future__ import annotations

import copy
import re
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


class Wrapper(torch.Tensor):  # type: ignore[misc, name-defined]
    """A tensor whose elements are in another, as those of quantised and low-precision training are."""

    inner: Any

    @staticmethod
    def __new__(cls, inner: Any) -> Any:
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inner = [arg.inner if isinstance(arg, Wrapper) else arg for arg in args]
        return Wrapper(func(*inner, **(kwargs or {})))


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("name", ["the gradient of params[0][1]", "params[0][1]", "params[0][1] exp_avg"])
def test_tensors_that_wrap_others_are_named(name: str, offload: bool) -> None:
    first, second = parameter(3), parameter(3)
    if name == "params[0][1]":
        second = torch.nn.Parameter(Wrapper(torch.ones(3)))
        second.grad = Wrapper(torch.ones(3))
    elif name.startswith("the"):
        second.grad = Wrapper(torch.ones(3))
    params = [first, second]
    optimizer = ft.CPUOffload(ft.Adam, params) if offload else ft.Adam(params)
    if name.endswith("exp_avg"):
        optimizer.state[second]["exp_avg"] = Wrapper(torch.ones(3))
    with pytest.raises(TypeError, match=f"^{re.escape(name)}: got Wrapper without memory of its own"):
        optimizer.step()
    assert first.tolist() == [1.0] * 3
    second.requires_grad_(False)
    second.grad = None
    optimizer.state.pop(second, None)
    optimizer.step()
    assert first.tolist() != [1.0] * 3


def test_states_that_a_failed_step_made_do_not_count_as_a_step() -> None:
    first, second = parameter(3), parameter(3)
    optimizer = ft.SGD([first, second], lr=0.5, momentum=0.5, dampening=0.5)
    optimizer.state[second]["momentum_buffer"] = torch.zeros(4)
    with pytest.raises(ValueError, match="momentum_buffer has shape"):
        optimizer.step()
    del optimizer.state[second]
    assert not optimizer.state
    optimizer.step()
    assert first.tolist() == [0.5] * 3  # the first step is not dampened


@pytest.mark.parametrize("transform", ["torch.func", "fake"])
def test_a_step_where_no_memory_can_be_made_leaves_no_states(transform: str) -> None:
    param = parameter(3)
    optimizer = ft.Adam([param], lr=0.5)

    def step(x: Any) -> Any:
        optimizer.step()
        return x.sum()

    with pytest.raises((TypeError, ValueError), match=r"^params\[0\]\[0\] exp_avg: got "):
        if transform == "fake":
            with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
                optimizer.step()
        else:
            torch.func.grad(step)(torch.ones(2))
    assert not optimizer.state
    optimizer.step()
    assert param.tolist() == pytest.approx([0.5] * 3)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "Adafactor", "Prodigy", "ScheduleFreeAdamW", "AdamMini", "LAMB"])
def test_another_default_device(name: str) -> None:
    """Such as that of ``torch.set_default_device("cuda")``, with a model on the CPU and parameters that are frozen."""

    def run(device: str) -> Any:
        cls: Any = getattr(ft, name)
        results = []
        for offload in (False, True):
            param, later = parameter(3, 4), parameter(5)
            grad, later.grad = later.grad, None
            with torch.device(device):
                optimizer = ft.CPUOffload(cls, [param, later]) if offload else cls([param, later])
                optimizer.step()
                later.grad = grad
                optimizer.load_state_dict(optimizer.state_dict())
                optimizer.step()
                copy.deepcopy(optimizer).step()
            results += [param, later]
        return results

    assert all(map(torch.equal, run("meta"), run("cpu")))
