"""Rectified Adam."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["RAdam"]


class RAdam(Optimizer):
    r"""Adam whose early steps allow for the variance of its second moment, as ``torch.optim.RAdam``.

    .. math::
        g &\leftarrow g + \lambda p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        \rho_\infty &= 2 / (1 - \beta_2) - 1, \quad \rho = \rho_\infty - 2 t \beta_2^t / (1 - \beta_2^t) \\
        r &= \sqrt{\frac{(\rho - 4)(\rho - 2) \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2) \rho}} \\
        p &\leftarrow p - \frac{\eta}{1 - \beta_1^t} m \cdot r \sqrt{1 - \beta_2^t} / (\sqrt{v} + \epsilon)
            \quad (p - \frac{\eta}{1 - \beta_1^t} m \text{ while } \rho \le 5)

    Liu et al. (2020), "On the variance of the adaptive learning rate and beyond", algorithm 2, with torch's
    threshold of 5.

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        L2 penalty :math:`\lambda`.
    decoupled_weight_decay
        Shrink the parameter instead, as `adamw` does.
    """

    rule = "radam"
