"""DistributedDataParallel: every process has the whole model and all states."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fusedstep.torch import AdamW


def train(state_format: str) -> None:
    """Train for 50 steps, and print the last loss and the memory of the states."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64))
    model = DistributedDataParallel(network)
    opt = AdamW(model.parameters(), lr=1e-3, max_grad_norm=1.0, state_format=state_format)  # type: ignore[arg-type]
    data = torch.Generator().manual_seed(dist.get_rank())  # data of its own in every process
    for _ in range(50):
        x = torch.randn(64, 64, generator=data)
        opt.zero_grad()
        loss = (model(x) - x.flip(1)).square().mean()
        loss.backward()
        opt.step()
    held = sum(t.nbytes for state in opt.state.values() for name, t in state.items() if name != "step")
    if dist.get_rank() == 0:
        print(f"{state_format}: loss {loss.item():.3f}, {held} bytes of states", flush=True)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for state_format in ("float32", "bfloat16", "8bit"):
        train(state_format)
    dist.barrier()  # one that left early could end the others
    dist.destroy_process_group()
