"""Cautious steps of torch's tensors: those of the NumPy classes, whoever takes the step and when."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import CAUTIOUS, CLASSES, label, numbers

torch = pytest.importorskip("torch")
ft = pytest.importorskip("fusedstep.torch")
from torch_training import assert_same, network, train  # noqa: E402

SIZES = [(5000,), (3, 7), (1,)]
KNOWN = [(rule, options[-1]) for rule, options in CAUTIOUS.items()]


@pytest.mark.parametrize(
    "storage", [{}, {"state_format": "8bit", "min_quantized_size": 0, "ema_decay": 0.5}], ids=label
)
@pytest.mark.parametrize(("rule", "options"), KNOWN, ids=label)
def test_the_bytes_of_the_numpy_class(rule: str, options: Any, storage: Any) -> None:
    arrays = [numbers(size, np.float32, i) for i, size in enumerate(SIZES)]
    tensors = [torch.nn.Parameter(torch.from_numpy(array.copy())) for array in arrays]
    optimizer = getattr(ft, CLASSES[rule].__name__)(tensors, **options, **storage)
    other = CLASSES[rule](arrays, **options, **storage)
    for t in range(3):
        grads = [numbers(size, np.float32, 10 * t + i) for i, size in enumerate(SIZES)]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        optimizer.step()
        other.step(grads)
        for tensor, array in zip(tensors, arrays, strict=True):
            assert np.array_equal(tensor.detach().numpy(), array), f"step {t + 1}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offloaded_and_in_backward(dtype: Any) -> None:
    """The share is of each tensor, so it does not matter when which of them is stepped."""
    direct, offloaded, backward = (network(dtype) for _ in range(3))
    options: Any = {"lr": 0.05, "betas": (0.95, 0.99), "cautious": True, "master": "float32"}
    if dtype == torch.float32:
        del options["master"]
    expected = train(direct, ft.AdamW(direct.parameters(), **options), 8)
    assert train(offloaded, ft.CPUOffload(ft.AdamW, offloaded.parameters(), **options), 8) == expected
    assert train(backward, ft.apply_in_backward(backward, ft.AdamW, **options), 8) == expected
    assert_same(offloaded, direct, 0, 0)
    assert_same(backward, direct, 0, 0)
    plain = network(dtype)
    assert train(plain, ft.AdamW(plain.parameters(), **{**options, "cautious": False}), 8) != expected


def test_groups_state_dicts_and_changes() -> None:
    """A group's own option, which state dicts hold; one of torch.optim has none, and leaves it."""
    model, again = network(), network()
    first, *rest = model.parameters()
    optimizer = ft.AdamW([{"params": [first], "cautious": True}, {"params": rest}], lr=0.05)
    assert [group["cautious"] for group in optimizer.param_groups] == [True, False]
    train(model, optimizer, 3)
    again.load_state_dict(model.state_dict())
    first, *rest = again.parameters()
    resumed = ft.AdamW([{"params": [first]}, {"params": rest}], lr=0.05)
    resumed.load_state_dict(optimizer.state_dict())
    assert [group["cautious"] for group in resumed.param_groups] == [True, False]
    assert train(again, resumed, 3) == train(model, optimizer, 3)
    assert_same(again, model, 0, 0)
    optimizer.param_groups[1]["cautious"] = True
    assert train(model, optimizer, 3) != train(again, resumed, 3)

    theirs = network()
    other = torch.optim.AdamW(theirs.parameters())
    train(theirs, other, 2)
    mine = ft.AdamW(network().parameters(), cautious=True)
    mine.load_state_dict(other.state_dict())
    assert mine.param_groups[0]["cautious"] is True


@pytest.mark.parametrize("name", ["Adagrad", "Adadelta", "ASGD", "Rprop", "LAMB", "LARS", "ScheduleFreeAdamW"])
def test_rules_that_cannot(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"got True, needs False with \w+; rules that can be cautious: adabelief, "):
        getattr(ft, name)([p], cautious=True)
    optimizer = getattr(ft, name)([p])
    optimizer.param_groups[0]["cautious"] = True
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r'^param_groups\[0\]\["cautious"\]: got True, needs False with'):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))


def test_a_momentum_is_needed() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r'\["cautious"\]: got True with momentum=0\.0, needs a momentum above 0'):
        ft.SGD([p], cautious=True)
    optimizer = ft.SGD([p], momentum=0.9)
    optimizer.param_groups[0].update(momentum=0.0, cautious=True)
    p.grad = torch.ones(3)
    with pytest.raises(ValueError, match=r"got True with momentum=0\.0, needs a momentum above 0"):
        optimizer.step()
    assert torch.equal(p.detach(), torch.ones(3))
