"""Prodigy."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Prodigy"]


class Prodigy(Optimizer):
    r"""Adam that estimates its learning rate from the whole model, as the authors' package (``prodigyopt``).

    .. math::
        \gamma &= d \eta \quad \left( d \eta \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)
            \text{ with bias correction} \right) \\
        r &\leftarrow \sqrt{\beta_2} \, r + \frac{d}{d_0} \gamma \langle g, p_0 - p \rangle \\
        s &\leftarrow \sqrt{\beta_2} \, s + \frac{d}{d_0} \gamma g \quad
            \left( \frac{d^2}{d_0} g \text{ with the safeguard} \right) \\
        m &\leftarrow \beta_1 m + (1 - \beta_1) d g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) d^2 g^2 \\
        \hat d &= c \, r / \|s\|_1, \quad d_{max} \leftarrow \max(d_{max}, \hat d), \quad
            d \leftarrow \min(d_{max}, \rho d) \\
        p &\leftarrow (1 - \gamma \lambda) p - \gamma m / (\sqrt v + d \epsilon)

    Mishchenko and Defazio (2023), "Prodigy: an expeditiously adaptive parameter-free learner", algorithm 4. The
    product :math:`\langle g, p_0 - p \rangle` and the norm of :math:`s` go over all parameters that have a gradient,
    in a fixed order: the same bits on any number of threads. While :math:`d` is :math:`d_0`, it becomes
    :math:`\hat d` before it grows, if that is larger.

    The estimate is kept with every parameter, as scalars ``d``, ``d_max`` and ``d_numerator`` (:math:`r`) of its state,
    which are the same for all. A group whose learning rate is 0 rests: it has no part in the sums, and its states wait.

    Parameters
    ----------
    lr
        Learning rate :math:`\eta`, a factor of the estimate: 1, or a schedule that ends there or falls from there.
    eps
        Added to the square root, as a multiple of :math:`d`.
    weight_decay
        Decay :math:`\lambda` of the parameter, decoupled from the gradient.
    decoupled_weight_decay
        False: an L2 penalty instead.
    bias_correction
        Correct the moments for their start at zero, as `Adam`.
    safeguard_warmup
        Leave the learning rate out of :math:`s`, for schedules with a warm-up.
    d0
        First estimate :math:`d_0`.
    d_coef
        Factor :math:`c` of the estimate: the one to tune.
    growth_rate
        Largest factor :math:`\rho` by which the estimate grows in a step, at least 1.
    """

    rule = "prodigy"
