"""Muon under FSDP2, hybrid sharding and tensor parallelism: losses of torch.optim.Muon, and those of one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

OPTIONS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.01}
SMALL = {"state_format": "8bit", "min_quantized_size": 0}


def network(bias: bool = True) -> Any:
    torch.manual_seed(0)
    sizes = [(6, 18), (18, 18), (18, 3)]
    layers = [layer for n, m in sizes for layer in (torch.nn.Linear(n, m, bias=bias), torch.nn.Tanh())]
    return torch.nn.Sequential(*layers[:-1])


def loss_of(model: Any, step: int, rank: int) -> Any:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank))
    return (model(x) - x[:, :3]).square().mean()


def trained(model: Any, optimizer: Any, ranks: Any, steps: range = range(6), eager: bool = False) -> list[float]:
    """The losses of the first of the ranks, whose mean gradient is that of all processes together."""
    losses = []
    for step in steps:
        optimizer.zero_grad()
        values = [loss_of(model, step, rank) for rank in ranks]
        sum(value / len(values) for value in values).backward()
        if not eager:
            optimizer.step()
        losses.append(values[0].item())
    return losses


def sharded(model: Any, mesh: Any, **options: Any) -> Any:
    from torch.distributed.fsdp import fully_shard

    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh, **options)
    return model


def state_bytes(optimizer: Any) -> int:
    tensors = [t for state in optimizer.state.values() for name, t in state.items() if name != "step"]
    return sum(getattr(t, "_local_tensor", t).nbytes for t in tensors)


def on_two(rank: int, offload: bool) -> Any:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy

    import fusedstep.torch as ours

    mesh = init_device_mesh("cpu", (2,))
    policy = CPUOffloadPolicy(pin_memory=False) if offload else OffloadPolicy()
    cases: dict[str, tuple[Any, bool, dict[str, Any]]] = {
        "ours in bfloat16": (ours.Muon, False, {"ns_dtype": torch.bfloat16}),
        "ours": (ours.Muon, True, {"ns_dtype": torch.float32, "rest": {"lr": 1e-2}}),
        "ours in 8 bits": (ours.Muon, True, {"ns_dtype": torch.float32, "rest": {"lr": 1e-2}, **SMALL}),
    }
    if hasattr(torch.optim, "Muon"):
        cases["torch's"] = torch.optim.Muon, False, {}
    found = {}
    for name, (cls, bias, options) in cases.items():
        model = sharded(network(bias), mesh, offload_policy=policy)
        optimizer = cls(model.parameters(), **OPTIONS, **options)
        losses = trained(model, optimizer, [rank])
        saved = get_optimizer_state_dict(model, optimizer)
        optimizer = cls(model.parameters(), **OPTIONS, **options)
        set_optimizer_state_dict(model, optimizer, saved)
        losses += trained(model, optimizer, [rank], range(6, 9))
        found[name] = losses, state_bytes(optimizer)
    model = sharded(network(), mesh, offload_policy=policy)
    eager = ours.apply_in_backward(model, ours.Muon, **OPTIONS, **cases["ours"][2])
    found["in the backward pass"] = trained(model, eager, [rank], range(9), eager=True), 0
    return found


@pytest.mark.parametrize("offload", [False, True], ids=["plain", "CPUOffloadPolicy"])
def test_fully_shard(two_processes: Callable[..., Any], tolerance: float, offload: bool) -> None:
    ranks = two_processes(on_two, offload)
    model = network()
    alone = trained(
        model, ft.Muon(model.parameters(), ns_dtype=torch.float32, rest={"lr": 1e-2}, **OPTIONS), [0, 1], range(9)
    )
    assert ranks[0]["ours"][0] == pytest.approx(alone, rel=tolerance)
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    elements = sum(p.numel() for p in model.parameters())
    for found in ranks:
        assert found["in the backward pass"][0] == found["ours"][0]
        assert found["ours in 8 bits"][0] == pytest.approx(found["ours"][0], rel=0.01)
        if "torch's" in found:  # the products of bfloat16 round otherwise
            assert found["ours in bfloat16"][0] == pytest.approx(found["torch's"][0], rel=2e-3)
            assert found["ours in bfloat16"][1] == found["torch's"][1]
    assert sum(found["ours in bfloat16"][1] for found in ranks) == 4 * weights
    assert sum(found["ours"][1] for found in ranks) == 4 * weights + 8 * (elements - weights)
    assert all(found["ours in 8 bits"][1] < found["ours"][1] * 0.35 for found in ranks)


def on_four(rank: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    import fusedstep.torch as ours

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parallel = parallelize_module(network(), mesh["tp"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    models = [(sharded(network(), mesh), rank), (sharded(parallel, mesh["dp"]), rank // 2)]
    found = []
    for model, data in models:
        for cls, options in ((ours.Muon, {"ns_dtype": torch.float32}), (ours.LAMB, {})):
            optimizer = cls(model.parameters(), max_grad_norm=0.1, **OPTIONS, **options)
            found.append((trained(model, optimizer, [data]), optimizer.grad_norm))
    return found


def test_hybrid_sharding_and_tensor_parallelism(processes: Callable[..., Any], tolerance: float) -> None:
    """Rows that both tensor parallelism and FSDP cut are strided shards: norms count them, and matrices are whole."""
    results = processes(4, on_four)
    expected = []
    for ranks in ([0, 1, 2, 3], [0, 1]):
        model = network()
        for cls, options in ((ft.Muon, {"ns_dtype": torch.float32}), (ft.LAMB, {})):
            optimizer = cls(model.parameters(), max_grad_norm=0.1, **OPTIONS, **options)
            expected.append((trained(model, optimizer, ranks), optimizer.grad_norm))
    for (losses, norm), (alone, its) in zip(results[0], expected, strict=True):
        assert losses == pytest.approx(alone, rel=tolerance)
        assert norm == pytest.approx(its, rel=tolerance)
    assert all([norm for _, norm in found[:2]] == [norm for _, norm in results[0][:2]] for found in results)
