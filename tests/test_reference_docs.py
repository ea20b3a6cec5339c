"""The examples in the docstrings of the reference run, and their signatures are complete."""

from __future__ import annotations

import doctest
import inspect

import numpy as np
import pytest

from fusedstep import reference


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_examples(name: str) -> None:
    function = getattr(reference, name)
    scope = {"np": np, **{rule: getattr(reference, rule) for rule in reference.__all__}}
    example = doctest.DocTestParser().get_doctest(function.__doc__, scope, name, None, None)
    assert example.examples, f"{name} has no example"
    results = doctest.DocTestRunner().run(example)
    assert results.failed == 0


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_signature(name: str) -> None:
    function = getattr(reference, name)
    rule = reference.RULES[name]
    parameters = inspect.signature(function).parameters
    arrays = ["param", "grad", *(state.name for state in rule.states), *rule.scalars]
    assert list(parameters)[: len(arrays)] == arrays
    assert all(
        parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        for option in ("step", *rule.hypers, "maximize")
    )
    assert all(option in function.__doc__ for option in parameters), "an argument is not documented"
