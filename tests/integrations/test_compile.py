"""Models that ``torch.compile`` has compiled."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def train(module: Any, compiled_step: bool = False) -> list[float]:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = module.AdamW(compiled.parameters(), lr=1e-2)
    step = torch.compile(optimizer.step, backend="aot_eager") if compiled_step else optimizer.step
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(10):
        x = torch.randn(8, 6, generator=generator)
        optimizer.zero_grad()
        loss = (compiled(x) - x[:, :2]).square().mean()
        loss.backward()
        step()
        losses.append(loss.item())
    return losses


def test_a_compiled_model(tolerance: float) -> None:
    assert train(ft) == pytest.approx(train(torch.optim), rel=tolerance)


def test_a_compiled_step_is_the_step_itself(tolerance: float) -> None:
    assert train(ft, compiled_step=True) == pytest.approx(train(torch.optim), rel=tolerance)


@pytest.mark.parametrize("offload", [False, True])
def test_steps_on_arrival_in_a_compiled_backward_pass(offload: bool) -> None:
    """Tracing a step would take it once, when it is traced."""
    autograd = pytest.importorskip("torch._dynamo.compiled_autograd")
    enable = getattr(autograd, "_enable", None) or autograd.enable
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        torch._dynamo.reset()
        model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
        if offload:
            optimizer = ft.CPUOffload(ft.Adam, model.parameters(), lr=0.1, free_gradients=True)
        else:
            optimizer = ft.apply_in_backward(model, ft.Adam, lr=0.1)
        for _ in range(3):
            loss = model(torch.ones(2, 6)).square().mean()
            with enable(torch.compile(backend="eager")) if compiled else contextlib.nullcontext():
                loss.backward()
            optimizer.step()
        results.append([param.detach() for param in model.parameters()])
        assert optimizer.state[model[0].weight]["step"].item() == 3
    assert all(map(torch.equal, *results))
