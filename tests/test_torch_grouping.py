"""Groups of a module's parameters by a condition."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

import fusedstep.torch as ft  # noqa: E402


def network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))


def no_decay(name: str, param: Any) -> bool:
    return bool(param.ndim < 2)


@pytest.mark.parametrize(
    "optimizer", [ft.AdamW, torch.optim.AdamW, ft.CPUOffload], ids=["fusedstep", "torch", "offload"]
)
@pytest.mark.parametrize("given", [lambda m: m, lambda m: m.named_parameters()], ids=["module", "named"])
def test_groups(given: Any, optimizer: Any) -> None:
    made: list[Any] = []
    module, other = network(), network()
    chosen = ft.groups(
        ft.groups(given(module), where=no_decay, weight_decay=0.0), where=lambda n, p: n[0] == "2", lr=0.5
    )
    by_hand = [
        {"params": [other[0].weight]},
        {"params": [other[0].bias, other[1].weight, other[1].bias], "weight_decay": 0.0},
        {"params": [other[2].weight], "lr": 0.5},
        {"params": [other[2].bias], "weight_decay": 0.0, "lr": 0.5},
    ]
    for model, groups in ((module, chosen), (other, by_hand)):
        arguments: Any = (ft.AdamW, groups) if optimizer is ft.CPUOffload else (groups,)
        made.append(optimizer(*arguments, lr=0.1, weight_decay=0.2))
        for _ in range(3):
            made[-1].zero_grad()
            model(torch.ones(5, 3)).square().sum().backward()
            made[-1].step()
    for mine, theirs in zip(module.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert [len(group["params"]) for group in made[0].param_groups] == [1, 3, 1, 1]


def test_layer_decay() -> None:
    rates = ft.layer_decay(network(), lr=1.0, decay=0.5, layer=lambda name, p: int(name[0]))
    assert [(group["lr"], len(group["params"])) for group in rates] == [(0.25, 2), (0.5, 2), (1.0, 2)]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: ft.groups(m.parameters(), where=no_decay, lr=1.0),
            TypeError,
            "params: got Parameter, needs a module",
        ),
        (lambda m: ft.groups([], where=no_decay, lr=1.0), ValueError, "params: holds no parameters"),
        (
            lambda m: ft.groups(m, where=lambda n, p: "x" in n, lr=1.0),
            ValueError,
            "none of the 6 .* look like 0.weight",
        ),
        (lambda m: ft.groups(m, where=no_decay), ValueError, "groups: got no options"),
        (lambda m: ft.layer_decay(m, lr=1.0, decay=2.0, layer=lambda n, p: 0), ValueError, "decay: got 2.0, needs"),
    ],
)
def test_bad_arguments(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(network())


def test_groups_that_were_changed() -> None:
    groups = ft.groups(network(), where=no_decay, lr=0.1)
    groups[1]["lr"] = 0.3
    again = ft.groups(groups, where=lambda name, param: not no_decay(name, param), weight_decay=0.5)
    assert [group.get("lr") for group in again] == [0.3, None]
    groups.reverse()
    with pytest.raises(ValueError, match=r"^params: got groups that were changed since they were made"):
        ft.groups(groups, where=no_decay, lr=0.1)
