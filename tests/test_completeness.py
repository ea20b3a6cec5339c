"""Every rule of the native core has all that belongs to an optimizer, under the same names."""

from __future__ import annotations

import inspect
import pathlib
import re

import pytest
from cases import CLASSES, ROWS

import fusedstep as fs
from fusedstep import _core
from fusedstep.reference import RULES

ROOT = pathlib.Path(__file__).parent.parent
NATIVE = {name: (hypers, states, scalars) for name, hypers, states, scalars in _core.rules()}
NAMES = sorted(NATIVE)


def test_no_rule_is_only_half_there() -> None:
    assert set(NATIVE) == set(RULES) == set(ROWS) == set(CLASSES)
    assert set(NATIVE) == set(vars(fs.functional)["__all__"])


@pytest.mark.parametrize("rule", NAMES)
def test_same_names(rule: str) -> None:
    """C++ and reference agree on hyper-parameters, states, their kinds and order, and scalars."""
    hypers, states, scalars = NATIVE[rule]
    about = RULES[rule]
    assert list(dict.fromkeys(name.partition(".")[0] for name in hypers)) != []
    assert {name.partition(".")[0] for name in hypers} == set(about.hypers)
    assert states == [(state.name, state.kind) for state in about.states]
    assert tuple(scalars) == about.scalars


@pytest.mark.parametrize("rule", NAMES)
def test_class_takes_the_hyper_parameters(rule: str) -> None:
    parameters = inspect.signature(CLASSES[rule].__init__).parameters
    assert set(RULES[rule].hypers) <= parameters.keys()
    defaults = {name: parameters[name].default for name in RULES[rule].hypers}
    assert defaults == RULES[rule].hypers, "class and function have other defaults"
    assert list(parameters)[:3] == ["self", "params", "lr"] or "lr" not in RULES[rule].hypers
    assert getattr(fs, CLASSES[rule].__name__) is CLASSES[rule]
    text = CLASSES[rule].__doc__ or ""
    assert all(re.search(rf"^\s+{name}\b", text, re.M) or f", {name}" in text for name in RULES[rule].hypers)


@pytest.mark.parametrize("rule", NAMES)
def test_function_has_the_signature_of_the_definition(rule: str) -> None:
    assert inspect.signature(getattr(fs.functional, rule)) == inspect.signature(getattr(fs.reference, rule))
    stub = pathlib.Path(fs.functional.__file__ or "").with_suffix(".pyi").read_text()
    assert "from .reference import *" in stub or rule in stub
    assert rule in fs.reference.__all__


@pytest.mark.parametrize("rule", NAMES)
def test_documented(rule: str) -> None:
    page = ROOT / "docs" / "optimizers.md"
    if not page.parent.exists():
        pytest.skip("the pages are in the repository only")
    assert page.exists(), "docs/optimizers.md is missing"
    assert re.search(rf"^\|.*\b{CLASSES[rule].__name__}\b", page.read_text(), re.M), (
        "no line in the table of docs/optimizers.md"
    )


@pytest.mark.parametrize("rule", NAMES)
def test_benchmarked(rule: str) -> None:
    from fusedstep.bench import steps

    case = steps.Case(CLASSES[rule].__name__.lower(), "float32", "plain", 1000)
    assert case.rule in steps.names()
    steps.check_sample(case)


@pytest.mark.parametrize("rule", NAMES)
def test_row_reaches_every_state_and_option(rule: str) -> None:
    tried = [RULES[rule].hypers | options for options in ROWS[rule].options]
    assert {s.name for options in tried for s in RULES[rule].used(options)} == {s.name for s in RULES[rule].states}
    for name in RULES[rule].hypers:
        if name not in ("lr", "eps", "initial_accumulator_value", "trust_coefficient", "weight_lr_power"):
            assert len({repr(options[name]) for options in tried}) > 1, f"{name} is never anything but its default"
