"""Adam-mini for torch: blocks of groups, state dicts from and for arrays, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from cases import FLOAT32, assert_same, numbers

torch: Any = pytest.importorskip("torch")
from torch_training import array, parameters, step  # noqa: E402

import fusedstep as fs  # noqa: E402
from fusedstep.reference import RULES  # noqa: E402

ft: Any = pytest.importorskip("fusedstep.torch")


def test_groups_have_their_blocks() -> None:
    params = parameters(shapes=[(32, 8), (32, 8), (5,)])
    opt = ft.AdamMini([{"params": params[:1], "blocks": 4}, {"params": params[1:]}])
    step(opt, params, 0)
    assert [tuple(opt.state[p]["exp_avg_sq"].shape) for p in params] == [(4,), (32,), (1,)]
    assert {name: opt.param_groups[1][name] for name in RULES["adam_mini"].hypers} == RULES["adam_mini"].hypers


def test_states_go_from_numpy_to_torch_and_back() -> None:
    params = parameters(shapes=[(6, 4), (5,)])
    arrays = [array(p).copy() for p in params]
    opt, other = ft.AdamMini(params, blocks=1), fs.AdamMini(arrays, blocks=1)
    step(opt, params, 0)
    other.step([numbers(a.shape, FLOAT32, 50 + i) for i, a in enumerate(arrays)])
    saved = opt.state_dict()
    opt.load_state_dict(other.state_dict())
    other.load_state_dict(saved)
    for p, view, i in zip(params, other.state, (0, 1), strict=True):
        assert_same(view["exp_avg_sq"], array(saved["state"][i]["exp_avg_sq"]))
        assert opt.state[p]["exp_avg_sq"].shape == (1,)


def test_wrong_states_are_refused() -> None:
    params = parameters()
    opt = ft.AdamMini(params)
    step(opt, params, 0)
    saved = opt.state_dict()
    wrong = copy.deepcopy(saved)
    wrong["state"][5]["exp_avg_sq"] = torch.zeros(70, 1)
    with pytest.raises(ValueError, match=r"\[\"exp_avg_sq\"\]: got shape \(70, 1\), needs \(70,\)"):
        opt.load_state_dict(wrong)
    wrong = copy.deepcopy(saved)
    wrong["param_groups"][0]["blocks"] = 11
    with pytest.raises(ValueError, match="blocks: got 11 for a parameter of shape"):
        opt.load_state_dict(wrong)
    after = opt.state_dict()["state"]
    for i, state in saved["state"].items():
        assert all(torch.equal(value, after[i][name]) for name, value in state.items())


def test_states_that_are_taken_out_begin_anew() -> None:
    params = parameters(shapes=[(70, 30), (5,)])
    opt = ft.AdamMini(params)
    step(opt, params, 0)
    for name in ("exp_avg", "exp_avg_sq"):
        del opt.state[params[0]][name]
        step(opt, params, 10)
        assert opt.state[params[0]][name].abs().sum() > 0


def test_what_does_not_combine_is_refused() -> None:
    with pytest.raises(ValueError, match="eps"):
        ft.AdamMini(parameters(), eps=-1.0)
    with pytest.raises(TypeError, match="blocks"):
        ft.AdamMini(parameters(), blocks="heads")
