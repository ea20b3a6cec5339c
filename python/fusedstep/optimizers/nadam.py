"""Adam with Nesterov momentum."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["NAdam"]


class NAdam(Optimizer):
    r"""Adam with Nesterov momentum, as ``torch.optim.NAdam``.

    .. math::
        \mu_t &= \beta_1 (1 - \tfrac12 0.96^{t \psi}), \quad \Pi \leftarrow \Pi \mu_t \\
        g &\leftarrow g + \lambda p \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow p - \eta \left( \frac{1 - \mu_t}{1 - \Pi} g
            + \frac{\mu_{t+1}}{1 - \Pi \mu_{t+1}} m \right)
            / \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    Dozat (2016), "Incorporating Nesterov momentum into Adam", algorithm 2 with the momentum schedule of
    Sutskever et al. (2013).

    Parameters
    ----------
    eps
        Added to the square root.
    weight_decay
        L2 penalty :math:`\lambda`.
    momentum_decay
        Rate :math:`\psi` at which the momentum rises.
    decoupled_weight_decay
        Shrink the parameter instead, as `adamw` does.
    """

    rule = "nadam"
