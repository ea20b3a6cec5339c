"""Distributed tensors: norms and decisions of the whole model, of which every process has a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own

SHAPES = [(7, 5), (3000, 3), (1,), (5000,), (2, 3)]

# By the shape of the device mesh, how each of these tensors is laid out: "S0" is sharded along its dimension 0, "R"
# replicated.
LAYOUTS = {
    (2,): [["S0"], ["S1"], ["S0"], ["R"], ["S1"]],
    (1, 2): [["S0", "S1"], ["R", "S0"], ["S0", "R"], ["S0", "S0"], ["R", "R"]],
    (2, 2): [["S0", "S1"], ["R", "S0"], ["S0", "R"], ["S0", "S0"], ["R", "R"]],
}

RULES: list[tuple[str, dict[str, Any]]] = [
    ("LAMB", {}),
    ("LARS", {"lr": 0.1, "weight_decay": 0.01}),
    ("StableAdamW", {"lr": 0.1}),
    ("MARS", {"lr": 0.1}),
    ("NovoGrad", {"lr": 0.1}),
    ("Prodigy", {"d0": 0.01}),
    ("AdamW", {"max_grad_norm": 1.0}),
    ("AdamW", {"lr": 0.1, "cautious": True}),
    ("LAMB", {"max_grad_norm": 1.0, "skip_nonfinite": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "max_grad_norm": 1.0}),
]


def placed(name: str) -> Any:
    from torch.distributed.tensor import Replicate, Shard

    return Replicate() if name == "R" else Shard(int(name[1]))


def distributed(mesh: Any, whole: list[Any], layout: list[list[str]]) -> list[Any]:
    from torch.distributed.tensor import distribute_tensor

    return [
        distribute_tensor(t.clone(), mesh, [placed(n) for n in names]) for t, names in zip(whole, layout, strict=True)
    ]


def numbers(seed: int, dtype: Any = torch.float32) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def stepped(rank: int, shape: tuple[int, ...]) -> Any:
    """Steps on parts, and on the whole in one process."""
    from torch.distributed.device_mesh import init_device_mesh

    import fusedstep.torch as ours

    mesh, layout = init_device_mesh("cpu", shape), LAYOUTS[shape]
    found = []
    for dtype in (torch.float32, torch.float64):
        for name, options in RULES:
            parts = [torch.nn.Parameter(t) for t in distributed(mesh, numbers(0, dtype), layout)]
            alone = [torch.nn.Parameter(t) for t in numbers(0, dtype)]
            plain = torch.nn.Parameter(torch.ones(4, dtype=dtype))  # beside the others, and alike in all processes
            plains = [plain, torch.nn.Parameter(plain.detach().clone())]
            mine = getattr(ours, name)([*parts, plains[0]], **options)
            one = getattr(ours, name)([*alone, plains[1]], **options)
            for step in range(3):
                grads = numbers(1 + step, dtype)
                for i, (grad, part) in enumerate(zip(grads, distributed(mesh, grads, layout), strict=True)):
                    none = step == 1 and i == 1
                    parts[i].grad, alone[i].grad = (None, None) if none else (part, grad)
                plains[0].grad, plains[1].grad = torch.full_like(plain, 3), torch.full_like(plain, 3)
                mine.step()
                one.step()
            whole = [p.full_tensor().detach() for p in parts] + [plains[0].detach()]
            expected = [p.detach() for p in (*alone, plains[1])]
            found.append((f"{name} {options} {dtype}", whole, expected, mine.grad_norm, one.grad_norm))
    return found


@pytest.mark.parametrize("shape", list(LAYOUTS))
def test_parts_make_the_step_of_the_whole(processes: Callable[..., Any], shape: tuple[int, ...]) -> None:
    """The same bits in every process; those of one process up to the order in which partial sums are added."""
    ranks = 1
    for size in shape:
        ranks *= size
    results = processes(ranks, stepped, shape)
    for case, whole, expected, norm, alone in results[0]:
        for a, b in zip(whole, expected, strict=True):
            assert torch.allclose(a, b, rtol=2e-6 if a.dtype == torch.float32 else 1e-12, atol=1e-7), case
        assert (norm is None) == (alone is None) and (norm is None or abs(norm - alone) <= 1e-12 * alone), case
    for other in results[1:]:
        for (case, whole, _, norm, _), (_, same, _, its_norm, _) in zip(results[0], other, strict=True):
            assert norm == its_norm, case
            assert all(torch.equal(a, b) for a, b in zip(whole, same, strict=True)), case


def two_parameters(dtype: Any = torch.float32) -> tuple[Any, Any, list[Any]]:
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    layout = [["S0"], ["R"]]
    params = [torch.nn.Parameter(t) for t in distributed(mesh, [torch.ones(5, dtype=dtype)] * 2, layout)]
    for param, grad in zip(params, distributed(mesh, [torch.ones(5, dtype=dtype)] * 2, layout), strict=True):
        param.grad = grad
    return mesh, layout, params


def outcome(optimizer: Any, params: list[Any]) -> Any:
    before = [p.to_local().detach().clone() for p in params]
    try:
        optimizer.step()
        said = ""
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
    same = all(torch.equal(p.to_local().detach(), b) for p, b in zip(params, before, strict=True))
    return said, same, optimizer.skipped_steps


def goes_wrong(rank: int, what: str) -> list[Any]:
    import fusedstep.torch as ours

    mesh, layout, params = two_parameters(torch.float16 if what == "overflow" else torch.float32)
    found = []
    optimizer: Any
    if what == "infinite":
        optimizer = ours.LAMB(params, skip_nonfinite=True)
        if rank == 1:
            params[0].grad.to_local()[0] = torch.inf
        found.append(outcome(optimizer, params))
        if rank == 1:
            params[0].grad.to_local()[0] = 1
    elif what == "overflow":
        optimizer = ours.SGD(params, lr=1.0)
        params[0].grad.to_local()[0] = -65500 if rank == 1 else 0
        with torch.no_grad():
            params[0].to_local()[0] = 60000 if rank == 1 else 0
        found.append(outcome(optimizer, params))
        params[0].grad.to_local()[0] = 0
    elif what == "no gradient":
        optimizer = ours.AdamW(params, max_grad_norm=1.0)
        params[0].grad = None if rank == 0 else params[0].grad
        found.append(outcome(optimizer, params))
        params[0].grad = distributed(mesh, [torch.ones(5)], layout[:1])[0]
    elif what == "lr":
        optimizer = ours.AdamW(params, lr=0.1 * (1 + rank), max_grad_norm=1.0)
        found.append(outcome(optimizer, params))
        optimizer.param_groups[0]["lr"] = 0.1
    else:  # an error in one process, of a new or an old model
        optimizer = ours.AdamW(params, max_grad_norm=1.0)
        if what == "later":
            found.append(outcome(optimizer, params))
        for _ in range(2):
            if rank == 1:
                optimizer.param_groups[0]["lr"] = -1.0
            found.append(outcome(optimizer, params))
        optimizer.param_groups[0]["lr"] = 0.1
    found.append(outcome(optimizer, params))
    return found


WRONG: dict[str, list[str]] = {  # what each process says
    "infinite": ["", ""],
    "overflow": ["OverflowError: params[0][0]: the step would take"] * 2,
    "no gradient": ["RankError: distributed parameters with a gradient: got [1] on rank 0 and [0, 1] on rank 1"] * 2,
    "lr": ['RankError: param_groups[0]["lr"]: got 0.1 on rank 0 and 0.2 on rank 1'] * 2,
    "first": ["RankError: rank 1: ValueError: ", "ValueError: "],
    "later": ["RankError: rank 1: ValueError: ", "ValueError: "],
}


def all_that_goes_wrong(rank: int) -> Any:
    return {what: goes_wrong(rank, what) for what in WRONG}


def test_all_processes_step_or_none(two_processes: Callable[..., Any]) -> None:
    for rank, results in enumerate(two_processes(all_that_goes_wrong)):
        for what, (*wrong, good) in results.items():
            text = WRONG[what][rank]
            if what == "later":
                assert wrong.pop(0) == ("", False, 0)
            for said, same, skipped in wrong:
                assert said.startswith(text) and (said == "") == (text == ""), (what, said)
                assert same and skipped == (what == "infinite"), what
            assert good[:2] == ("", False), (what, good)


def partial_sums(rank: int) -> list[str]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial

    import fusedstep.torch as ours

    mesh = init_device_mesh("cpu", (2,))
    param = torch.nn.Parameter(DTensor.from_local(torch.ones(4), mesh, [Partial()]))
    param.grad = DTensor.from_local(torch.ones(4), mesh, [Partial()])
    return [outcome(ours.SGD([param], lr=0.5, max_grad_norm=norm), [param])[0] for norm in (None, 1.0)]


def test_parameters_that_are_partial_sums_are_refused(two_processes: Callable[..., Any]) -> None:
    for said in two_processes(partial_sums):
        assert all("distributed tensor of partial sums" in text and "redistribute()" in text for text in said)


def clipped_by_both(rank: int, ours: bool) -> Any:
    """FSDP2, clipped by the optimizer or by torch.nn.utils.clip_grad_norm_."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    import fusedstep.torch as ours_module

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 17), torch.nn.Tanh(), torch.nn.Linear(17, 3))
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model):
        fully_shard(layer, mesh=mesh)
    optimizer: Any
    if ours:
        optimizer = ours_module.AdamW(model.parameters(), lr=1e-2, max_grad_norm=0.1)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, norms = [], []
    for step in range(6):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(10 * step + rank))
        optimizer.zero_grad()
        loss = (model(x) - x[:, :3]).square().mean()
        loss.backward()
        if not ours:
            norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1).full_tensor()))
        optimizer.step()
        if ours:
            norms.append(optimizer.grad_norm)
        losses.append(loss.item())
    return losses, norms


def test_clipping_agrees_with_torchs(two_processes: Callable[..., Any], tolerance: float) -> None:
    theirs, mine = two_processes(clipped_by_both, False), two_processes(clipped_by_both, True)
    for a, b in zip(theirs, mine, strict=True):
        assert b[0] == pytest.approx(a[0], rel=tolerance)
        assert b[1] == pytest.approx(a[1], rel=1e-5)
    assert mine[0][1] == mine[1][1]
