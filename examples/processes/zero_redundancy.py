"""ZeroRedundancyOptimizer: every process has the whole model, and the states of some of its tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from fusedstep.torch import AdamW


def train(state_format: str) -> None:
    """Train for 50 steps, and print the last loss and the memory of the states."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64))
    model = DistributedDataParallel(network)
    opt = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=AdamW, lr=1e-3, state_format=state_format)
    data = torch.Generator().manual_seed(dist.get_rank())  # data of its own in every process
    for _ in range(50):
        x = torch.randn(64, 64, generator=data)
        opt.zero_grad()
        loss = (model(x) - x.flip(1)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # the optimizer has some of the gradients only
        opt.step()
    states = opt.optim.state.values()
    held = sum(t.nbytes for state in states for name, t in state.items() if name != "step")
    if dist.get_rank() == 0:
        print(f"{state_format}: loss {loss.item():.3f}, {held} bytes of states", flush=True)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    for state_format in ("float32", "bfloat16", "8bit"):
        train(state_format)
    dist.barrier()  # one that left early could end the others
    dist.destroy_process_group()
