"""Parameters without a gradient are left alone, whatever they are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")


def freed() -> Any:
    tensor = torch.ones(3)
    tensor.untyped_storage().resize_(0)
    return tensor


def tied() -> list[Any]:
    tensor = torch.ones(4)
    return [tensor, tensor[1:], tensor[:2]]


FROZEN = {
    "uint8": lambda: [torch.ones(3, dtype=torch.uint8)],
    "int8": lambda: [torch.ones(3, dtype=torch.int8)],
    "int64": lambda: [torch.ones(3, dtype=torch.int64)],
    "bool": lambda: [torch.ones(3, dtype=torch.bool)],
    "float8": lambda: [torch.ones(3).to(torch.float8_e4m3fn)],
    "meta": lambda: [torch.ones(3, device="meta")],
    "sparse": lambda: [torch.eye(3).to_sparse()],
    "csr": lambda: [torch.eye(3).to_sparse_csr()],
    "nested": lambda: [torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)],
    "expanded": lambda: [torch.ones(1).expand(3)],
    "tied": tied,
    "freed": lambda: [freed()],
    "a conjugate view": lambda: [torch.ones(3, dtype=torch.complex64).conj()],
    "read-only memory": lambda: [torch.frombuffer(b"\0" * 12, dtype=torch.float32)],
}


def make(cls: Any, params: list[Any], **options: Any) -> Any:
    return cls(params, lr=0.25, **options)


def offload(params: list[Any], **options: Any) -> Any:
    return ft.CPUOffload(ft.AdamW, params, **options)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable", "ignore:Sparse CSR", "ignore:The PyTorch API")
@pytest.mark.parametrize("kind", FROZEN)
@pytest.mark.parametrize("cls", [ft.AdamW, ft.SGD, ft.LAMB, ft.ScheduleFreeAdamW, offload])
@pytest.mark.parametrize("options", [{}, {"master": "split", "ema_decay": 0.9}, {"max_grad_norm": 1.0}])
def test_frozen_parameters(kind: str, cls: Any, options: dict[str, Any]) -> None:
    alone = torch.nn.Parameter(torch.ones(2))
    expected = make(cls, [alone], **options)
    w = torch.nn.Parameter(torch.ones(2))
    frozen = [torch.nn.Parameter(tensor, requires_grad=False) for tensor in FROZEN[kind]()]  # type: ignore[no-untyped-call]
    optimizer = make(cls, [frozen[0], w, *frozen[1:]], **options)
    for _ in range(2):
        alone.grad, w.grad = torch.ones(2), torch.ones(2)
        expected.step()
        optimizer.step()
        optimizer.state_dict()
    assert torch.equal(w, alone)
    assert not torch.equal(w, torch.ones(2))
    assert set(optimizer.state) == ({w} if optimizer.state else set())


def test_frozen_parameters_with_states_of_a_checkpoint() -> None:
    """A parameter that was trained before it was frozen and turned into 8-bit codes."""
    a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    optimizer = ft.AdamW([a, b], lr=0.25)
    for p in (a, b):
        p.grad = torch.ones(2)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    codes = torch.nn.Parameter(torch.ones(2, dtype=torch.uint8), requires_grad=False)
    again = ft.AdamW([a, codes], lr=0.25)
    again.load_state_dict(saved)
    again.step()
    assert again.state[a]["step"].item() == 2
    assert again.state[codes]["step"].item() == 1


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_parameters_whose_gradients_come_and_go(name: str) -> None:
    """As experts have them that are chosen in some steps only."""
    results = []
    for module in (torch.optim, ft):
        torch.manual_seed(0)
        params = [torch.nn.Parameter(torch.randn(4)) for _ in range(5)]
        optimizer = getattr(module, name)(params, lr=0.1)
        for step in range(12):
            for i, p in enumerate(params):
                p.grad = torch.randn(4) if (step + i) % 3 == 0 else None
            optimizer.step()
        results.append([p.detach() for p in params])
    torch.testing.assert_close(results[1], results[0])


def test_gradients_that_come_and_go_need_no_new_model() -> None:
    params = [torch.nn.Parameter(torch.zeros(4)) for _ in range(3)]
    optimizer = ft.AdamW(params)
    for i, p in enumerate(params):
        p.grad = torch.ones(4)
        optimizer.step()
        params[i].grad = None
    model = optimizer._model
    for p in params:
        p.grad = torch.ones(4)
        optimizer.step()
        p.grad = None
    assert optimizer._model is model


def test_a_frozen_parameter_that_gets_a_gradient_is_checked() -> None:
    w, codes = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(1).expand(3))
    optimizer = ft.SGD([w, codes], lr=0.5)
    w.grad = torch.ones(2)
    optimizer.step()
    codes.grad = torch.ones(3)
    with pytest.raises(ValueError, match="share memory"):
        optimizer.step()
    assert w.tolist() == [0.5, 0.5]
    codes.grad = None
    optimizer.step()
    assert w.tolist() == [0.0, 0.0]


def test_stepping_in_backward_with_frozen_parameters() -> None:
    w, codes = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3, dtype=torch.uint8), False)
    optimizer = ft.apply_in_backward([codes, w], ft.SGD, lr=0.5)
    w.sum().backward()
    assert w.tolist() == [0.5, 0.5]
    assert optimizer.param_groups[0]["params"][0] is codes


def test_parameters_without_a_shape_are_named() -> None:
    model = torch.nn.LazyLinear(2)
    message = r"\[0\]: got UninitializedParameter, needs one with a shape; call the module once before"
    makers: list[Callable[[], object]] = [
        lambda: ft.Muon(model.parameters()),
        lambda: ft.apply_in_backward(model, ft.SGD),
        lambda: ft.CPUOffload(ft.SGD, model.parameters(), free_gradients=True),
    ]
    for make_one in makers:
        with pytest.raises(ValueError, match=message):
            make_one()
    optimizer = ft.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert optimizer.state[model.weight]["exp_avg"].shape == (2, 3)
