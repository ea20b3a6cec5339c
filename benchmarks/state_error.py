"""The error of 8-bit states taken from real training, beside that of the dynamic map of bitsandbytes.

Trains three networks with torch's Adam in float32 (a perceptron and a convolutional network on scikit-learn's digits,
a small character-level transformer on the text of this machine's Python library), stores the moments of every tensor of
at least 1,024 elements in both formats at four steps each, and prints ratios: this package over bitsandbytes, below 1
is better. Needs torch, scikit-learn and bitsandbytes.

    python benchmarks/state_error.py [--seed 0] [--quick]
"""

from __future__ import annotations

import argparse
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from fusedstep import formats

Array = NDArray[Any]
LEAST = 1024


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class Characters(nn.Module):
    def __init__(self, width: int = 96, length: int = 64) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(256, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.token(x) + self.place.weight)))


def networks(seed: int) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield the name, the network and a function that draws a batch."""
    from sklearn.datasets import load_digits

    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(0, len(images), (64,))
        return images[rows], labels[rows]

    yield "perceptron", nn.Sequential(*(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )), draw  # fmt: skip
    yield "convolutional", nn.Sequential(*(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )), draw  # fmt: skip

    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))[:60]
    text = torch.frombuffer(bytearray(b"".join(f.read_bytes() for f in files)), dtype=torch.uint8).long()

    def draw_text() -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.stack([text[i : i + 65] for i in torch.randint(0, len(text) - 65, (16,))])
        return rows[:, :-1], rows[:, 1:]

    yield "transformer", Characters(), draw_text


def moments(network: nn.Module, draw: Any, steps: list[int]) -> Iterator[tuple[int, list[Array], list[Array]]]:
    """Train and yield the step, the first and the second moments of the large tensors."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for step in range(1, steps[-1] + 1):
        inputs, targets = draw()
        loss = F.cross_entropy(network(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in steps:
            large = [optimizer.state[p] for p in network.parameters() if p.numel() >= LEAST]
            first, second = ([flushed(s[key]) for s in large] for key in ("exp_avg", "exp_avg_sq"))
            yield step, first, second


def flushed(state: torch.Tensor) -> Array:
    """Return a state without subnormal numbers, as a step of this package leaves it."""
    values: Array = state.numpy().ravel()
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def ours(x: Array, signed: bool) -> Array:
    return formats.decode_8bit(*formats.encode_8bit(x, signed), signed)


def theirs(x: Array, signed: bool) -> Array:
    """bitsandbytes' blockwise quantisation, from its own map: the nearest level of x / max(abs(x)) in blocks of 256."""
    from bitsandbytes.functional import create_dynamic_map

    levels = create_dynamic_map(signed).numpy().astype(np.float32)
    blocks = np.pad(x, (0, -x.size % 256)).reshape(-1, 256)
    scale = np.abs(blocks).max(axis=1, keepdims=True)
    fraction = blocks / np.where(scale == 0, 1, scale)
    above = np.clip(np.searchsorted(levels, fraction), 1, levels.size - 1)
    low, high = levels[above - 1], levels[above]
    return (np.where(fraction - low <= high - fraction, low, high) * scale).ravel()[: x.size]


def errors(exact: list[Array], stored: list[Array]) -> list[float]:
    x, q = np.concatenate(exact).astype(np.float64), np.concatenate(stored).astype(np.float64)
    error = np.abs(q - x)
    there = x != 0
    relative = error[there] / np.maximum(np.abs(x), np.abs(q))[there]
    return [float(np.sqrt((error**2).mean())), float(error.mean()), float(relative.mean())]


def update(first: list[Array], second: list[Array], step: int) -> list[Array]:
    bias1, bias2 = 1 - 0.9**step, 1 - 0.999**step
    pairs = zip(first, second, strict=True)
    return [(m / bias1) / (np.sqrt(v.astype(np.float64) / bias2) + 1e-8) for m, v in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only the first two of the four steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| network, step | first moment: RMS, mean, relative | second: RMS, mean, relative | update: RMS, mean |")
    print("|---|---|---|---|")
    for name, network, draw in networks(options.seed):
        steps = [10, 100, 500, 1500] if name == "transformer" else [10, 100, 300, 1000]
        for step, first, second in moments(network, draw, steps[:2] if options.quick else steps):
            rows = []
            for codec in (ours, theirs):
                m, v = [codec(x, True) for x in first], [codec(x, False) for x in second]
                change = errors(update(first, second, step), update(m, v, step))[:2]
                rows.append([errors(first, m), errors(second, v), change])
            ratios = [[a / b for a, b in zip(*pair, strict=True)] for pair in zip(*rows, strict=True)]
            cells = [", ".join(f"{r:.2f}" for r in ratio) for ratio in ratios]
            print(f"| {name}, {step} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
