"""What is looked for in machine code."""

from __future__ import annotations

import re


def rounded_once(code: str) -> tuple[list[str], list[str]]:
    """The fused multiply-adds in a disassembly: of doubles where squares of float32 are summed, and all others.

    A double holds the square of a float32, so that rounding once or twice is the same: plus_square() in
    cpp/kernels/kernels.cpp.
    """
    summing = re.compile(
        r"(sum_squares|add_squares|add_gradient|add_update)<float>|(add_squares_of<|direction<.*, )float, "
    )
    of_squares: list[str] = []
    others: list[str] = []
    for function in code.split("\n\n"):
        sums = summing.search(function.strip().partition("\n")[0])
        for line in re.findall(r"\tvfn?m(?:add|sub)\S*.*", function):
            (of_squares if sums and re.match(r"\tvfmadd...[ps]d", line) else others).append(line)
    return of_squares, others
