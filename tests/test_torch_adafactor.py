"""Adafactor for torch: against torch.optim.Adafactor, state dicts that go both ways, errors."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import pytest
from cases import FLOAT32, FLOAT64

torch: Any = pytest.importorskip("torch")
from torch_training import SHAPES, parameters, step  # noqa: E402

from fusedstep.reference import RULES  # noqa: E402

ft: Any = pytest.importorskip("fusedstep.torch")

needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Adafactor"), reason="torch 2.4 has no Adafactor")
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "lr": 0.05, "beta2_decay": -0.5, "d": 2.0},
    {"eps": (1e-3, 0.1), "maximize": True},
)


def trained(steps: int = 3, **options: Any) -> tuple[Any, list[Any]]:
    params = parameters()
    opt = ft.Adafactor(params, **options)
    for t in range(steps):
        step(opt, params, 100 * t)
    return opt, params


@needs_torchs
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_agrees_with_torch(options: dict[str, Any], dtype: Any) -> None:
    """100 steps: within 1e-13 of the largest element in float64, 2e-6 in float32; states have torch's shapes."""
    shapes = [s for s in SHAPES if s != (0, 4)]  # by which torch divides
    mine, theirs = parameters(dtype, shapes), parameters(dtype, shapes)
    opt, other = ft.Adafactor(mine, **options), torch.optim.Adafactor(theirs, **options)
    assert isinstance(opt, torch.optim.Adafactor)
    tolerance = 1e-13 if dtype == FLOAT64 else 2e-6
    for t in range(100):
        step(opt, mine, 100 * t)
        step(other, theirs, 100 * t)
    for p, q in zip(mine, theirs, strict=True):
        assert (p - q).abs().max() <= tolerance * q.abs().max()
        assert list(opt.state[p]) == list(other.state[q])
        for name, value in other.state[q].items():
            assert opt.state[p][name].shape == value.shape
            assert (opt.state[p][name] - value).abs().max() <= tolerance * value.abs().max()


@needs_torchs
def test_signature_is_torchs() -> None:
    given, theirs = inspect.signature(ft.Adafactor).parameters, inspect.signature(torch.optim.Adafactor).parameters
    assert [name for name in given if name != "options"] == list(theirs)
    group = ft.Adafactor(parameters()).param_groups[0]
    assert {name: group[name] for name in RULES["adafactor"].hypers} == RULES["adafactor"].hypers
    with pytest.raises(ValueError, match="Clipping threshold d should be >= 1"):
        ft.Adafactor(parameters(), d=0.5)


@needs_torchs
def test_state_dicts_go_both_ways() -> None:
    shapes = [s for s in SHAPES if s != (0, 4)]
    mine, theirs = parameters(FLOAT64, shapes), parameters(FLOAT64, shapes)
    opt, other = ft.Adafactor(mine), torch.optim.Adafactor(theirs)
    step(opt, mine, 0)
    step(other, theirs, 0)
    saved = opt.state_dict()
    opt.load_state_dict(other.state_dict())
    other.load_state_dict(saved)
    step(opt, mine, 50)
    step(other, theirs, 50)
    for p, q in zip(mine, theirs, strict=True):
        assert torch.allclose(p, q, rtol=1e-12, atol=1e-15)


def test_wrong_states_are_refused() -> None:
    opt, _ = trained()
    saved = opt.state_dict()
    for name, value, message in (
        ("row_var", torch.zeros(70), r"\[\"row_var\"\]: got shape \(70,\), needs \(70, 1\)"),
        ("variance", torch.zeros(70, 300), r"\[\"variance\"\]: got a state for another shape, needs row_var, col_var"),
    ):
        wrong = copy.deepcopy(saved)
        wrong["state"][5][name] = value
        with pytest.raises(ValueError, match=message):
            opt.load_state_dict(wrong)
    after = opt.state_dict()["state"]
    for i, state in saved["state"].items():
        assert all(torch.equal(value, after[i][name]) for name, value in state.items())


def test_what_does_not_combine_is_refused() -> None:
    for options, message in (
        ({"state_format": "8bit"}, r"state_format.\]: got '8bit'"),
        ({"cautious": True}, r"cautious.\]: got True, needs False with adafactor"),
    ):
        with pytest.raises(ValueError, match=message):
            ft.Adafactor(parameters(), **options)
