"""Small random models and the same training for every library."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

# Relative difference of the losses of two runs that round differently at every operation.
TOLERANCE = 1e-4


@pytest.fixture
def tolerance() -> float:
    return TOLERANCE


def _child(rank: int, size: int, folder: str, body: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), size)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        result = body(rank, *arguments)
        torch.save(result, os.path.join(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
    os._exit(0)  # gloo's threads may let go of tensors after the end of Python, which ends the process with an error


@pytest.fixture
def processes(tmp_path: Path) -> Callable[..., list[Any]]:
    """Runs a function of (rank, *arguments) in so many processes joined by gloo; returns what each of them returned."""
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")

    def run(count: int, body: Callable[..., Any], *arguments: Any) -> list[Any]:
        import torch.multiprocessing as mp

        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        mp.spawn(_child, (count, str(folder), body, arguments), nprocs=count)  # type: ignore[attr-defined, no-untyped-call]
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]

    return run


@pytest.fixture
def two_processes(processes: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """The same in two processes."""
    return partial(processes, 2)
