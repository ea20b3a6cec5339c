"""Data-parallel training on several processes, each with its share of the optimizer's states.

    mpiexec -n 2 python -m mpi4py examples/sharded.py FOLDER

trains a small network, saves it into the folder and, started again, goes on from there on any number of processes.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

import fusedstep as fs
from fusedstep.mpi import Sharded

Params = dict[str, NDArray[np.float32]]


def loss_and_grads(params: Params, x: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, Params]:
    """Mean squared error of a network of one hidden layer, and its gradients."""
    hidden = np.tanh(x @ params["W1"] + params["b1"])
    error = hidden @ params["W2"] + params["b2"] - y
    back = error * np.float32(2 / error.size)
    inner = (back @ params["W2"].T) * (1 - hidden**2)
    grads = {"W1": x.T @ inner, "b1": inner.sum(0), "W2": hidden.T @ back, "b2": back.sum(0)}
    return float(np.mean(error**2)), grads


def main(folder: str) -> None:
    """Train for a hundred steps."""
    comm = MPI.COMM_WORLD
    rng = np.random.default_rng(
        comm.rank
    )  # every process starts elsewhere and has data of its own; rank 0's start counts
    params = {
        "W1": rng.normal(0, 0.3, (8, 2048)).astype(np.float32),
        "b1": np.zeros(2048, np.float32),
        "W2": rng.normal(0, 0.1, (2048, 1)).astype(np.float32),
        "b2": np.zeros(1, np.float32),
    }
    opt = Sharded(fs.AdamW, params, lr=2e-3, max_grad_norm=1.0)
    if os.path.exists(os.path.join(folder, "index.json")):
        opt.load(folder)
    for _ in range(100):
        x = rng.normal(size=(64, 8)).astype(np.float32)
        loss, grads = loss_and_grads(params, x, np.sin(x.sum(1, keepdims=True)))
        opt.step(grads)
    opt.save(folder)
    mean = comm.allreduce(loss) / comm.size
    if comm.rank == 0:
        print(
            f"{opt.steps_taken} steps on {comm.size} processes, loss {mean:.3f}, {opt.memory()['total']:.2f} bytes each"
        )


if __name__ == "__main__":
    main(sys.argv[1])
