"""Muon under FSDP2: every matrix is made orthogonal whole, by one of the processes that have parts of it."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from fusedstep.torch import Muon, groups


def train(state_format: str) -> None:
    """Train for 50 steps, and print the last loss and the memory of the states."""
    torch.manual_seed(0)
    sizes = [(64, 256), (256, 256), (256, 256), (256, 64)]
    model = torch.nn.Sequential(*[layer for n, m in sizes for layer in (torch.nn.Linear(n, m), torch.nn.Tanh())][:-1])
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in (*model, model):
        fully_shard(layer, mesh=mesh)
    chosen = groups(model, where=lambda name, p: name.startswith(("0.", "6.")), rule="adamw", lr=1e-3)  # first and last
    opt = Muon(chosen, lr=0.02, rest={"lr": 1e-3}, max_grad_norm=1.0, state_format=state_format)  # type: ignore[arg-type]
    data = torch.Generator().manual_seed(dist.get_rank())  # data of its own in every process
    for _ in range(50):
        x = torch.randn(64, 64, generator=data)
        opt.zero_grad()
        loss = (model(x) - x.flip(1)).square().mean()
        loss.backward()
        opt.step()
    states = [t for state in opt.state.values() for name, t in state.items() if name != "step"]
    held = sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in states)
    if dist.get_rank() == 0:
        print(f"{state_format}: loss {loss.item():.3f}, {held} bytes of states", flush=True)


if __name__ == "__main__":
    dist.init_process_group("gloo")  # with accelerators "cpu:gloo,cuda:nccl"
    for state_format in ("float32", "bfloat16", "8bit"):
        train(state_format)
    dist.barrier()  # one that left early could end the others
    dist.destroy_process_group()
