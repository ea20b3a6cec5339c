"""Ranges of hyper-parameters: what passes, what does not, and what the message says."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from fusedstep import reference
from fusedstep._hyper import check_hyper, check_hypers, check_step


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("lr", 0, 0.0),
        ("lr", np.float32(0.5), 0.5),
        ("lr", np.array(0.5), 0.5),
        ("betas", [0, 0.999], (0.0, 0.999)),
        ("betas", np.array([0.5, 0.25]), (0.5, 0.25)),
        ("momentum", 1.5, 1.5),
        ("dampening", -1, -1.0),
        ("alpha", 1, 1.0),
        ("etas", (0.5, 1.2), (0.5, 1.2)),
        ("nesterov", np.True_, True),
        ("max_grad_norm", None, None),
        ("max_grad_norm", math.inf, math.inf),
    ],
)
def test_good_values(name: str, value: Any, result: Any) -> None:
    checked = check_hyper(name, value)
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", -1e-3, r"^lr: got -0.001, needs >= 0 and finite$"),
        ("lr", math.nan, r"^lr: got nan, needs >= 0 and finite$"),
        ("lr", math.inf, r"^lr: got .*, needs"),
        ("lr", 10**400, r"^lr: got .*, needs"),
        ("clip_value", -(10**400), r"^clip_value: got .*, needs > 0"),
        ("max_grad_norm", -(10**400), r"^max_grad_norm: got .*, needs > 0"),
        ("betas", (0.9, 1.0), r"^betas\[1\]: got 1.0, needs >= 0 and < 1$"),
        ("betas", (-0.1, 0.9), r"^betas\[0\]: got .*, needs"),
        ("betas", (0.9,), r"^betas: got 1 numbers, needs a pair of real numbers$"),
        ("alpha", 1.1, r"^alpha: got 1.1, needs >= 0 and <= 1$"),
        ("eps", -1e-8, r"^eps: got .*, needs"),
        ("weight_decay", math.nan, r"^weight_decay: got .*, needs"),
        ("etas", (0.5, 0.9), r"^etas\[1\]: got 0.9, needs > 1 and finite$"),
        ("etas", (0.0, 1.2), r"^etas\[0\]: got 0.0, needs > 0 and < 1$"),
        ("grad_scale", 0.0, r"^grad_scale: got 0.0, needs > 0 and finite$"),
        ("clip_value", 0.0, r"^clip_value: got 0.0, needs > 0$"),
        ("ema_decay", 1.0, r"^ema_decay: got .*, needs"),
    ],
)
def test_values_out_of_range(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_hyper(name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lr", "0.1", r"^lr: got '0.1' \(str\), needs a real number$"),
        ("lr", None, r"^lr: got None .*, needs a real number"),
        ("lr", True, r"^lr: got True .*, needs a real number"),
        ("lr", 1j, r"^lr: got .*, needs a real number$"),
        ("lr", Decimal("0.1"), r"^lr: got .*, needs a real number; float\(\) makes one$"),
        ("lr", np.array([0.1]), r"^lr: got .*, needs a real number"),
        ("betas", 0.9, r"^betas: got 0.9 \(float\), needs a pair of real numbers$"),
        ("betas", "99", r"^betas: got .*, needs a pair"),
        ("betas", (0.9, "1"), r"^betas\[1\]: got .*, needs a real number"),
        ("nesterov", 1, r"^nesterov: got 1 \(int\), needs True or False$"),
        ("learning_rate", 0.1, r"^unknown hyper-parameter 'learning_rate'$"),
    ],
)
def test_values_of_the_wrong_kind(name: str, value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        check_hyper(name, value)


def test_where_names_the_value() -> None:
    with pytest.raises(ValueError, match=r'^param_groups\[1\]\["betas"\]\[0\]: got .*, needs'):
        check_hyper("betas", (1.0, 0.9), 'param_groups[1]["betas"]')


def test_ranges_may_depend_on_the_rule() -> None:
    assert check_hyper("alpha", 2.0, rule="asgd") == 2.0
    with pytest.raises(ValueError, match=r"betas\[0\]: got .*, needs > 0"):
        check_hyper("betas", (0.0, 0.9), rule="schedule_free_adamw")


@pytest.mark.parametrize(
    ("rule", "values", "message"),
    [
        ("sgd", {"nesterov": True, "momentum": 0.0}, "nesterov: got True with .*, needs a momentum above 0"),
        ("sgd", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "dampening of 0"),
        ("lars", {"nesterov": True, "momentum": 0.0}, "nesterov: got True with .*, needs a momentum above 0"),
        ("rprop", {"step_sizes": (1.0, 0.1)}, "step_sizes: got .*, needs ascending order"),
    ],
)
def test_values_against_each_other(rule: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_hypers(rule, values)


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_defaults_are_in_range(name: str) -> None:
    defaults = reference.RULES[name].hypers
    assert check_hypers(name, defaults) == defaults


def test_steps() -> None:
    assert check_step(np.int64(3)) == 3
    assert check_step(np.array(3)) == 3
    for value in (1.0, True, "1", None):
        with pytest.raises(TypeError, match=r"step: got .*, needs an integer"):
            check_step(value)
    for value in (0, -1, 2**63):
        with pytest.raises(ValueError, match=r"step: got .*, needs"):
            check_step(value)
