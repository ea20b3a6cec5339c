"""The Trainer of Hugging Face transformers: ``Trainer(optimizers=(optimizer, None))``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


class Tokens(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
    """The same random sequences for every run."""

    def __init__(self) -> None:
        self.ids = torch.randint(50, (32, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def trainer(folder: Path, module: Any, steps: int = 12) -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model = transformers.GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=8,
        logging_steps=1,
        save_steps=6,
        max_grad_norm=0.5,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=1,
        warmup_steps=3,
        lr_scheduler_type="cosine",
    )
    optimizer = module.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    return transformers.Trainer(model=model, args=arguments, train_dataset=Tokens(), optimizers=(optimizer, None))


def losses(run: Any) -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


def test_trainer(tmp_path: Path, tolerance: float) -> None:
    runs = [trainer(tmp_path / module.__name__, module) for module in (torch.optim, ft)]
    for run in runs:
        run.train()
    assert len(losses(runs[0])) == 12
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=tolerance)


def test_trainer_resumes(tmp_path: Path) -> None:
    whole = trainer(tmp_path, ft)
    whole.train()
    resumed = trainer(tmp_path, ft)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert losses(resumed)[-6:] == pytest.approx(losses(whole)[-6:], rel=1e-6)
