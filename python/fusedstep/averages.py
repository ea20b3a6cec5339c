"""The exponentially weighted moving average, on its own."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ._arguments import flag, number, real, whole
from ._floats import default_floats
from ._held import check_held
from ._restoring import restoring
from .formats import is_bfloat16

__all__ = ["ExponentialAverage"]

# what goes in comes out: a number gives a float, an array an array of its shape
Observation = TypeVar("Observation", float, NDArray[Any])


class ExponentialAverage:
    """``v = beta * v + (1 - beta) * x``, starting from ``v = 0``, optionally corrected for that start.

    An observation that lies `k` updates back has the weight ``(1 - beta) * beta**k``, so the average looks
    back over about ``1 / (1 - beta)`` observations: after that many, a weight has fallen to about ``1/e`` of
    the newest one's, since ``beta**(1 / (1 - beta))`` tends to ``1/e``. So 0.5 averages about 2 observations,
    0.9 about 10, 0.98 about 50 (see `window`).

    After `t` updates the weights sum to ``1 - beta**t`` only, and the average lies too near to 0 while `t` is
    below the window. Bias correction divides by that sum: the first value is then the first observation
    itself, and later the correction fades to nothing. It is how Adam starts: Kingma and Ba, *Adam: A Method
    for Stochastic Optimization*, ICLR 2015 (arXiv:1412.6980), section 3.

    Parameters
    ----------
    beta : float
        The share of the average that is kept at each update, from 0 to below 1.
    bias_correction : bool, default True
        Whether values are divided by ``1 - beta**t``.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or out of bounds.

    Examples
    --------
    >>> average = ExponentialAverage(0.9)
    >>> [round(average.update(x), 3) for x in (10.0, 20.0, 30.0)]
    [10.0, 15.263, 20.701]
    >>> raw = ExponentialAverage(0.9, bias_correction=False)
    >>> [round(raw.update(x), 3) for x in (10.0, 20.0, 30.0)]
    [1.0, 2.9, 5.61]
    """

    def __init__(self, beta: float, bias_correction: bool = True) -> None:
        self.beta = real("beta", beta, low=0.0, below=1.0)
        self.bias_correction = flag("bias_correction", bias_correction)
        self.count = 0
        # the sum of the weights, by the recursion of the average itself: equal to 1 - beta**count, and a
        # constant observation leaves a corrected average that is constant to the last bits
        self._weight = 0.0
        self._average: Any = 0.0

    @property
    def window(self) -> float:
        """About how many observations count: ``1 / (1 - beta)``."""
        return 1.0 / (1.0 - self.beta)

    @property
    @default_floats()
    def value(self) -> Any:
        """The average after the last update: a float, or a new array.

        Raises
        ------
        ValueError
            Before the first update.
        """
        if self.count == 0:
            raise ValueError("value: there is no average before the first update")
        value = self._average / self._weight if self.bias_correction else self._average
        return value.copy() if value is self._average and isinstance(value, np.ndarray) else value

    @default_floats()
    def update(self, x: Observation, /) -> Observation:
        """Take one more observation in and return the average with it.

        Parameters
        ----------
        x : float or ndarray
            A real number, or a real array; every observation of one average has the same shape. A float32 or
            float64 array is averaged in its own type, any other in float64.

        Returns
        -------
        float or ndarray
            `value`, new memory in the case of an array.

        Raises
        ------
        TypeError
            If `x` is not real, or a masked array.
        ValueError
            If its shape is not that of the observations before; the average is as it was.
        """
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError("x: got a masked array, needs a real number or array; use x.filled(value)")
        check_held(x, "x")
        new = np.asarray(x)
        if new.dtype.kind not in "fiu" and not is_bfloat16(new.dtype):
            raise TypeError(f"x: got dtype {new.dtype}, needs a real number or array")
        if self.count and new.shape != np.shape(self._average):
            raise ValueError(f"x: got the shape {new.shape}, needs {np.shape(self._average)} of the average")
        if new.ndim == 0:
            self._average = self.beta * self._average + (1.0 - self.beta) * float(new)
        else:
            kept = new.dtype if new.dtype in (np.float32, np.float64) else np.dtype(np.float64)
            beta, rest = kept.type(self.beta), kept.type(1.0 - self.beta)
            self._average = beta * self._average + rest * new.astype(kept)
        self._weight = self.beta * self._weight + (1.0 - self.beta)
        self.count += 1
        return self.value

    def __setstate__(self, state: dict[str, Any]) -> None:
        with restoring(self, state, ("beta", "bias_correction", "count", "_weight", "_average")):
            made = ExponentialAverage(state["beta"], state["bias_correction"])
            count = whole("count", state["count"])
            weight = real("_weight", state["_weight"], low=0.0, above=0.0 if count else -1.0)
            average = state["_average"]
            if not isinstance(average, np.ndarray) or average.dtype not in (np.float32, np.float64):
                average = number("_average", average)
            vars(self).update({**state, **vars(made), "count": count, "_weight": weight, "_average": average})

    def __repr__(self) -> str:
        correction = "" if self.bias_correction else ", bias_correction=False"
        return f"ExponentialAverage({self.beta!r}{correction})"
