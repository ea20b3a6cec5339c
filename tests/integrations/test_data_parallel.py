"""What would go wrong unseen under the data-parallel modules of torch is an error before anything changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


def backward(model: Any, rank: int) -> None:
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(rank))
    (model(x) - x[:, :3]).square().mean().backward()


def said(model: Any, act: Callable[[], Any]) -> tuple[str, bool]:
    """The error that something ends in, and whether it changed the model."""
    before = [param.detach().clone() for param in model.parameters()]
    try:
        act()
    except ValueError as error:
        unchanged = all(map(torch.equal, before, model.parameters()))
        return str(error), unchanged
    return "", True


def stepped_on_arrival(rank: int) -> list[tuple[str, bool]]:
    from torch.nn.parallel import DistributedDataParallel

    import fusedstep.torch as ours

    def in_backward(params: Any) -> Any:
        return ours.apply_in_backward(params, ours.SGD, lr=0.1)

    def freed(params: Any) -> Any:
        return ours.CPUOffload(ours.SGD, params, lr=0.1, free_gradients=True)

    found = []
    for make in (in_backward, freed):
        early, late = network(), network()
        optimizer = make(early.parameters())
        backward(network(), rank)  # of another model
        wrapped = DistributedDataParallel(early)
        found.append(said(early, partial(backward, wrapped, rank)))
        wrapped = DistributedDataParallel(late)
        found.append(said(late, partial(make, wrapped.parameters())))
        other = torch.nn.Linear(2, 2)
        optimizer = make(other.parameters())  # which is not wrapped
        group = {"params": list(late.parameters())}
        found.append(said(late, partial(optimizer.add_param_group, group)))
        assert len(optimizer.param_groups) == 1
        start = other.weight.detach().clone()
        other(torch.ones(2)).sum().backward()
        optimizer.step()
        assert not torch.equal(start, other.weight)
    return found


def test_steps_on_arrival_would_miss_the_mean_of_all_processes(two_processes: Callable[..., Any]) -> None:
    for found in two_processes(stepped_on_arrival):
        assert len(found) == 6
        for text, unchanged in found:
            assert "params: got those of DistributedDataParallel" in text
            assert unchanged


def flat_parts(rank: int, whole: bool) -> dict[str, tuple[str, bool]]:
    from torch.distributed.fsdp import FullyShardedDataParallel

    import fusedstep.torch as ours

    cpu = torch.device("cpu")
    cases: dict[str, Any] = {
        "": lambda params: ours.AdamW(params),
        "max_grad_norm": lambda params: ours.AdamW(params, max_grad_norm=1.0),
        "skip_nonfinite": lambda params: ours.AdamW(params, skip_nonfinite=True),
        'param_groups[0]["cautious"]': lambda params: ours.AdamW(params, cautious=True),
        'param_groups[0]["params"]: got lamb': lambda params: ours.LAMB(params),
        'param_groups[0]["params"]: got adam_mini': lambda params: ours.AdamMini(params),
    }
    found = {}
    for start, make in cases.items():
        model = FullyShardedDataParallel(network(), use_orig_params=whole, device_id=cpu)
        optimizer = make(model.parameters())
        backward(model, rank)
        found[start] = said(model, optimizer.step)
    if not whole:
        model = FullyShardedDataParallel(network(), device_id=cpu)
        made = lambda: ours.apply_in_backward(model, ours.AdamW)  # noqa: E731
        found["params: got flat ones"] = said(model, made)
    return found


@pytest.mark.parametrize("whole", [False, True], ids=["flat", "use_orig_params"])
def test_flat_parts_have_no_norms(two_processes: Callable[..., Any], whole: bool) -> None:
    for found in two_processes(flat_parts, whole):
        assert found.pop("") == ("", True)
        for start, (text, unchanged) in found.items():
            assert text.startswith(start)
            assert "FullyShardedDataParallel" in text
            assert unchanged
