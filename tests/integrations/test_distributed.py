"""Two processes: ZeroRedundancyOptimizer, and FSDP2, whose parameters are DTensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def batch(step: int, rank: int) -> Any:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank))


def zero_redundancy(rank: int, ours: bool, name: str) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    import fusedstep.torch as ours_module

    model = DistributedDataParallel(network())
    cls = getattr(ours_module if ours else torch.optim, name)
    optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    losses = []
    for step in range(8):
        x = batch(step, rank)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    optimizer.consolidate_state_dict(0)
    saved = optimizer.state_dict() if rank == 0 else None
    return losses, [p.detach() for p in model.parameters()], saved


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_zero_redundancy_optimizer(two_processes: Callable[..., Any], tolerance: float, name: str) -> None:
    theirs = two_processes(zero_redundancy, False, name)
    mine = two_processes(zero_redundancy, True, name)
    for a, b in zip(theirs, mine, strict=True):
        assert b[0] == pytest.approx(a[0], rel=tolerance)
        torch.testing.assert_close(b[1], a[1], rtol=tolerance, atol=1e-6)
    assert len(mine[0][2]["state"]) == len(theirs[0][2]["state"])


def fully_sharded(rank: int, ours: bool, name: str) -> Any:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import fusedstep.torch as ours_module

    mesh = init_device_mesh("cpu", (2,))
    model = network()
    for layer in model:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    module = ours_module if ours else torch.optim
    optimizer = getattr(module, name)(model.parameters(), lr=1e-2)
    losses = []
    for step in range(8):
        if step == 4:
            saved = get_optimizer_state_dict(model, optimizer)
            optimizer = getattr(module, name)(model.parameters(), lr=1e-2)
            set_optimizer_state_dict(model, optimizer, saved)
        x = batch(step, rank)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.full_tensor().detach() for p in model.parameters()]


@pytest.mark.parametrize("name", ["AdamW", "RMSprop"])
def test_fully_shard(two_processes: Callable[..., Any], tolerance: float, name: str) -> None:
    theirs = two_processes(fully_sharded, False, name)
    mine = two_processes(fully_sharded, True, name)
    for a, b in zip(theirs, mine, strict=True):
        assert b[0] == pytest.approx(a[0], rel=tolerance)
        torch.testing.assert_close(b[1], a[1], rtol=tolerance, atol=1e-6)


def partial_gradient(rank: int, ours: bool) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate

    import fusedstep.torch as ours_module

    mesh = init_device_mesh("cpu", (2,))
    param = torch.nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Replicate()]))
    optimizer = (ours_module if ours else torch.optim).SGD([param], lr=0.5)
    for _ in range(2):
        param.grad = DTensor.from_local(torch.full((4,), 1.0 + rank), mesh, [Partial()])
        optimizer.step()
    return param.to_local().detach()


def test_gradients_that_are_partial_sums(two_processes: Callable[..., Any]) -> None:
    for theirs, mine in zip(two_processes(partial_gradient, False), two_processes(partial_gradient, True), strict=True):
        assert torch.equal(theirs, torch.full((4,), -2.0))
        assert torch.equal(mine, theirs)
