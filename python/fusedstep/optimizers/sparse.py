"""Adam for embedding tables."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["SparseAdam"]


class SparseAdam(Optimizer):
    r"""Adam on the rows that have a gradient, as ``torch.optim.SparseAdam``.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \, m / (\sqrt{v} + \epsilon)

    The other rows of the parameter and of both moments stay as they are. Kingma and Ba (2015), "Adam: a method for
    stochastic optimization", in the order of computation at the end of section 2, which leaves epsilon unscaled.

    Parameters
    ----------
    eps
        Added to the square root.
    """

    rule = "sparse_adam"
