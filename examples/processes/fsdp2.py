"""FSDP2 with offload: every process has its part of parameters, gradients and states."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from fusedstep.torch import AdamW


def train(state_format: str) -> None:
    """Train for 50 steps, and print the last loss and the memory of the states."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))  # "cuda": then pin_memory=True
    policy = CPUOffloadPolicy(pin_memory=False)
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    opt = AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0, state_format=state_format)  # type: ignore[arg-type]
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
