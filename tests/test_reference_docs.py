"""The signatures of the reference are complete, and every argument is documented."""

from __future__ import annotations

import inspect

import pytest

from fusedstep import reference


@pytest.mark.parametrize("name", sorted(reference.RULES))
def test_signature(name: str) -> None:
    function = getattr(reference, name)
    rule = reference.RULES[name]
    parameters = inspect.signature(function).parameters
    arrays = ["param", "grad", *(state.name for state in rule.states), *rule.scalars]
    assert list(parameters)[: len(arrays)] == arrays
    assert all(
        parameters[option].kind is inspect.Parameter.KEYWORD_ONLY for option in ("step", *rule.hypers, "maximize")
    )
    assert all(option in function.__doc__ for option in parameters), "an argument is not documented"
