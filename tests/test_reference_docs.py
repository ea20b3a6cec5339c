"""The signatures of the reference are complete, and every argument of functions and classes is documented."""

from __future__ import annotations

import inspect
import re

import pytest

import fusedstep as fs
from fusedstep import reference
from fusedstep._docstrings import sections, with_parameters


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


@pytest.mark.parametrize("name", sorted(n for n in fs.optimizers.__all__ if n not in ("Optimizer", "NumPyOptimizer")))
def test_classes_describe_every_argument_once(name: str) -> None:
    kind = getattr(fs, name)
    entries = re.findall(r"^([\w*, ]+)$", sections(kind.__doc__)["Parameters"], re.M)
    described = [argument for entry in entries for argument in entry.split(", ")]
    arguments = list(inspect.signature(kind).parameters)
    assert sorted(described) == sorted([*arguments[:-1], "**options"])


def test_what_a_docstring_says_itself_stays() -> None:
    text = """Take a step.

    Parameters
    ----------
    b, e : int
        Own.

    See Also
    --------
    other

    Examples
    --------
    >>> 1
    """
    common = {"a": "Common.", "b": "Not used.", "c": "Last.", "d": "Last."}
    assert with_parameters(
        text, ["a", "b", "c", "d", "e"], common, {"Raises": "ValueError\n    Never."}
    ) == inspect.cleandoc(
        """Take a step.

        Parameters
        ----------
        a
            Common.
        b, e : int
            Own.
        c, d
            Last.

        Raises
        ------
        ValueError
            Never.

        See Also
        --------
        other

        Examples
        --------
        >>> 1
        """
    )
