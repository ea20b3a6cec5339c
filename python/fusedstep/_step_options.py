"""The table of step options: all that the package knows of each of them.

The checks, the split into options of groups and of the whole optimizer, and the functions' docstrings come from it at
run time. `tools/stubs.py` writes what must stand in a source: the types of the keyword arguments, the docstring of
`Optimizer` and the table in docs/step_options.md.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

import numpy as np

from ._intervals import POSITIVE, POSITIVE_OR_INFINITE, WEIGHT

__all__ = [
    "GROUP_OPTIONS",
    "GROUP_VALUES",
    "MODEL_OPTIONS",
    "STEP_OPTIONS",
    "STORAGE",
    "StepOption",
    "check_seed",
    "check_size",
    "described",
    "options_of",
]

NUMPY, FUNCTIONS, TORCH, JAX = "numpy", "functions", "torch", "jax"
EVERYWHERE = (NUMPY, FUNCTIONS, TORCH, JAX)
OPTIMIZERS = (NUMPY, TORCH, JAX)


@dataclass(frozen=True)
class StepOption:
    """One option.

    Attributes
    ----------
    name, default
        As an argument by keyword.
    type
        Its type as sources write it.
    needs
        What a value must be: `bool`, a range, a tuple of choices, or a function of the place in messages and the value
        that returns it checked. None for what has a check of its own where it is used: arrays, and what an optimizer
        is made with.
    per
        What has a value of its own: a ``"group"``, whose step reads it; a group whose arrays were made with it,
        ``"storage"``; the whole ``"optimizer"``, between steps; the ``"constructor"``; or each ``"call"``.
    text
        What it does.
    faces
        Who takes it.
    arrays
        What the functions take instead: type and text.
    """

    name: str
    default: Any
    type: str
    needs: Any
    per: str
    text: str
    faces: tuple[str, ...]
    arrays: tuple[str, str] | None = None


def check_size(where: str, value: Any) -> Any:
    """Check a number of elements."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}: got {value!r}, needs an integer of at least 0")
    return value


