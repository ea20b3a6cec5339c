"""Constructors of optimizers, made of what their rule says, so that a rule's arguments stand once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ._docstrings import with_parameters

__all__ = ["bind", "constructor", "docstring", "signature"]

Parameter = inspect.Parameter


def signature(
    before: Sequence[str], arguments: Sequence[Parameter], options: str, returns: str = "None"
) -> inspect.Signature:
    """The signature of a constructor: arguments by position or keyword, then options by keyword.

    Parameters
    ----------
    before
        Names of what comes first and has no default: ``["self", "params"]``.
    arguments
        The hyper-parameters.
    options
        Name of the type of the options.
    returns
        Name of the type that is returned.
    """
    first = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in before]
    last = Parameter("options", Parameter.VAR_KEYWORD, annotation=f"Unpack[{options}]")
    return inspect.Signature([*first, *arguments, last], return_annotation=returns)


def bind(
    name: str, shown: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of a call by name, defaults among them; and the options, which no argument has the name of.

    Raises
    ------
    TypeError
        Too many arguments by position, one that comes twice, or no parameters.
    """
    try:
        bound = shown.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{name}(): {error}") from None
    bound.apply_defaults()
    given = dict(bound.arguments)
    return given, given.pop("options")


def constructor(kind: type, arguments: Sequence[Parameter], options: str) -> Callable[..., None]:
    """An ``__init__`` for a class whose base takes ``(params, hypers, options)``.

    Parameters
    ----------
    kind
        The class.
    arguments
        Its hyper-parameters.
    options
        Name of the type of its options.
    """
    shown = signature(["self", "params"], arguments, options)

    def __init__(*args: Any, **kwargs: Any) -> None:
        hypers, given = bind(kind.__name__, shown, args, kwargs)
        this = hypers.pop("self")
        base: Any = super(kind, this)
        base.__init__(hypers.pop("params"), hypers, given)

    setattr(__init__, "__signature__", shown)  # noqa: B010  (mypy knows no such attribute)
    __init__.__qualname__ = f"{kind.__qualname__}.__init__"
    __init__.__module__ = kind.__module__
    return __init__


COMMON = {
    "params": "Parameters or groups of them (see `Optimizer`).",
    "lr": r"Learning rate :math:`\eta`.",
    "**options": "Options of every optimizer (see `Optimizer`).",
}


def docstring(kind: type, arguments: Sequence[Parameter]) -> str | None:
    """The docstring of a class with such a constructor, which describes its own arguments alone."""
    defaults = {argument.name: argument.default for argument in arguments}
    betas = ", ".join(rf"\beta_{number}" for number, _ in enumerate(defaults.get("betas", ()), 1))
    texts = COMMON | {"betas": f"Weights :math:`{betas}` of the old moments, in [0, 1)."}
    return kind.__doc__ and with_parameters(kind.__doc__, ["params", *defaults, "**options"], texts)
