"""Accelerate: ``accelerator.prepare(model, optimizer, scheduler)``."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def train(module: Any) -> list[float]:
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
    optimizer = module.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    losses = []
    for (batch,) in loader:
        with accelerator.accumulate(model):
            loss = (model(batch) - batch[:, :2]).square().mean()
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_accelerate(tolerance: float) -> None:
    theirs, mine = train(torch.optim), train(ft)
    assert len(theirs) == 12
    assert mine == pytest.approx(theirs, rel=tolerance)
