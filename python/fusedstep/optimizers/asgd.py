"""Averaged stochastic gradient descent."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["ASGD"]


class ASGD(Optimizer):
    r"""Gradient descent at a falling learning rate that also averages the parameters, as ``torch.optim.ASGD``.

    .. math::
        g &\leftarrow g + \lambda p \\
        p &\leftarrow (1 - \Lambda \eta_t) p - \eta_t g \\
        \bar p &\leftarrow \bar p + \mu_t (p - \bar p) \quad (\bar p \leftarrow p \text{ while } \mu_t = 1) \\
        \eta_{t+1} &= \eta / (1 + \Lambda \eta t)^\alpha, \quad \mu_{t+1} = 1 / \max(1, t - t_0)

    Polyak and Juditsky (1992), "Acceleration of stochastic approximation by averaging", equation 3; step size
    and start of the average as in Bottou (2012), "Stochastic gradient descent tricks", section 5.

    Parameters
    ----------
    lambd, alpha
        Decay :math:`\Lambda`, and the power of its growth in the step size.
    t0
        Step after which averaging starts.
    weight_decay
        L2 penalty :math:`\lambda`.
    """

    rule = "asgd"
