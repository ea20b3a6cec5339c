"""Every rule of the native core has all that belongs to an optimizer, under the same names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import re

import pytest
from cases import CLASSES, MATRIX_RULES, ROWS
from repository import ROOT, script

import fusedstep as fs
from fusedstep import _core
from fusedstep.reference import RULES
from fusedstep.reference._rule import PARAM

NATIVE = {facts[0]: facts for facts in _core.rules()}
NAMES = sorted(NATIVE.keys() - set(MATRIX_RULES))


def test_no_rule_is_only_half_there() -> None:
    assert set(NATIVE) == set(RULES) == {*ROWS, *MATRIX_RULES} == {*CLASSES, *MATRIX_RULES}
    assert set(NATIVE) == set(vars(fs.functional)["__all__"])


@pytest.mark.parametrize("rule", [*NAMES, *MATRIX_RULES])
def test_same_names(rule: str) -> None:
    """C++ and reference agree on every number of the hyper-parameters, states, their kinds and order, and scalars."""
    _, hypers, states, scalars, norms, cautious = NATIVE[rule]
    facts = RULES[rule]
    assert hypers == facts.coefficients, "the native rule reads other numbers, or in another order"
    assert states == [(state.name, state.kind) for state in facts.states]
    assert tuple(scalars) == facts.scalars
    assert tuple(norms) == facts.norms
    assert cautious == (facts.decay is not None)


@pytest.mark.parametrize("rule", NAMES)
def test_initial_values(rule: str) -> None:
    """Each is a number, a hyper-parameter of the class, or the parameter."""
    facts, given = RULES[rule], inspect.signature(CLASSES[rule].__init__).parameters
    for first in (*(state.initial for state in facts.states), *facts.initial_scalars.values()):
        assert isinstance(first, float) or first == PARAM or first in given


@pytest.mark.parametrize("rule", NAMES)
def test_class_takes_the_hyper_parameters(rule: str) -> None:
    parameters = inspect.signature(CLASSES[rule].__init__).parameters
    assert set(RULES[rule].hypers) <= parameters.keys()
    defaults = {name: parameters[name].default for name in RULES[rule].hypers}
    assert defaults == RULES[rule].hypers, "class and function have other defaults"
    assert list(parameters)[:3] == ["self", "params", "lr"] or "lr" not in RULES[rule].hypers
    assert getattr(fs, CLASSES[rule].__name__) is CLASSES[rule]
    text = CLASSES[rule].__doc__ or ""
    assert all(re.search(rf"^\s*{name}\b", text, re.M) or f", {name}" in text for name in RULES[rule].hypers)


@pytest.mark.parametrize("files", ["optimizers/*.py", "keras/optimizers.py"])
def test_a_class_says_first_what_its_rule_does(files: str) -> None:
    """Its name and whose it is are no answer; JAX's functions and the site's lists show the first line alone."""
    paths = (ROOT / "python" / "fusedstep").glob(files)
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
    names = fs.optimizers.__all__ if files == "optimizers/*.py" else ["SGD", "Adam", "Adadelta", "Lion"]
    assert {*names} <= {node.name for node in classes} | {"Optimizer"}
    for node in classes:
        line = (ast.get_docstring(node) or "").partition("\n")[0]
        what = re.split(r",? as ``|, as the authors'|\.$", line)[0].split()
        assert line.endswith(".") and len(what) >= 4 and what[0] != f"{node.name},", line


@pytest.mark.parametrize("rule", [*NAMES, *MATRIX_RULES])
def test_function_has_the_signature_of_the_definition(rule: str) -> None:
    assert inspect.signature(getattr(fs.functional, rule)) == inspect.signature(getattr(fs.reference, rule))
    stub = pathlib.Path(fs.functional.__file__ or "").with_suffix(".pyi").read_text()
    assert "from .reference import *" in stub or rule in stub
    assert rule in fs.reference.__all__


@pytest.mark.parametrize("rule", NAMES)
def test_documented(rule: str) -> None:
    name, facts = CLASSES[rule].__name__, RULES[rule]
    row = re.search(rf"^\| `{name}` \|.*", (ROOT / "docs" / "optimizers.md").read_text(), re.M)
    assert row, "no row in the table of docs/optimizers.md"
    columns = row[0].replace("\\|", "").split("|")
    states, _, scalars = columns[4].partition("scalar")
    assert re.findall(r"`\w+`\*?", states) == [f"`{s.name}`" + "*" * (s.kind == "exact") for s in facts.states]
    assert re.findall(r"`(\w+)`", scalars) == list(facts.scalars)
    for page in ("choose", "conventions", "memory", "torch"):
        text = (ROOT / "docs" / f"{page}.md").read_text()
        assert re.search(rf"\b{name}\b", text), f"docs/{page}.md does not name {name}"
    assert re.search(rf"\b{name}\b", (ROOT / "CHANGELOG.md").read_text()), f"CHANGELOG.md does not name {name}"


@pytest.mark.parametrize("rule", NAMES)
def test_has_a_class_for_torch(rule: str) -> None:
    torch = pytest.importorskip("torch")
    faces = importlib.import_module("fusedstep.torch")
    assert CLASSES[rule].__name__ in faces.__all__
    group = getattr(faces, CLASSES[rule].__name__)([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    assert {name: group[name] for name in RULES[rule].hypers} == RULES[rule].hypers


@pytest.mark.parametrize("name", ["optimizers/__init__.pyi", "torch/__init__.pyi", "jax/optimizers.pyi"])
def test_stubs_are_fresh(name: str) -> None:
    """`python tools/stubs.py` would write what is there; torch's signatures are those of the version in pyproject."""
    for module in {"torch": ["torch"], "jax": ["jax"]}.get(name.partition("/")[0], []):
        found = pytest.importorskip(module).__version__.partition("+")[0]
        pinned = re.search(rf'"{module}==([\d.]+)"', (ROOT / "pyproject.toml").read_text())
        if pinned and pinned[1] != found:
            pytest.skip(f"{module} {found}, and the stub is of {pinned[1]}")
    stubs = script("tools/stubs.py")
    written = pathlib.Path(fs.__file__).parent / name
    assert written.read_text() == stubs.formatted(stubs.STUBS[name]()), "run python tools/stubs.py"


def test_compared_with_independent_sources() -> None:
    assert set(NAMES) == importlib.import_module("test_reference_peers").COMPARED


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
