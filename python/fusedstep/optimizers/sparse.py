"""Adam for embedding tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base import Number, Optimizer, Options, Structure

if TYPE_CHECKING:
    from typing_extensions import Unpack

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
    params
        Parameters or groups of them (see `Optimizer`).
    lr
        Learning rate :math:`\eta`.
    betas
        Weights :math:`\beta_1, \beta_2` of the old moments, in [0, 1).
    eps
        Added to the square root.
    **options
        Options of every optimizer (see `Optimizer`).
    """

    rule = "sparse_adam"

    def __init__(
        self,
        params: Structure,
        lr: Number = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: Number = 1e-8,
        **options: Unpack[Options],
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps}
        super().__init__(params, defaults, options)
