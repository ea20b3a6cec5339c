"""AdEMAMix."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["AdEMAMix"]


class AdEMAMix(Optimizer):
    r"""Adam with a fast and a slow average of gradients, as the authors' package.

    .. math::
        m_1 &\leftarrow \beta_1 m_1 + (1 - \beta_1) g \\
        m_2 &\leftarrow \beta_3(t) m_2 + (1 - \beta_3(t)) g \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \eta \left( \frac{m_1}{1 - \beta_1^t} + \alpha(t) m_2 \right) /
            \left( \sqrt{v / (1 - \beta_2^t)} + \epsilon \right)

    During their warm-ups of :math:`T` steps, :math:`\alpha(t) = \alpha t / T`, and :math:`1 / \ln \beta_3(t)` moves
    linearly from :math:`1 / \ln \beta_1` to :math:`1 / \ln \beta_3`. Pagliardini, Ablin and Grangier (2024), "The
    AdEMAMix optimizer: better, faster, older", algorithm 1 and equations 2 and 3.

    Parameters
    ----------
    betas
        Weights :math:`\beta_1, \beta_2, \beta_3` of the old fast, second and slow moment, in [0, 1).
    alpha
        Weight :math:`\alpha` of the slow moment.
    eps
        Added to the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    alpha_warmup, beta3_warmup
        Steps :math:`T` over which :math:`\alpha` grows from 0, and :math:`\beta_3` from :math:`\beta_1`; 0 for
        none. The paper takes all steps of the training for both.
    """

    rule = "ademamix"
