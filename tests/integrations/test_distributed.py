"""Two processes: DistributedDataParallel, ZeroRedundancyOptimizer, and FSDP2, whose parameters are DTensors."""

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


def state_bytes(optimizer: Any) -> int:
    """Bytes of the states in this process, without step counts."""
    tensors = [v for state in optimizer.state.values() for k, v in state.items() if k != "step"]
    mine = [getattr(t, "_local_tensor", t) for t in tensors]
    return sum(t.numel() * t.element_size() for t in mine)


def trained(model: Any, optimizer: Any, rank: int, steps: range, clip: bool = False) -> list[float]:
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
    losses = []
    for step in steps:
        x = batch(step, rank)
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def data_parallel(rank: int, sharded: bool) -> Any:
    """DistributedDataParallel, whose processes all hold all states, or each those of its own tensors."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    import fusedstep.torch as ours

    found: dict[str, list[Any]] = {}
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("AdamW", torch.optim.AdamW, {}),
        ("AdamW", ours.AdamW, {}),
        ("AdamW 8bit", ours.AdamW, {"state_format": "8bit", "min_quantized_size": 0}),
        ("SGD", torch.optim.SGD, {"momentum": 0.9}),
        ("SGD", ours.SGD, {"momentum": 0.9}),
    ]
    for name, cls, options in cases:
        model = DistributedDataParallel(network())
        optimizer: Any
        if sharded:
            optimizer = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls, lr=1e-2, **options)
        else:
            optimizer = cls(model.parameters(), lr=1e-2, **options)
        losses = trained(model, optimizer, rank, range(8))
        held = state_bytes(optimizer.optim if sharded else optimizer)
        count = 0
        if sharded:
            optimizer.consolidate_state_dict(0)
            count = len(optimizer.state_dict()["state"]) if rank == 0 else 0
        params = [p.detach() for p in model.parameters()]
        found.setdefault(name, []).append((losses, params, held, count))
    return found


@pytest.mark.parametrize("sharded", [False, True], ids=["DistributedDataParallel", "ZeroRedundancyOptimizer"])
def test_data_parallel(two_processes: Callable[..., Any], tolerance: float, sharded: bool) -> None:
    ranks = two_processes(data_parallel, sharded)
    for found in ranks:
        for name in ("AdamW", "SGD"):
            theirs, mine = found[name]
            assert mine[0] == pytest.approx(theirs[0], rel=tolerance), name
            torch.testing.assert_close(mine[1], theirs[1], rtol=tolerance, atol=1e-6)
            assert mine[2:] == theirs[2:]
    elements = sum(p.numel() for p in network().parameters())
    for name, whole in (("AdamW", 8 * elements), ("SGD", 4 * elements)):
        held = [found[name][1][2] for found in ranks]
        assert sum(held) == whole if sharded else held == [whole, whole]
    assert all(found["AdamW 8bit"][0][2] < found["AdamW"][1][2] * 0.35 for found in ranks)


def fully_sharded(rank: int, offload: bool) -> Any:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    import fusedstep.torch as ours

    mesh = init_device_mesh("cpu", (2,))
    policy = CPUOffloadPolicy(pin_memory=False) if offload else OffloadPolicy()
    found: dict[str, list[Any]] = {}
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("AdamW", torch.optim.AdamW, {}),
        ("AdamW", ours.AdamW, {}),
        ("AdamW 8bit", ours.AdamW, {"state_format": "8bit", "min_quantized_size": 0}),
        ("RMSprop", torch.optim.RMSprop, {}),
        ("RMSprop", ours.RMSprop, {}),
    ]
    for name, cls, options in cases:
        model = network()
        for layer in model:
            if isinstance(layer, torch.nn.Linear):
                fully_shard(layer, mesh=mesh, offload_policy=policy)
        fully_shard(model, mesh=mesh, offload_policy=policy)
        optimizer = cls(model.parameters(), lr=1e-2, **options)
        losses = trained(model, optimizer, rank, range(4), clip=True)
        saved = get_optimizer_state_dict(model, optimizer)
        optimizer = cls(model.parameters(), lr=1e-2, **options)
        set_optimizer_state_dict(model, optimizer, saved)
        losses += trained(model, optimizer, rank, range(4, 8), clip=True)
        params = [p.full_tensor().detach() for p in model.parameters()]
        found.setdefault(name, []).append((losses, params, state_bytes(optimizer)))
    return found


@pytest.mark.parametrize("offload", [False, True], ids=["plain", "CPUOffloadPolicy"])
def test_fully_shard(two_processes: Callable[..., Any], tolerance: float, offload: bool) -> None:
    ranks = two_processes(fully_sharded, offload)
    for found in ranks:
        for name in ("AdamW", "RMSprop"):
            theirs, mine = found[name]
            assert mine[0] == pytest.approx(theirs[0], rel=tolerance), name
            torch.testing.assert_close(mine[1], theirs[1], rtol=tolerance, atol=1e-6)
            assert mine[2] == theirs[2]
    elements = sum(p.numel() for p in network().parameters())
    assert sum(found["AdamW"][1][2] for found in ranks) == 8 * elements
    assert all(found["AdamW 8bit"][0][2] < found["AdamW"][1][2] * 0.35 for found in ranks)


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
