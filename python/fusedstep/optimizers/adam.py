"""Adam and AdamW."""

from __future__ import annotations

from .._base import Optimizer

__all__ = ["Adam", "AdamW"]


class Adam(Optimizer):
    r"""The average gradient over the root of the average square, as ``torch.optim.Adam``.

    .. math::
        m &\leftarrow \beta_1 m + (1 - \beta_1) g, \quad \hat m = m / (1 - \beta_1^t) \\
        v &\leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad \hat v = v / (1 - \beta_2^t) \\
        p &\leftarrow p - \eta \hat m / (\sqrt{\hat v + \epsilon_{root}} + \epsilon)

    Kingma and Ba (2015), "Adam: a method for stochastic optimization", algorithm 1; AMSGrad: Reddi et al. (2018), "On
    the convergence of Adam and beyond", algorithm 2.

    Parameters
    ----------
    eps
        Added outside the square root.
    weight_decay
        L2 penalty, added to the gradient.
    amsgrad
        Divide by the largest second moment so far.
    eps_root
        Added inside the square root.
    """

    rule = "adam"


class AdamW(Optimizer):
    r"""Adam with decoupled weight decay, as ``torch.optim.AdamW``.

    :math:`p \leftarrow (1 - \eta \lambda) p`, then the step of `Adam` with a gradient that knows nothing of the decay.
    Loshchilov and Hutter (2019), "Decoupled weight decay regularization", algorithm 2, with the decay scaled by the
    learning rate as in torch and optax.

    Parameters
    ----------
    eps
        Added outside the square root.
    weight_decay
        Decay :math:`\lambda` of the parameter.
    amsgrad
        Divide by the largest second moment so far.
    eps_root
        Added inside the square root.
    """

    rule = "adamw"
