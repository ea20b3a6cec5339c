"""DeepSpeed's ZeRO with offload: DeepSpeed cuts the model, and the step is taken here."""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist

from fusedstep.torch import AdamW

CONFIG = {
    "train_micro_batch_size_per_gpu": 64,
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}},  # stage 1, 2 or 3
    "zero_force_ds_cpu_optimizer": False,  # take the optimizer that is given
    "zero_allow_untested_optimizer": True,
}


def train(state_format: str) -> None:
    """Train for 50 steps, and print the last loss and the memory of the states."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 64))
    opt = AdamW(network.parameters(), lr=1e-3, state_format=state_format)  # type: ignore[arg-type]
    model, *_ = deepspeed.initialize(model=network, optimizer=opt, config=CONFIG)
    data = torch.Generator().manual_seed(dist.get_rank())  # data of its own in every process
    for _ in range(50):
        x = torch.randn(64, 64, generator=data)
        loss = (model(x) - x.flip(1)).square().mean()
        model.backward(loss)
        model.step()
    held = sum(t.nbytes for state in opt.state.values() for name, t in state.items() if name != "step")
    if dist.get_rank() == 0:
        print(f"{state_format}: loss {loss.item():.3f}, {held} bytes of states", flush=True)
    model.destroy()


if __name__ == "__main__":
    deepspeed.init_distributed("gloo")
    for state_format in ("float32", "bfloat16", "8bit"):
        train(state_format)
    dist.barrier()  # one that left early could end the others
    dist.destroy_process_group()
