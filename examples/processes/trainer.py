"""Hugging Face Trainer: the optimizer class and its arguments, and DistributedDataParallel under torchrun."""

from __future__ import annotations

import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from fusedstep.torch import AdamW

OPTIONS = {"lr": 5e-3, "weight_decay": 0.01, "state_format": "8bit", "min_quantized_size": 1024}


def main(folder: str) -> None:
    """Train a tiny model for 20 steps on one sequence of numbers."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    ids = torch.arange(12).repeat(64, 1)
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=20,
        per_device_train_batch_size=8,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        logging_steps=20,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=GPT2LMHeadModel(config),
        args=arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        optimizer_cls_and_kwargs=(AdamW, OPTIONS),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    if arguments.process_index == 0:
        print(f"{arguments.world_size} processes, mean loss {losses[0]:.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
