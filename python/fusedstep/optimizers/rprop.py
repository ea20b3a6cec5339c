"""Resilient backpropagation."""

from __future__ import annotations

from typing import Any

from .._base import Optimizer, shared_option

__all__ = ["Rprop"]


class Rprop(Optimizer):
    r"""A step size for every element, grown and shrunk by the signs of gradients, as ``torch.optim.Rprop``.

    .. math::
        \eta &\leftarrow \eta_+ \eta \text{ if } g g' > 0, \; \eta_- \eta \text{ if } g g' < 0 \\
        \eta &\leftarrow \min(\max(\eta, \eta_{min}), \eta_{max}) \\
        g &\leftarrow 0 \text{ if } g g' < 0 \\
        p &\leftarrow p - \eta \, \mathrm{sign}(g), \quad g' \leftarrow g

    Riedmiller and Braun (1993), "A direct adaptive method for faster backpropagation learning: the RPROP
    algorithm"; after a change of sign the parameter stays and the gradient is forgotten: Igel and Huesken
    (2000), "Improving the Rprop learning algorithm", section 2.2.

    Parameters
    ----------
    lr
        First step size of every element; later changes have no effect.
    etas
        Factors :math:`\eta_-` in (0, 1) and :math:`\eta_+` above 1.
    step_sizes
        Smallest and largest step size.
    """

    rule = "rprop"

    @property
    def lr(self) -> Any:
        """The first step size of every element; the steps change it, not the caller."""
        return shared_option(self, "lr")

    @lr.setter
    def lr(self, value: Any) -> None:
        raise AttributeError("lr: is the first step size, which an Rprop that was made does not use; make a new one")
