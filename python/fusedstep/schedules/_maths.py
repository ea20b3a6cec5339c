"""Powers and cosines whose last bit does not depend on the machine's libm."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, Context, Decimal

__all__ = ["cospi", "power"]

# Decimal arithmetic is done in software, so its digits are the same everywhere; 36 of them leave
# the double closest to the true power in all but about one case in 10**18. Everything is given, since what is left
# out comes from decimal.DefaultContext, which anyone may change.
_CONTEXT = Context(
    prec=36, rounding=ROUND_HALF_EVEN, Emin=-999999, Emax=999999, capitals=1, clamp=0, flags=[], traps=[]
)


def power(base: float, exponent: float) -> float:
    """`base**exponent` rounded once to double, for ``base >= 0`` and ``exponent >= 0``.

    Examples
    --------
    >>> power(0.95, 2)
    0.9025
    """
    if exponent == 0:
        return 1.0
    if base == 0.0 or base == 1.0:
        return base
    # from_float, unlike Decimal(...), does not ask the caller's context whether a float may be given
    return float(_CONTEXT.power(Decimal.from_float(base), Decimal.from_float(exponent)))


def _taylor(first: int, terms: int) -> tuple[float, ...]:
    # highest order first, as Horner's scheme consumes them
    return tuple((-1.0) ** n / math.factorial(2 * n + first) for n in reversed(range(terms)))


_COSINE, _SINE = _taylor(0, 10), _taylor(1, 10)  # next term at pi/4: below 1e-20 of the sum


def cospi(x: float) -> float:
    """``cos(pi * x)`` for ``0 <= x <= 1``, from additions and multiplications only.

    Exact at 0, 1/2 and 1, odd about 1/2, and within 2 units in the last place elsewhere.

    Examples
    --------
    >>> cospi(0.0), cospi(0.5), cospi(1.0)
    (1.0, 0.0, -1.0)
    """
    sign = 1.0
    if x > 0.5:
        x, sign = 1.0 - x, -1.0
    coefficients, angle = (_COSINE, math.pi * x) if x <= 0.25 else (_SINE, math.pi * (0.5 - x))
    square = angle * angle
    total = 0.0
    for coefficient in coefficients:
        total = total * square + coefficient
    return sign * (total if x <= 0.25 else total * angle)
