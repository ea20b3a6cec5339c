"""What trains the networks of the two comparisons of quality: networks, batches, schedule; and the ways of storing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep import schedules
from fusedstep._base import Options

Batch = tuple[NDArray[Any], NDArray[Any]]

NOISE = 0.5
"""Standard deviation of what is added to every pixel (0 to 1): without it the loss would fall towards zero, where a
ratio of two losses says little."""


LAST = 0.2
"""Share of the steps whose mean loss is the final loss."""


def last(steps: int) -> int:
    """How many steps the final loss is the mean of."""
    return max(1, round(LAST * steps))


def rising_and_falling(lr: float, steps: int) -> Any:
    """A learning rate that rises over a twentieth of the steps, then falls as a cosine to zero."""
    warm = steps // 20
    return schedules.join([schedules.linear_warmup(lr, warm), schedules.cosine(lr, steps - warm)], [warm])


class Net(Protocol):
    """What is trained: parameters, and their gradients on a batch, overwritten in place."""

    params: dict[str, Any]
    grads: dict[str, Any]

    def gradients(self, x: Any, y: Any) -> float: ...


@dataclass(frozen=True)
class Variant:
    """One way of storing."""

    label: str
    color: str
    bfloat16: bool = False  # parameters, and with them gradients
    options: Options = field(default_factory=Options)


VARIANTS = {
    "float32": Variant("float32", "#222222"),
    "bfloat16 states": Variant("bfloat16 states", "#7b6fd0", options={"state_format": "bfloat16"}),
    "8-bit states": Variant("8-bit states", "#1f77b4", options={"state_format": "8bit"}),
    "split": Variant("split master, 8-bit states", "#2ca02c", True, {"state_format": "8bit", "master": "split"}),
    "stochastic": Variant(
        "stochastic rounding, 8-bit states", "#e8870e", True, {"state_format": "8bit", "rounding": "stochastic"}
    ),
    "nearest": Variant("nearest rounding, no master, 8-bit states", "#d62728", True, {"state_format": "8bit"}),
}


@dataclass(frozen=True)
class Task:
    """A network, its batches and its learning rate."""

    title: str
    network: Callable[[int], Net]  # from a seed
    batches: Callable[[int], Iterator[Batch]]  # from a seed, without end
    steps: int
    lr: float
    smallest: int = 4096  # parameters of fewer elements keep float32 states


def digits() -> Batch:
    """Images of handwritten digits in columns, from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    data = load_digits()
    return np.ascontiguousarray(data.data.T / 16, dtype=np.float32), data.target


def digit_batches(seed: int, size: int = 64) -> Iterator[Batch]:
    x, y = digits()
    noise = np.random.default_rng([seed, 1])
    cut = fs.minibatches(x, y, batch_size=size, rng=seed, axis=(1, 0), drop_last=True)
    while True:
        for images, classes in cut:
            yield images + np.float32(NOISE) * noise.standard_normal(images.shape, np.float32), classes


def manual_batches(seed: int, size: int = 12, context: int = 48) -> Iterator[Batch]:
    from char_transformer import manual

    text, _ = manual()
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(0, text.size - context - 1, size)[:, None] + np.arange(context + 1)
        yield text[rows[:, :-1]], text[rows[:, 1:]]


def dense(seed: int) -> Net:
    from fusedstep.demo.network import Network

    return Network((64, 25, 15, 10), hidden="sigmoid", seed=seed)


def convolutional(seed: int) -> Net:
    from fusedstep.demo.convnet import ConvNet

    return ConvNet((8, 8), 10, filters=16, units=128, seed=seed)


def transformer(seed: int) -> Net:
    from char_transformer import CharTransformer, manual

    return CharTransformer(len(manual()[1]), seed=seed)


TASKS = {
    "digits": Task("Digits, 64-25-15-10", dense, digit_batches, steps=2800, lr=1e-2, smallest=0),
    "convnet": Task("Digits, convolutional", convolutional, digit_batches, steps=1400, lr=4e-3),
    "transformer": Task("Python manual, transformer", transformer, manual_batches, steps=600, lr=6e-3),
}
