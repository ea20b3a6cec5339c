"""Lightning: ``configure_optimizers`` returns the optimizer and a scheduler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
lightning = pytest.importorskip("lightning")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


class Network(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.net = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> Any:
        (x,) = batch
        loss = (self.net(x) - x[:, :2]).square().mean()
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.module.AdamW(self.net.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=30)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def fit(module: Any, folder: Path, epochs: int = 3, resume: str | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    model = Network(module)
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=8)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        default_root_dir=str(folder),
        **options,
    )
    trainer.fit(model, loader, ckpt_path=resume, weights_only=False)
    if resume is None:
        trainer.save_checkpoint(folder / "last.ckpt")
    return model


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_fit(options: dict[str, Any], tmp_path: Path, tolerance: float) -> None:
    theirs, mine = (fit(module, tmp_path, **options) for module in (torch.optim, ft))
    assert len(theirs.losses) == 24
    rounding = 2e-2 if "precision" in options else tolerance
    assert mine.losses == pytest.approx(theirs.losses, rel=rounding)


def test_resumes(tmp_path: Path) -> None:
    whole = fit(ft, tmp_path, epochs=3)
    fit(ft, tmp_path, epochs=2)
    rest = fit(ft, tmp_path, epochs=3, resume=str(tmp_path / "last.ckpt"))
    assert rest.losses == pytest.approx(whole.losses[16:], rel=1e-6)