def check_seed(where: str, value: Any, needs: str = "0 to 2**64 - 1") -> int:
    """Check a key of noise."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{where}: got {value!r}, needs an integer")
    if not 0 <= value < 2**64:
        raise ValueError(f"{where}: got {value}, needs {needs}")
    return int(value)


STEP_OPTIONS = (
    StepOption(
        "grads", None, "Structure", None, "constructor",
        "Gradients bound once, of the structure of `params`; then ``step()`` takes no argument. Fill the same arrays "
        "before each step.",
        (NUMPY,),
    ),
    StepOption(
        "cast_grads", False, "bool", bool, "constructor",
        "Take gradients of any real dtype and layout, and of any object that NumPy can read in the CPU's memory "
        "(``__dlpack__``, ``__array__``, ``__array_interface__``): what a step cannot read as it is, is copied into a "
        "buffer that is reused.",
        (NUMPY,),
    ),
    StepOption(
        "accumulate_steps", 1, "int", None, "constructor",
        "Average the gradients of so many calls of `step` for one step: they are summed in the compute type, and the "
        "last call steps with their mean and clears the sum.",
        (NUMPY,),
    ),
    StepOption(
        "maximize", False, "bool", bool, "group",
        "Ascend instead of descend.",
        EVERYWHERE,
    ),
    StepOption(
        "grad_scale", 1.0, "float", POSITIVE, "call",
        "Gradients are divided by it first, a loss scale. They are only read. Its inverse must be finite in the "
        "compute type.",
        (FUNCTIONS,),
    ),
    StepOption(
        "max_grad_norm", None, "float | None", POSITIVE_OR_INFINITE, "optimizer",
        "The gradients of the whole model together are scaled down to this norm. Computing theirs reads them once "
        "more.",
        EVERYWHERE,
    ),
    StepOption(
        "clip_value", None, "float | None", POSITIVE_OR_INFINITE, "group",
        "Every gradient element is cut off at plus and minus this value, after the scaling.",
        EVERYWHERE,
    ),
    StepOption(
        "skip_nonfinite", False, "bool", bool, "optimizer",
        "A step whose gradients hold an infinity or NaN, or would when divided by `grad_scale`, changes nothing and "
        "returns False. An optimizer counts it in `skipped_steps`.",
        EVERYWHERE,
    ),
    StepOption(
        "ema", None, "Tensors", None, "call",
        "Exponential moving averages of the parameters, in the compute type.",
        (FUNCTIONS,),
    ),
    StepOption(
        "ema_decay", None, "float | None", WEIGHT, "group",
        "Keeps an exponential moving average of the parameters, with this weight of the old average, in [0, 1).",
        EVERYWHERE,
    ),
    StepOption(
        "cautious", False, "bool", bool, "group",
        "Step only the elements whose step goes against their gradient; the step is divided by their share of the "
        'tensor, 0.001 at least (Liang et al., 2024, "Cautious optimizers: improving training with one line of '
        'code"). A pass before the step counts them. A decoupled weight decay goes on for all elements. Only for '
        "rules whose first moment or momentum can disagree with the gradient.",
        EVERYWHERE,
    ),
    StepOption(
        "zero_grads", False, "bool", bool, "optimizer",
        "Set the gradients to zero in the same pass.",
        (NUMPY, FUNCTIONS, TORCH),
    ),
    StepOption(
        "state_format", "float32", 'Literal["float32", "bfloat16", "8bit"]', ("float32", "bfloat16", "8bit"), "storage",
        'How states are stored: ``"float32"`` (float64 for float64 parameters), ``"bfloat16"`` or ``"8bit"``.',
        OPTIMIZERS,
    ),
    StepOption(
        "min_quantized_size", 4096, "int", check_size, "storage",
        "Parameters of fewer elements keep their states in the compute type whatever `state_format` says.",
        OPTIMIZERS,
    ),
    StepOption(
        "master", None, 'Literal["float32", "split"] | None', (None, "float32", "split"), "storage",
        'For 16-bit parameters: ``"float32"`` keeps a float32 copy, ``"split"`` (bfloat16) a 16-bit remainder that '
        "restores the float32 value exactly, None neither. Parameters that are changed between steps count with "
        "either: a copy is dropped where the parameter is no longer its rounding.",
        EVERYWHERE,
        (
            "Tensors",
            "For 16-bit parameters: float32 copies, or int16 remainders of bfloat16 parameters. A copy counts as long "
            "as its parameter is its rounding, element by element; a parameter that was changed since counts itself.",
        ),
    ),
    StepOption(
        "rounding", "nearest", 'Literal["nearest", "stochastic"]', ("nearest", "stochastic"), "storage",
        'How 16-bit parameters without a master are rounded, ``"nearest"`` or ``"stochastic"``.',
        EVERYWHERE,
    ),
    StepOption(
        "seed", 0, "int", check_seed, "optimizer",
        "Key of the noise of stochastic rounding.",
        EVERYWHERE,
    ),
    StepOption(
        "first", 0, "int", check_seed, "call",
        "Number of the first tensor in the noise of stochastic rounding.",
        (FUNCTIONS,),
    ),
    StepOption(
        "memory", None, "Memory", None, "constructor",
        "Where states, masters and averages live: None for ordinary memory; the path of a folder, for files without a "
        "name that are mapped; or a function that takes a number of bytes and returns a writeable buffer of them.",
        (NUMPY,),
    ),
)  # fmt: skip
"""In the order of groups and state dicts."""


def options_of(face: str, *per: str) -> dict[str, Any]:
    """Names and default values of the options that a face takes, of these scopes or of all."""
    return {
        option.name: option.default
        for option in STEP_OPTIONS
        if face in option.faces and (not per or option.per in per)
    }


def described(face: str) -> str:
    """The options that a face takes as a section of a docstring; classes have no types there, as numpydoc allows."""
    lines = []
    for option in STEP_OPTIONS:
        if face in option.faces:
            of_function = (option.type, option.text) if option.arrays is None else option.arrays
            kind, text = of_function if face == FUNCTIONS else ("", option.text)
            lines.append(f"{option.name} : {kind}" if kind else option.name)
            lines += textwrap.wrap(text, 108, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


GROUP_OPTIONS = options_of(NUMPY, "group", "storage")
"""Options that a parameter group may have for itself."""

GROUP_VALUES = tuple(options_of(NUMPY, "group"))
"""What a step reads of a parameter group beside the rule's hyper-parameters."""

STORAGE = tuple(options_of(NUMPY, "storage"))
"""How a group's arrays were made: these cannot be changed afterwards, and loading leaves them."""

MODEL_OPTIONS = options_of(NUMPY, "optimizer")
"""Options of the whole optimizer, which belong to no group."""
