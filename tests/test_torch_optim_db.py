"""Every entry of torch's own table of optimizers, against torch's implementation."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")
table = pytest.importorskip("torch.testing._internal.common_optimizers")
ft = pytest.importorskip("fusedstep.torch")

# But for Muon, whose parameters are matrices alone in torch: tests/test_torch_muon.py compares it.
INFOS = {info.optim_cls.__name__: info for info in table.optim_db if hasattr(ft, info.optim_cls.__name__)}
INFOS.pop("Muon", None)
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
STEPS = 20


def offload(name: str, *args: Any, **options: Any) -> Any:
    return ft.CPUOffload(getattr(ft, name), *args, **options)


def direct(name: str, *args: Any, **options: Any) -> Any:
    return getattr(ft, name)(*args, **options)


FACES = pytest.mark.parametrize("make", [direct, offload])

# Largest difference in units of each element's own scale; both sides round differently at every operation.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 5e-14, torch.bfloat16: 2e-2}

# torch keeps a number of these rules (eta; the product of the momenta) in float32, this package in double.
ROUNDED_BY_TORCH = {"ASGD": 1e-6, "NAdam": 1e-6}


def inputs() -> list[Any]:
    found = []
    for name, info in INFOS.items():
        for entry in info.optim_inputs_func(device="cpu"):
            if entry.kwargs.get("capturable") or entry.kwargs.get("differentiable"):
                continue
            found.append(pytest.param(name, entry.kwargs, id=f"{name}-{entry.desc.replace(' ', '_')}"))
    return found


def cases() -> list[Any]:
    """With every dtype, but for bfloat16 where rows are updated without a float32 master."""
    return [
        pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}")
        for case in inputs()
        for dtype in DTYPES
        if dtype != "bfloat16" or not INFOS[case.values[0]].only_supports_sparse_grads
    ]


def errors() -> list[Any]:
    found = []
    for name, info in INFOS.items():
        for number, entry in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32)):
            if entry.error_on is table.OptimizerErrorEnum.CONSTRUCTION_ERROR:  # Adafactor of complex numbers: in a step
                found.append(pytest.param(name, entry, id=f"{name}-{number}"))
    return found


def parameters(name: str, dtype: Any, complex_too: bool, sparse: bool) -> list[Any]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(40, 3), (5,)] if sparse else [(25, 15), (15,), (3, 4, 5), (), (0, 2)]
    if name == "Adafactor":  # torch's divides by the number of elements
        shapes.remove((0, 2))
    made = [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]
    if not sparse:
        made.append(torch.randn(6, 4, dtype=dtype, generator=generator).t())
    if complex_too:
        made.append(torch.view_as_complex(torch.randn(4, 3, 2, dtype=dtype, generator=generator)))
    return made


def test_every_class_of_the_table_is_there() -> None:
    names = {info.optim_cls.__name__ for info in table.optim_db}
    assert names - INFOS.keys() <= {"LBFGS", "Muon"}


@FACES
@pytest.mark.parametrize(("name", "kwargs", "dtype"), cases())
def test_agrees_with_torch(name: str, kwargs: dict[str, Any], dtype: str, make: Any) -> None:
    info, kind = INFOS[name], DTYPES[dtype]
    sparse = info.only_supports_sparse_grads
    complex_too = info.supports_complex and kind != torch.bfloat16 and not sparse
    ours = [torch.nn.Parameter(p) for p in parameters(name, kind, complex_too, sparse)]
    # In bfloat16 the yardstick is torch in float32: both round the parameter alone.
    wide = torch.float32 if kind == torch.bfloat16 else kind
    theirs = [torch.nn.Parameter(p.detach().to(wide) if not p.is_complex() else p.detach().clone()) for p in ours]
    options: dict[str, Any] = {"master": "float32"} if kind == torch.bfloat16 else {}
    mine = make(name, ours, **kwargs, **options)
    torchs = info.optim_cls(theirs, **kwargs)
    generator = torch.Generator().manual_seed(11)
    for _ in range(STEPS):
        for a, b in zip(ours, theirs, strict=True):
            real = a.real.dtype if a.is_complex() else a.dtype
            grad = torch.randn(a.shape, dtype=real, generator=generator)
            if a.is_complex():
                grad = torch.complex(grad, torch.randn(a.shape, dtype=real, generator=generator))
            b.grad, a.grad = grad.to(b.dtype), grad.clone()
            if sparse:
                b.grad, a.grad = b.grad.to_sparse(), a.grad.to_sparse()
        mine.step()
        torchs.step()
    for a, b in zip(ours, theirs, strict=True):
        scale = b.detach().abs().clamp(min=1e-2 if kind == torch.float64 else 1e-1)
        tolerance = max(TOLERANCE[kind], ROUNDED_BY_TORCH.get(name, 0))
        assert (((a.detach().to(b.dtype) - b.detach()).abs() / scale) <= tolerance).all()


@FACES
@pytest.mark.parametrize(("name", "entry"), errors())
def test_raises_what_torch_raises(name: str, entry: Any, make: Any) -> None:
    given = entry.optimizer_error_input
    params = given.params if given.params is not None else [torch.nn.Parameter(torch.randn(2, 3))]
    if entry.error_type is UserWarning:
        with pytest.warns(UserWarning, match=entry.error_regex):
            make(name, params, **given.kwargs)
        return
    if given.kwargs.get("foreach"):
        make(name, params, **given.kwargs)  # what torch cannot combine with this implementation, which is ignored here
        return
    with warnings.catch_warnings(), pytest.raises(entry.error_type, match=entry.error_regex):
        warnings.simplefilter("ignore")
        make(name, params, **given.kwargs)


@FACES
@pytest.mark.parametrize(("name", "kwargs"), inputs())
def test_state_dicts_are_interchangeable_in_the_middle(name: str, kwargs: dict[str, Any], make: Any) -> None:
    """Half the steps with one, half with the other, in both directions."""
    info = INFOS[name]
    results = []
    theirs, mine = info.optim_cls, partial(make, name)
    for first, second in ((theirs, theirs), (mine, theirs), (theirs, mine)):
        params = [
            torch.nn.Parameter(p) for p in parameters(name, torch.float64, False, info.only_supports_sparse_grads)
        ]
        generator = torch.Generator().manual_seed(11)
        optimizer = first(params, **kwargs)
        for step in range(10):
            if step == 5:
                saved = optimizer.state_dict()
                optimizer = second(params, **kwargs)
                optimizer.load_state_dict(saved)
            for p in params:
                grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
                p.grad = grad.to_sparse() if info.only_supports_sparse_grads else grad
            optimizer.step()
        results.append([p.detach() for p in params])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # eta, mu and mu_product are float32 tensors
