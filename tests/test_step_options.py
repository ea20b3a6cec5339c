"""Every step option of the table has all that belongs to an option, in every face that takes it."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, get_type_hints

import numpy as np
import pytest
from repository import ROOT, script

import fusedstep as fs
from fusedstep._step_options import GROUP_OPTIONS, GROUP_VALUES, MODEL_OPTIONS, STEP_OPTIONS, STORAGE, StepOption

FACES = ("numpy", "functions", "torch", "jax")
BY_NAME = {option.name: option for option in STEP_OPTIONS}


def use(face: str, **options: Any) -> Any:
    """Make an optimizer, or take a step of a function, with these options."""
    if face == "numpy":
        return fs.SGD(np.zeros(1, np.float32), **options)
    if face == "functions":
        return fs.functional.sgd(np.zeros(1, np.float32), np.ones(1, np.float32), step=1, **options)
    if face == "torch":
        torch = pytest.importorskip("torch")
        return pytest.importorskip("fusedstep.torch").SGD([torch.zeros(1, requires_grad=True)], **options)
    pytest.importorskip("jax")
    return importlib.import_module("fusedstep.jax").sgd(**options)


def test_the_table() -> None:
    assert len(BY_NAME) == len(STEP_OPTIONS)
    for option in STEP_OPTIONS:
        assert option.text.endswith(".") and option.faces and set(option.faces) <= set(FACES)
        assert option.per in ("group", "storage", "optimizer", "constructor", "call")
        assert (option.per == "call") == (option.faces == ("functions",)), option.name
    parts = [set(GROUP_VALUES), set(STORAGE), set(MODEL_OPTIONS)]
    assert set(GROUP_OPTIONS) == parts[0] | parts[1] and not set(GROUP_OPTIONS) & parts[2]


def test_sections_are_fresh() -> None:
    """`python tools/stubs.py` would write what is there."""
    for name, section in script("tools/stubs.py").SECTIONS.items():
        _, found, _ = section.find()
        assert found == section.write(), f"{name}: run python tools/stubs.py"


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("option", STEP_OPTIONS, ids=lambda option: option.name)
def test_faces_take_the_option_or_refuse_it(option: StepOption, face: str) -> None:
    """Where the table says so it is taken, with its default; everywhere else it is an error that names it."""
    if face in option.faces:
        use(face, **{option.name: option.default})
    else:
        with pytest.raises(TypeError, match=option.name):
            use(face, **{option.name: option.default})


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("option", STEP_OPTIONS, ids=lambda option: option.name)
def test_a_wrong_value_is_an_error(option: StepOption, face: str) -> None:
    if face in option.faces:
        with pytest.raises((TypeError, ValueError), match=rf"\b{option.name}\b"):
            use(face, **{option.name: {1.5j}})


@pytest.mark.parametrize("face", ["numpy", "torch"])
@pytest.mark.parametrize("option", STEP_OPTIONS, ids=lambda option: option.name)
def test_scope(option: StepOption, face: str) -> None:
    """An option of groups is one of each group; one of the whole optimizer is saved. Both are attributes."""
    if face not in option.faces or option.per in ("call", "constructor"):
        return
    opt = use(face)
    assert getattr(opt, option.name) == option.default, f"{option.name} is no attribute"
    assert (option.name in opt.param_groups[0]) == (option.per != "optimizer")
    assert (option.name in opt.state_dict()["fusedstep"]) == (option.per == "optimizer")


def test_jax_says_why_it_lacks_an_option() -> None:
    pytest.importorskip("jax")
    refused = importlib.import_module("fusedstep.jax._optimizer").REFUSED
    assert {option.name for option in STEP_OPTIONS if "jax" not in option.faces} - {"ema", "first"} <= refused.keys()
    text = importlib.import_module("fusedstep.jax").__doc__ or ""
    missing = [option.name for option in STEP_OPTIONS if "jax" in option.faces and f"``{option.name}``" not in text]
    assert not missing, f"the docstring of fusedstep.jax does not name {missing}"


def test_functions_have_the_options() -> None:
    for module in (fs.functional, fs.reference):
        parameters = inspect.signature(module.sgd).parameters
        text = inspect.getdoc(module.sgd) or ""
        for option in STEP_OPTIONS:
            if "functions" in option.faces:
                assert parameters[option.name].default == option.default
                assert f"\n{option.name} : " in text and option.name in get_type_hints(fs.reference.StepOptions)


@pytest.mark.parametrize(("page", "face"), [("torch", "torch"), ("groups", "")])
def test_pages_name_the_options(page: str, face: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    wanted = [option.name for option in STEP_OPTIONS if option.name in GROUP_OPTIONS | MODEL_OPTIONS]
    missing = [name for name in wanted if (not face or face in BY_NAME[name].faces) and f"`{name}" not in text]
    assert not [name for name in missing if name != "maximize"], f"docs/{page}.md does not name {missing}"
