"""Muon on distributed tensors: every matrix is made orthogonal whole, by one of the processes that have parts of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

# With matrices that some processes have nothing of, two that are equal, a convolution, experts, a vector, a transpose.
SHAPES = [(7, 5), (20, 33), (33, 20), (20, 33), (1, 9), (8, 3, 2, 2), (5, 6, 4), (3, 6, 4), (9,), (18, 12), (64, 32)]
TURNED = 9

# By the shape of the device mesh, how each of these tensors is laid out: "S0" is sharded along its dimension 0, "R"
# replicated.
LAYOUTS = {
    (2,): [[n] for n in ["S0", "S1", "S0", "R", "S0", "S0", "S1", "S0", "S0", "S1", "S0"]],
    (3,): [[n] for n in ["S1", "S0", "S1", "R", "S0", "S0", "R", "S0", "S0", "S0", "S0"]],
    (2, 2): [
        *(["S0", "S1"], ["R", "S0"], ["S0", "R"], ["S0", "S0"], ["R", "R"], ["S0", "S2"]),
        *(["S0", "S1"], ["S0", "S0"], ["R", "S0"], ["S1", "S0"], ["R", "S0"]),
    ],
}

OPTIONS: list[tuple[Any, dict[str, Any]]] = [
    (torch.float32, {}),
    (torch.float32, {"nesterov": False, "weight_decay": 0.0, "adjust_lr_fn": "match_rms_adamw", "maximize": True}),
    (torch.float32, {"reshape": "batch", "max_grad_norm": 1.0, "rest": {"rule": "lion", "lr": 1e-3}}),
    (torch.float32, {"state_format": "bfloat16", "ema_decay": 0.9, "clip_value": 0.5, "skip_nonfinite": True}),
    (torch.float32, {"ns_dtype": torch.bfloat16, "eps": 10.0, "zero_grads": True}),
    (torch.float64, {"reshape": "flatten"}),
    (torch.bfloat16, {"master": "split", "ns_steps": 3}),
    (torch.float16, {"master": "float32", "max_grad_norm": 0.5}),
]


def placed(name: str) -> Any:
    from torch.distributed.tensor import Replicate, Shard

    return Replicate() if name == "R" else Shard(int(name[1]))


def distributed(mesh: Any, tensor: Any, layout: list[str]) -> Any:
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.clone(), mesh, [placed(name) for name in layout], src_data_rank=None)


def numbers(seed: int, dtype: Any) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    found = [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]
    found[TURNED] = found[TURNED].T.contiguous().T
    return found


def whole(tensor: Any) -> Any:
    return getattr(tensor, "full_tensor", lambda: tensor)().detach()


def local(tensor: Any) -> Any:
    return getattr(tensor, "_local_tensor", tensor).detach()


def states(optimizer: Any, params: Any) -> list[Any]:
    names = [(p, name) for p in params for name in sorted(optimizer.state[p])]
    return [whole(optimizer.state[p][name]) for p, name in names if name != "remainder"]  # int16 does not travel


def stepped(rank: int, shape: tuple[int, ...]) -> Any:
    """Steps on parts, and on the whole in one process."""
    from torch.distributed.device_mesh import init_device_mesh

    import fusedstep.torch as ours
    from fusedstep.torch._directions import TensorDirections

    mesh, layout = init_device_mesh("cpu", shape), LAYOUTS[shape]
    found = []
    every = TensorDirections.together
    for together, (dtype, options) in [*((1, case) for case in OPTIONS), *((every, case) for case in OPTIONS[:3])]:
        TensorDirections.together = together
        parts = [torch.nn.Parameter(distributed(mesh, t, at)) for t, at in zip(numbers(0, dtype), layout, strict=True)]
        alone = [torch.nn.Parameter(t) for t in numbers(0, dtype)]
        plains = [[torch.nn.Parameter(torch.ones(s, dtype=dtype)) for s in ((4, 6), (0, 4))] for _ in range(2)]
        mine, one = ours.Muon([*parts, *plains[0]], **options), ours.Muon([*alone, *plains[1]], **options)
        for step in range(2):
            for i, (grad, at) in enumerate(zip(numbers(1 + step, dtype), layout, strict=True)):
                none = step == 1 and i == 1
                parts[i].grad, alone[i].grad = (None, None) if none else (distributed(mesh, grad, at), grad)
            for p in (*plains[0], *plains[1]):
                p.grad = torch.full_like(p, 0.1 * (1 + step))
            mine.step()
            one.step()
        both = [(mine, (*parts, *plains[0])), (one, (*alone, *plains[1]))]
        left = [[whole(p) for p in params] + states(optimizer, params) for optimizer, params in both]
        exact = together == 1 and mine.grad_norm is None and dtype != torch.float64
        found.append((f"{options} {dtype} {together}", exact, *left, mine.grad_norm, one.grad_norm))
    return found


@pytest.mark.parametrize("shape", list(LAYOUTS), ids=str)
def test_the_step_is_that_of_one_process(processes: Callable[..., Any], shape: tuple[int, ...]) -> None:
    """The same bits in every process; with one matrix at a time also those of a process that has the whole.

    But for the order in which the parts of a norm are added, which can be seen in float64 and after clipping.
    """
    first, *others = processes(math.prod(shape), stepped, shape)
    for case, exact, mine, expected, norm, alone in first:
        for i, (a, b) in enumerate(zip(mine, expected, strict=True)):
            close = 1e-11 if a.dtype == torch.float64 else 1e-3
            assert torch.equal(a, b) if exact else torch.allclose(a, b, rtol=close, atol=close), (case, i)
        assert (norm is None) == (alone is None) and (norm is None or abs(norm - alone) <= 1e-12 * alone), case
    for other in others:
        for (case, _, mine, _, norm, _), (_, _, its, _, same, _) in zip(first, other, strict=True):
            assert norm == same and all(torch.equal(a, b) for a, b in zip(mine, its, strict=True)), case


def shared(rank: int) -> Any:
    """Who works on what, with how much memory."""
    from torch.distributed.device_mesh import init_device_mesh

    import fusedstep.torch as ours
    from fusedstep.torch._directions import TensorDirections

    directions: Any = TensorDirections
    worked, own = [], directions._iterate

    def counted(self: Any, matrices: Any, *rest: Any) -> None:
        worked.append(tuple(matrices.shape))
        own(self, matrices, *rest)

    directions._iterate = counted
    mesh, found = init_device_mesh("cpu", (2,)), []
    for layout in ("S0", "R"):
        params = [torch.nn.Parameter(distributed(mesh, torch.ones(64, 32), [layout])) for _ in range(6)]
        params.append(torch.nn.Parameter(distributed(mesh, torch.ones(128, 64), [layout])))
        opt = ours.Muon(params, state_format="8bit", min_quantized_size=0)
        for p in params:
            p.grad = torch.ones_like(p)
        opt.step()
        held = [local(t).nbytes for state in opt.state.values() for t in state.values()]
        memory = [t.numel() for t in opt._directions(opt._slots).arrays]
        found.append((worked.copy(), sum(held), sum(memory)))
        worked.clear()
    return found


def test_work_and_memory_are_shared(two_processes: Callable[..., Any]) -> None:
    """The largest matrix costs eight times as much as one of the six others, which the other process takes together."""
    for rank, found in enumerate(two_processes(shared)):
        elements = 6 * 64 * 32 + 128 * 64
        for (worked, held, memory), parts in zip(found, (2, 1), strict=True):
            assert worked == ([(1, 128, 64)] if rank == 0 else [(6, 64, 32)])
            assert held == (elements + elements // 256 * 4) // parts
            assert memory == elements // parts + 2 * 6 * 64 * 32 + 2 * 6 * 32 * 32  # parts, two of the largest batch


# ---- what goes wrong ----


def outcome(optimizer: Any, params: list[Any]) -> Any:
    """What a step says, and whether everything is as before."""
    before = [[local(t).clone() for t in (p.detach(), *optimizer.state[p].values())] for p in params]
    try:
        optimizer.step()
        said = ""
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    after = [[local(t) for t in (p.detach(), *optimizer.state[p].values())] for p in params]
    same = all(torch.equal(a, b) for x, y in zip(before, after, strict=True) for a, b in zip(x, y, strict=True))
    return said, same


WRONG: dict[str, list[str]] = {  # what each process says
    "MemoryError": ["RankError: rank 1: MemoryError: no room", "MemoryError: no room"],
    "KeyboardInterrupt": ["RankError: rank 1: KeyboardInterrupt: ", "KeyboardInterrupt: "],
    "ns_steps": ['RankError: param_groups[0]["ns_steps"]: got 5 on rank 0 and 100 on rank 1'] * 2,
    "all ns_steps": ['ValueError: param_groups[0]["ns_steps"]: got 100, needs'] * 2,
    "ns_dtype": ["RankError: ns_dtype: got torch.float32 (products in torch.float32) on rank 0 and torch.bfloat16"] * 2,
    "no gradient": ["RankError: distributed parameters with a gradient: got [1, 2] on rank 0 and [0, 1, 2] on"] * 2,
}


def all_that_goes_wrong(rank: int) -> Any:
    """A step that fails in process 1 between two that do not, and the same without it."""
    from torch.distributed.device_mesh import init_device_mesh

    import fusedstep.torch as ours
    from fusedstep.torch._directions import TensorDirections

    directions: Any = TensorDirections
    own, mesh, found = directions._iterate, init_device_mesh("cpu", (2,)), {}

    def fails(self: Any, *_: Any) -> None:
        raise MemoryError("no room") if what == "MemoryError" else KeyboardInterrupt

    def fresh() -> Any:
        params = [torch.nn.Parameter(distributed(mesh, torch.eye(6, 9) + i, ["S0"])) for i in range(2)]
        params.append(torch.nn.Parameter(distributed(mesh, torch.ones(5), ["S0"])))
        for p in params:
            p.grad = torch.ones_like(p)
        return ours.Muon(params, ns_dtype=torch.float32), params

    for what in WRONG:
        (opt, params), (other, others) = fresh(), fresh()
        said = [outcome(opt, params)]
        group = opt.param_groups[0]
        kept, grad = dict(group), params[0].grad
        if rank == 1 and what in ("MemoryError", "KeyboardInterrupt"):
            directions._iterate = fails
        elif rank == 1 and what == "ns_dtype":
            opt._ns_dtype = torch.bfloat16
            opt._stale()
        elif what == "no gradient":
            params[0].grad = None if rank == 0 else grad
        elif rank == 1 or what.startswith("all"):
            group["ns_steps"] = 100
        said.append(outcome(opt, params))
        directions._iterate = own
        opt.__dict__["_ns_dtype"], params[0].grad = torch.float32, grad
        group.update(kept)
        opt._stale()
        said.append(outcome(opt, params))
        for _ in range(2):
            other.step()
        found[what] = said, all(torch.equal(local(p), local(q)) for p, q in zip(params, others, strict=True))
    return found


def test_all_processes_step_or_none(two_processes: Callable[..., Any]) -> None:
    for rank, results in enumerate(two_processes(all_that_goes_wrong)):
        for what, ((before, wrong, after), alike) in results.items():
            assert before == after == ("", False), what
            assert wrong[0].startswith(WRONG[what][rank]) and wrong[1], (what, wrong)
            assert alike, what


def refused(rank: int) -> list[str]:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Shard

    import fusedstep.torch as ours

    mesh, said = init_device_mesh("cpu", (2,)), []

    class Other(Shard):
        pass

    def part(placement: Any, *shape: int) -> Any:
        whole: dict[str, Any] = {"shape": (8, 4), "stride": (4, 1)} if shape else {}
        made = DTensor.from_local(torch.ones(shape or (4, 4)), mesh, [placement], run_check=False, **whole)
        return torch.nn.Parameter(made)

    def tried(make: Callable[..., Any], param: Any) -> None:
        param.grad = torch.ones_like(param)
        try:
            make([param]).step()
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
        assert (local(param) == 1).all()

    tried(ours.Muon, part(Partial()))
    tried(ours.Muon, part(Other(1)))
    tried(ours.Muon, part(Shard(0), 3 + 2 * rank, 4))
    tried(lambda params: ours.CPUOffload(ours.Muon, params), part(Shard(0)))
    tried(ours.Adafactor, part(Shard(0)))
    dist.destroy_process_group()
    dist.init_process_group("cuda:gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    mesh = init_device_mesh("cpu", (1,))
    tried(ours.Muon, part(Shard(0)))
    return said


REFUSED = [
    "ValueError: params[0][0]: got a distributed tensor of partial sums",
    "ValueError: params[0][0]: got the placements (",
    "ValueError: params[0][0]: got a local part of shape (%d, 4), needs (4, 4) by its placements",
    "TypeError: params[0][0]: got a distributed tensor, needs a tensor of this process alone",
    "ValueError: params[0][0]: got a distributed tensor, needs whole matrices or blocks in this process for adafactor",
    "ValueError: params[0][0]: got a distributed matrix, needs a process group with a backend for the CPU",
]


def test_refused(two_processes: Callable[..., Any]) -> None:
    for rank, said in enumerate(two_processes(refused)):
        for text, start in zip(said, REFUSED, strict=True):
            assert text.startswith(start.replace("%d", str(3 + 2 * rank))), text
