"""Models that ``torch.compile`` has compiled."""

from __future__ import annotations

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
